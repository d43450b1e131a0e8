"""The paired bootstrap: a confidence interval of a mean difference without assumptions about its distribution.

Sources:
    Efron 1987, Better bootstrap confidence intervals (BCa); Efron and Tibshirani 1993, An introduction to the
        bootstrap, sections 14.3 (the interval) and 15.4 (a test by inverting it).
    Hesterberg 2015, What teachers should know about the bootstrap (arXiv:1411.5279), on expanded percentiles: the
        bootstrap divides the squared deviations by n, not n - 1, and uses the normal instead of Student's t; moving the
        percentiles outward corrects both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from tunelab.errors import DataError
from tunelab.statistics.units import CONFIDENCE, Array, Difference, Units, check_share, gather_units

BootstrapMethod = Literal["bca", "percentile"]

RESAMPLES = 10_000

#: Resampled units held in memory at a time, 8 bytes each: 10,000 x 14,042 at once would take a gigabyte.
_AT_ONCE = 2**18


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    method: BootstrapMethod = "bca",
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    widened: bool = True,
) -> Difference:
    """Mean difference with a bootstrap interval; resamples pairs, or whole clusters of pairs.

    p is found by inverting the interval: the smallest alpha at which the interval of confidence 1 - alpha excludes 0
    (Efron and Tibshirani, section 15.4), so interval and p agree up to the resolution of the resamples. The share of
    resamples beyond 0 is at least 1 / (resamples + 1), which bounds p from below (2e-4 for 10,000).

    Args:
        a, b: one value per item, in the same order.
        clusters: of each item; None = items are independent.
        method: "bca" (corrected for bias and skewness) or "percentile".
        resamples: how many; with fewer than 1,000 the tails are unreliable.
        seed: of the resampling; the same seed gives the same numbers. Swapping a and b only flips the sign.
        confidence: of the interval.
        widened: move percentiles outward to keep the coverage with few units (Hesterberg); clusters of unequal size
            counting as fewer (Units.effective); False = textbook BCa.

    Raises:
        DataError: lengths differ, a value is not finite, there are fewer than two units, resamples < 100, confidence
            is not in (0, 1), or the method is unknown.
    """
    check_share("confidence", confidence)
    check_resamples(resamples)
    if method not in ("bca", "percentile"):
        raise DataError(f"bootstrap method {method!r}: expected 'bca' or 'percentile'")
    units = gather_units(a, b, clusters)
    value, drawn, effective = units.mean, len(units.sums), units.effective
    means = _resampled_means(units, resamples, np.random.default_rng(seed))
    bias, skew = _bias_and_skew(units, means) if method == "bca" else (0.0, 0.0)
    widening = math.sqrt(effective / (effective - 1)) if widened else 1.0
    tail = (1 - confidence) / 2
    reach = widening * -float(stdtrit(effective - 1, tail) if widened else ndtri(tail))
    low, high = np.quantile(means, [_level(-reach, bias, skew), _level(reach, bias, skew)])
    score = _score_of_zero(share_below(means, 0.0, units.rounding), resamples, bias, skew) / widening
    p = 1.0
    if units.sums.any():
        p = min(1.0, 2 * float(stdtr(effective - 1, -abs(score)) if widened else ndtr(-abs(score))))
    words = ["BCa" if method == "bca" else "percentile", f"{resamples:,} resamples", f"seed {seed}"]
    words += ["widened for few units"] if widened else []
    words += [f"{drawn:,} clusters resampled whole"] if units.is_clustered else []
    # With rounding, or a handful of units, the estimate could end up just outside the interval.
    low, high = min(float(low), value), max(float(high), value)
    return Difference(value, units.error, low, high, p, units.n, drawn, f"paired bootstrap ({', '.join(words)})")


def check_resamples(resamples: int) -> None:
    """Raises DataError if there are too few resamples for any interval."""
    if resamples < 100:
        raise DataError(f"{resamples} resamples: expected 100 or more", f"the default is {RESAMPLES:,}")


def _resampled_means(units: Units, resamples: int, random: np.random.Generator) -> Array:
    """Means of `resamples` samples of as many units as there are, drawn with replacement, [resamples]."""
    drawn = len(units.sums)
    first, counts = _distinct(units.sums)
    # For right/wrong answers only the count of each difference matters. A binomial number costs as much as 20 others.
    by_value = not units.is_clustered and 20 * len(first) < drawn
    means = np.empty(resamples)
    rows = max(1, _AT_ONCE // (len(first) if by_value else drawn))
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), drawn)  # [resamples at once, units]
        if by_value:
            times = random.multinomial(drawn, counts / drawn, size=shape[0])  # [resamples at once, values]
            means[start : start + rows] = times @ units.sums[first] / drawn
        else:
            picked = random.integers(0, drawn, size=shape)
            items = units.counts.take(picked).sum(axis=1) if units.is_clustered else drawn
            means[start : start + rows] = units.sums.take(picked).sum(axis=1) / items
    return means


def _distinct(values: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index of the first occurrence of each distinct value, and its count, in order of first occurrence.

    Negating all values keeps this order, so swapping a and b draws the same resamples.
    """
    _, first, counts = np.unique(values, return_index=True, return_counts=True)
    order = np.argsort(first)
    return first[order], counts[order]


def _bias_and_skew(units: Units, means: Array) -> tuple[float, float]:
    """BCa's z0 (distance of the resamples' median from the estimate) and acceleration (skewness of the influences)."""
    share = share_below(means, units.mean, units.rounding)
    skew = 0.0
    if units.error > 0:
        influences = units.influences / np.abs(units.influences).max()  # scaled so that cubes do not overflow
        skew = float((influences**3).sum()) / (6 * float((influences**2).sum()) ** 1.5)
    return clipped_score(share, len(means)), skew


def share_below(means: Array, point: float, rounding: float) -> float:
    """Share of resamples below a point; those equal to it count half."""
    off = means - point
    return float((off < -rounding).mean() + (np.abs(off) <= rounding).mean() / 2)


def clipped_score(share: float, resamples: int) -> float:
    """Normal score of a share of resamples, limited to the resolution of the resamples."""
    least = 1 / (resamples + 1)
    return float(ndtri(min(max(share, least), 1 - least)))


def _level(score: float, bias: float, skew: float) -> float:
    """Share of resamples below BCa's endpoint for a normal score (Efron and Tibshirani, equation 14.10)."""
    moved = bias + score
    shrunk = 1 - skew * moved
    # Beyond the pole the transformation is meaningless, so the outermost resample is used.
    return float(ndtr(bias + moved / shrunk)) if shrunk > 0 else float(moved > 0)


def _score_of_zero(share: float, resamples: int, bias: float, skew: float) -> float:
    """The normal score at which BCa's endpoint is 0, with `share` of the resamples below 0: the inverse of _level."""
    moved = clipped_score(share, resamples) - bias
    grown = 1 + skew * moved
    most = -clipped_score(0.0, resamples)
    return min(max(moved / grown - bias, -most), most) if grown > 0 else math.copysign(most, moved)
