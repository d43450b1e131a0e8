"""Power analysis: the minimum detectable difference, reckoned for the tests that comparisons use.

A true difference of this size is shown with a probability of 80 % (the power). It is no bound: a smaller observed
difference may well be significant, and a smaller true one is found less often.

Sources: Cohen 1988, Statistical power analysis for the behavioral sciences, chapter 2 (paired tests of means); Duffy
1984, Asymptotic and exact power for the McNemar test and its analogue with R controls per case (the exact power).
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy.special import bdtr, bdtrik, nctdtrinc, stdtrit

from tunelab.errors import DataError
from tunelab.statistics.permutation import SWAPS, all_swaps_of, drawn_subsets, smallest_p
from tunelab.statistics.units import Array, check_share

#: Numbers of discordant items that are looked at together.
_BLOCK = 128

#: Simulated samples of few units.
_SAMPLES = 2000


@functools.lru_cache(maxsize=256)
def detectable_effect(units: int, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest true mean difference that the paired permutation test detects with this power, in standard deviations of
    the differences (Cohen's d_z), if these are normal.

    From 14 units on the test has the power of Student's t-test: the noncentral t's upper tail beyond its critical
    value. Fewer units have so few swaps that the test's level is well below alpha: their power is simulated. Needs no
    answers, but the standard deviation in nats or points is known only once rows were answered.

    Args:
        units: number of items, or of clusters.
        alpha: two-sided; for one comparison in a family of m, alpha / m is safe.
        power: probability of detecting it.

    Returns:
        The difference; None if no difference of so few units is significant at this alpha, however large.

    Raises:
        DataError: units < 2, or alpha or power is not in (0, 1).
    """
    if units < 2:
        raise DataError(f"{units} item{'s' if units != 1 else ''}: expected 2 or more to estimate an error")
    check_share("alpha", alpha)
    check_share("power", power)
    if smallest_p(units) >= alpha:
        return None
    if units not in all_swaps_of(SWAPS):
        critical = -float(stdtrit(units - 1, alpha / 2))
        return float(nctdtrinc(units - 1, 1 - power, critical)) / math.sqrt(units)
    return float(np.quantile(_distances_to_interval(units, alpha), power))


def _distances_to_interval(units: int, alpha: float) -> Array:
    """How far the test's interval reaches below 0 in simulated samples whose mean is 0, [samples].

    A sample shifted by more than this is significant, so the power at a shift is the share of smaller distances.
    """
    subsets = np.concatenate(list(drawn_subsets(units, SWAPS, 0)))[1:]
    samples = np.random.default_rng(0).normal(size=(units, _SAMPLES))
    # Significant: 2 (1 + subsets with a mean of 0 or less) / all swaps < alpha.
    place = math.ceil(alpha * 2**units / 2) - 2
    weights = subsets / subsets.sum(axis=1, keepdims=True)
    return -np.concatenate(
        [np.partition(weights @ part, place, axis=0)[place] for part in np.split(samples, 20, axis=1)]
    )


@functools.lru_cache(maxsize=256)
def detectable_accuracy_difference(
    n: int, discordance: float, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Smallest true difference of two accuracies (0 to 1) that McNemar's exact test on n items detects with this power.

    The power is exact: the number of discordant items is binomial, and so are those among them that go to one side.
    A difference cannot exceed the discordance; if it would, the discordance is set to the difference. Needs only an
    assumption about the discordance and no answers, so it can be computed before anything runs.

    Args:
        n: number of items.
        discordance: share of items that exactly one of the two answers right. 0.1 is typical of a model before and
            after light tuning, 0.3 for unrelated models.
        alpha: two-sided; for one comparison in a family of m, alpha / m is safe.
        power: probability of detecting it.

    Returns:
        The difference; None if n items cannot show any difference, not even 0 % against 100 %.

    Raises:
        DataError: n < 1, discordance outside 0 to 1, or alpha or power is not in (0, 1).
    """
    if n < 1:
        raise DataError(f"{n} items: expected 1 or more")
    if not 0 <= discordance <= 1:
        raise DataError(f"discordance is {discordance}: expected a share of the items, 0 to 1")
    check_share("alpha", alpha)
    check_share("power", power)
    if mcnemar_power(n, 1.0, 1.0, alpha=alpha) < power:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        enough = mcnemar_power(n, middle, max(discordance, middle), alpha=alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def mcnemar_power(n: int, difference: float, discordance: float, *, alpha: float = 0.05) -> float:
    """Probability that McNemar's exact test on n items has p < alpha.

    Args:
        difference: of the two accuracies, 0 to `discordance`.
        discordance: share of items that exactly one of the two answers right.
    """
    spread = 8 * math.sqrt(n * discordance * (1 - discordance)) + 20  # beyond it are fewer than 1e-9 of all studies
    first, last = (math.floor(n * discordance + side * spread) for side in (-1, 1))
    counts = np.arange(max(0, first), min(n, last) + 1)  # of discordant items
    below = bdtr(counts, n, discordance)
    weights = np.diff(below, prepend=bdtr(counts[0] - 1, n, discordance) if counts[0] else 0.0)
    most = _most_on_the_rarer_side(int(counts[0]), int(counts[-1]), alpha)
    possible = most >= 0
    gained = (1 + difference / discordance) / 2 if discordance else 0.5
    rejected = sum(bdtr(most[possible], counts[possible], share) for share in (gained, 1 - gained))
    return float((weights[possible] * rejected).sum())


def _most_on_the_rarer_side(first: int, last: int, alpha: float) -> Array:
    """The most items that the rarer side may have for p < alpha, for each number of discordant items from the first to
    the last; -1 = none."""
    block = first // _BLOCK
    blocks = [_most_in_block(number, alpha) for number in range(block, last // _BLOCK + 1)]
    return np.concatenate(blocks)[first - block * _BLOCK : last + 1 - block * _BLOCK]


@functools.lru_cache(maxsize=1024)
def _most_in_block(block: int, alpha: float) -> Array:
    """The same for a block of numbers; the search for a detectable difference asks for each many times."""
    counts = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
    # bdtrik solves a continuous equation, so its solution may be off by one.
    near = np.floor(np.nan_to_num(bdtrik(alpha / 2, counts, 0.5))) + np.array([[-1.0], [0.0], [1.0]])
    fits = (near >= 0) & (near <= counts) & (2 * bdtr(np.clip(near, 0, counts), counts, 0.5) < alpha)
    return np.asarray(np.where(fits, near, -1.0).max(axis=0))
