"""Paired tests: is b better than a on the same items, and how certain is that?

Differences are always b - a, and item i of a is item i of b. Variation that both models share cancels out, so a paired
comparison detects smaller differences than the errors of the two scores suggest.

Sources:
    McNemar 1947, Note on the sampling error of the difference between correlated proportions; its exact form as in
        Fagerland, Lydersen, Laake 2013, The McNemar test for binary matched-pairs data.
    Bonett and Price 2012, Adjusted Wald confidence interval for a difference of binomial proportions based on paired
        data; recommended by Fagerland, Lydersen, Laake 2014, Recommended tests and confidence intervals for paired
        binomial proportions.
    Clopper and Pearson 1934, The use of confidence or fiducial limits illustrated in the case of the binomial.
    Miller 2024, Adding error bars to evals, section 4.2 (paired differences).
    Holm 1979, A simple sequentially rejective multiple test procedure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import bdtr, ndtri, stdtrit

from tunelab.errors import DataError
from tunelab.statistics.proportions import binomial_interval
from tunelab.statistics.units import CONFIDENCE, Units, check_share


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test of equal accuracy, from the discordant items: those only one answers right.

    Under the null hypothesis each discordant item goes to either side with probability 1/2: p = 2 P(X <= min) for X
    binomial with only_a + only_b trials, at most 1. Items are assumed independent.

    Args:
        only_a: items that a answers right and b wrong.
        only_b: items that b answers right and a wrong.

    Raises:
        DataError: a count is negative.
    """
    if only_a < 0 or only_b < 0:
        raise DataError(f"{only_a} and {only_b} discordant items: expected counts of 0 or more")
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def discordant_interval(only_a: int, only_b: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Confidence interval of the difference of two accuracies on the same items, which excludes 0 exactly if McNemar's
    test rejects at this level.

    Bonett and Price: with one answer added to each discordant cell, p_a = (only_a + 1) / (n + 2) and p_b likewise, it
    is p_b - p_a ± z sqrt((p_a + p_b - (p_b - p_a)²) / (n + 2)), clipped to -1 and 1. Its width is not 0 even without
    discordant items. Where it and the exact test disagree about 0, the end next to 0 is that of the exact test: Clopper
    and Pearson's of the share of discordant items that go to b. Items are assumed independent.

    Raises:
        DataError: counts are negative or exceed n, or confidence is not in (0, 1).
    """
    if min(only_a, only_b) < 0 or only_a + only_b > n or n < 1:
        raise DataError(
            f"{only_a} and {only_b} discordant items of {n}: expected counts of 0 or more, together at most n"
        )
    check_share("confidence", confidence)
    lost, gained = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    centre = gained - lost
    half = -float(ndtri((1 - confidence) / 2)) * math.sqrt((lost + gained - centre**2) / (n + 2))
    exact = tuple(
        (2 * share - 1) * (only_a + only_b) / n for share in binomial_interval(only_b, only_a + only_b, confidence)
    )
    return agreeing_interval((max(-1.0, centre - half), min(1.0, centre + half)), (exact[0], exact[1]))


def agreeing_interval(wide: tuple[float, float], tested: tuple[float, float]) -> tuple[float, float]:
    """The interval `wide`; where it disagrees with a test's own interval about 0, the end next to 0 is the test's."""
    low, high = wide
    if (wide[0] > 0) != (tested[0] > 0):
        low = tested[0]
    if (wide[1] < 0) != (tested[1] < 0):
        high = tested[1]
    return low, high


def student_interval(units: Units, confidence: float) -> tuple[float, float]:
    """Student's t interval of a mean difference; clusters of unequal size count as fewer units (Units.effective)."""
    half = -float(stdtrit(units.effective - 1, (1 - confidence) / 2)) * units.error
    return units.mean - half, units.mean + half


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p of each comparison of a family, in the given order; compare each directly with alpha.

    Sorted p_(1) <= ... <= p_(m) become max over j <= i of (m - j + 1) p_(j), at most 1. This keeps the probability of
    any false positive in the family below alpha, however the comparisons depend on each other.

    Raises:
        DataError: a p is outside 0 to 1.
    """
    for place, p in enumerate(p_values):
        if not 0 <= p <= 1:
            raise DataError(f"p_values[{place}] is {p}: expected 0 to 1")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
