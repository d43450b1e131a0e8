"""Power analysis: the smallest true difference that a comparison detects with a given probability, known in advance.

Sources: Cohen 1988, Statistical power analysis for the behavioral sciences, chapter 2 (t tests of means); Miettinen
1968, The matched pairs design in the case of all-or-none responses; Kish 1965, Survey sampling (design effect); Miller
2024, Adding error bars to evals, section 5 (power analysis).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import nctdtrinc, ndtri, stdtrit

from tunelab.errors import DataError
from tunelab.statistics.units import check_share


def detectable_difference(
    n: int, deviation: float, *, design_effect: float = 1.0, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest true mean difference that a paired comparison of n items detects with this power, in the values' unit.

    (z_{1 - alpha/2} + z_power) * deviation * sqrt(design_effect / n), by the normal approximation.

    Args:
        n: number of items.
        deviation: standard deviation of the items' differences b - a.
        design_effect: factor by which clusters increase the squared error (cluster_design_effect).
        alpha: two-sided; for one comparison in a family of m, alpha / m is safe.
        power: probability of detecting it.

    Raises:
        DataError: n < 1, deviation < 0, design_effect <= 0, or alpha or power is not in (0, 1).
    """
    _check_design(n, design_effect, alpha, power)
    if not (math.isfinite(deviation) and deviation >= 0):
        raise DataError(f"deviation is {deviation}: expected a finite number of 0 or more")
    return -float(ndtri(alpha / 2) + ndtri(1 - power)) * deviation * math.sqrt(design_effect / n)


def detectable_effect(n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true mean difference that a paired t test of n items detects with this power, in standard deviations of
    the items' differences (Cohen's d_z).

    The power is the noncentral t's upper tail beyond the critical value; the noncentrality is d sqrt(n). For small
    alpha and few items the result is clearly larger than the normal approximation of detectable_difference. Needs no
    answers, but the standard deviation in nats or points is known only once rows were answered.

    Args:
        n: number of items.
        alpha: two-sided; for one comparison in a family of m, alpha / m is safe.
        power: probability of detecting it.

    Raises:
        DataError: n < 2, or alpha or power is not in (0, 1).
    """
    if n < 2:
        raise DataError(f"{n} item{'s' if n != 1 else ''}: expected 2 or more to estimate an error")
    check_share("alpha", alpha)
    check_share("power", power)
    critical = -float(stdtrit(n - 1, alpha / 2))
    return float(nctdtrinc(n - 1, 1 - power, critical)) / math.sqrt(n)


def detectable_accuracy_difference(
    n: int, discordance: float, *, design_effect: float = 1.0, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Smallest true difference of two accuracies (0 to 1) that McNemar's test on n items detects with this power.

    Miettinen: n d² = (z_{1 - alpha/2} sqrt(discordance) + z_power sqrt(discordance - d²))², solved for d. A difference
    cannot exceed the discordance; if it would, the discordance is set to the difference. Needs only an assumption
    about the discordance and no answers, so it can be computed before anything runs.

    Args:
        n: number of items.
        discordance: share of items that exactly one of the two answers right. 0.1 is typical of a model before and
            after light tuning, 0.3 for unrelated models.
        design_effect, alpha, power: as in detectable_difference.

    Returns:
        The difference; None if n items cannot show any difference, not even 0 % against 100 %.

    Raises:
        DataError: n < 1, discordance outside 0 to 1, design_effect <= 0, or alpha or power is not in (0, 1).
    """
    _check_design(n, design_effect, alpha, power)
    if not 0 <= discordance <= 1:
        raise DataError(f"discordance is {discordance}: expected a share of the items, 0 to 1")
    items, z_alpha, z_power = n / design_effect, -float(ndtri(alpha / 2)), -float(ndtri(1 - power))
    inside = items - z_alpha**2 + z_power**2
    if inside < 0:
        return None
    # The equation is homogeneous: d = s sqrt(discordance), where s solves it for a discordance of 1.
    scale = (z_alpha * math.sqrt(items) + z_power * math.sqrt(inside)) / (items + z_power**2)
    found = scale * max(math.sqrt(discordance), scale)
    return found if found <= 1 else None


def cluster_design_effect(sizes: Sequence[int], correlation: float) -> float:
    """Factor by which clusters increase the squared error of a mean: 1 + (m - 1) correlation, Kish's design effect.

    Args:
        sizes: items of each cluster; m is the item-weighted mean size, sum(sizes²) / sum(sizes).
        correlation: of two items' differences within a cluster, 0 to 1.

    Raises:
        DataError: no sizes, a size below 1, or a correlation outside 0 to 1.
    """
    if not sizes or min(sizes) < 1:
        raise DataError(f"cluster sizes {list(sizes)[:5]}: expected at least one, each of 1 or more items")
    if not 0 <= correlation <= 1:
        raise DataError(f"correlation within clusters is {correlation}: expected 0 to 1")
    return 1 + (sum(size**2 for size in sizes) / sum(sizes) - 1) * correlation


def _check_design(n: int, design_effect: float, alpha: float, power: float) -> None:
    if n < 1:
        raise DataError(f"{n} items: expected 1 or more")
    if not (math.isfinite(design_effect) and design_effect > 0):
        raise DataError(f"design effect is {design_effect}: expected a number above 0; 1 = items are independent")
    check_share("alpha", alpha)
    check_share("power", power)
