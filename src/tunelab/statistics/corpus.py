"""Comparing corpus metrics, which are computed from counts summed over items instead of averaged: a permutation test
and a bootstrap interval.

Sources:
    Koehn 2004, Statistical significance tests for machine translation evaluation (EMNLP): items are resampled, the
        metric is recomputed on each sample, and both systems get the same samples.
    Efron and Tibshirani 1993, An introduction to the bootstrap, section 15.4: p by inverting the interval.
    Hesterberg 2015, What teachers should know about the bootstrap (arXiv:1411.5279): the bootstrap divides the squared
        deviations by n, not n - 1, and uses the normal instead of Student's t; moving the percentiles outward corrects
        both.
    Riezler and Maxwell 2005, On some pitfalls in automatic evaluation and significance testing for MT: approximate
        randomization, which swaps the two systems' outputs item by item, keeps its level where the bootstrap's p does
        not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from tunelab.errors import DataError
from tunelab.statistics.permutation import SWAPS, all_swaps_of, check_swaps, drawn_subsets, least_p, swaps_in_words
from tunelab.statistics.units import CONFIDENCE, Array, Difference, check_share, unit_of_items

#: Summed counts -> metric, over any leading axes: [..., columns] -> [...].
Statistic = Callable[[Array], Array]

#: Resamples of the interval.
RESAMPLES = 10_000

#: Resampled units held in memory at a time, 8 bytes each.
_AT_ONCE = 2**18

#: Values that are equal up to rounding, relative to the larger.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class CorpusDifference:
    """A corpus metric of two models on the same items.

    Attributes:
        a_value, b_value: the metric; with several seeds its mean.
        a_error, b_error: standard errors over items, from the same resamples.
        difference: b - a, with its error, interval and p.
    """

    a_value: float
    b_value: float
    a_error: float
    b_error: float
    difference: Difference


def paired_corpus_difference(
    a_counts: Sequence[NDArray[Any]],
    b_counts: Sequence[NDArray[Any]],
    statistic: Statistic,
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    swaps: int = SWAPS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> CorpusDifference:
    """Difference b - a of a metric of summed counts, with the p of a permutation test and a bootstrap interval.

    The test swaps a and b within random items (or whole clusters), with all their seeds, and computes the metric of
    both anew; p is the share of swaps with at least the observed difference. Each resample of the interval draws as
    many items as there are, and computes both sides from the same ones; seeds are averaged. Where both disagree about
    0, the more careful holds: the interval is extended to 0, or p is that at which the interval would exclude 0.

    Args:
        a_counts, b_counts: [items, columns] for each seed, items in the same order everywhere; the two sides may have
            different numbers of seeds.
        statistic: the metric of summed counts, [..., columns] -> [...]; called with many resamples at once.
        clusters: of each item; None = items are independent.
        resamples: of the interval.
        swaps, seed, confidence: as in paired_permutation.

    Raises:
        DataError: a side has no seed, array shapes differ, there are fewer than two units, the metric of a
            resample is not finite, resamples or swaps < 100, or confidence is not in (0, 1).
    """
    check_share("confidence", confidence)
    check_swaps(swaps)
    if resamples < 100:
        raise DataError(f"{resamples} resamples: expected 100 or more", f"the default is {RESAMPLES:,}")
    stacked = _stacked(a_counts, b_counts)  # [items, seeds of both, columns]
    seeds_of_a = len(a_counts)
    of_item = unit_of_items(clusters, len(stacked))
    drawn, items = int(of_item.max()) + 1, len(of_item)
    summed = np.zeros((drawn, *stacked.shape[1:]))
    np.add.at(summed, of_item, stacked)
    values = _both(statistic, summed.sum(axis=0)[None], seeds_of_a)[0]  # [2]
    value = float(values[1] - values[0])
    drawn_values = _resampled(statistic, summed, seeds_of_a, resamples, np.random.default_rng(seed))  # [resamples, 2]
    rounding = _ROUNDING * float(np.abs(drawn_values).max())
    differences = drawn_values[:, 1] - drawn_values[:, 0]
    effective = max(2.0, items**2 / float((np.bincount(of_item).astype(np.float64) ** 2).sum()))
    interval = _interval_and_p(differences, rounding, effective, confidence)
    least = least_p(drawn) if drawn in all_swaps_of(swaps) else 1 / (swaps + 1)
    tested = _permutation_p(statistic, summed, seeds_of_a, drawn_subsets(drawn, swaps, seed))
    low, high, p, remark = _agreeing(interval, tested, 1 - confidence)
    how = f"paired permutation test of the corpus metric over {drawn:,} {'clusters' if drawn < items else 'items'} "
    how += f"({swaps_in_words(drawn, swaps, seed)}); interval: percentile bootstrap ({resamples:,} resamples, "
    how += f"seed {seed}, widened for few units){remark}"
    error, *errors = (_deviation(one, rounding, drawn) for one in (differences, *drawn_values.T))
    is_bound = p == least and drawn not in all_swaps_of(swaps)
    ends = min(low, value), max(high, value)
    found = Difference(value, error, *ends, p, items, drawn, how, effective, least, is_bound)
    return CorpusDifference(float(values[0]), float(values[1]), errors[0], errors[1], found)


def contributions_of_items(counts: NDArray[Any], statistic: Statistic) -> Array:
    """What each item contributes to a metric of summed counts, [items]: their mean is the metric, and their spread
    gives its standard error, as those of a mean do (the jackknife; Efron and Tibshirani 1993, chapter 11).

    Args:
        counts: [items, columns], of two items or more.
        statistic: the metric of summed counts, [..., columns] -> [...].
    """
    each = np.asarray(counts, dtype=np.float64)
    total = each.sum(axis=0)
    without = np.asarray(statistic(total - each), dtype=np.float64)
    found: Array = float(statistic(total)) + (len(each) - 1) * (without.mean() - without)
    return found


def _permutation_p(statistic: Statistic, summed: Array, seeds_of_a: int, subsets: Iterator[Array]) -> float:
    """Share of swaps whose difference is at least the observed one, from counts [units, seeds of both, columns].

    Sides with different numbers of seeds are repeated to equal ones, which leaves their means as they are.
    """
    of_a, of_b = summed[:, :seeds_of_a], summed[:, seeds_of_a:]
    seeds = math.lcm(of_a.shape[1], of_b.shape[1])
    of_a, of_b = (np.tile(side, (1, seeds // side.shape[1], 1)) for side in (of_a, of_b))
    moves = (of_b - of_a).reshape(len(summed), -1)  # what a unit's swap adds to a and takes from b
    observed, rounding, extreme, count = 0.0, 0.0, 0, 0
    for chosen in subsets:
        moved = (chosen @ moves).reshape(len(chosen), *of_a.shape[1:])
        totals = np.concatenate([of_a.sum(axis=0) + moved, of_b.sum(axis=0) - moved], axis=1)
        figures = _both(statistic, totals, seeds)
        differences = np.abs(figures[:, 1] - figures[:, 0])
        if not count:  # the first swap is none at all
            observed, rounding = float(differences[0]), _ROUNDING * float(np.abs(figures).max())
        extreme += int((differences >= observed - rounding).sum())
        count += len(chosen)
    return extreme / count


def _agreeing(interval: tuple[float, float, float], tested: float, alpha: float) -> tuple[float, float, float, str]:
    """The interval's ends, p, and what was changed so that both say the same about 0.

    Args:
        interval: its ends, and the p at which it would end at 0.
        tested: p of the permutation test.
    """
    low, high, p = interval
    if low <= 0 <= high:
        return (low, high, tested, "") if tested >= alpha else (low, high, max(p, alpha), "; p: of the interval")
    if tested < alpha:
        return low, high, tested, ""
    return min(low, 0.0), max(high, 0.0), tested, ", extended to 0 as the test excludes nothing"


def _interval_and_p(
    differences: Array, rounding: float, effective: float, confidence: float
) -> tuple[float, float, float]:
    """The percentile interval, widened with Student's t for few units, and p by inverting the interval."""
    widening = math.sqrt(effective / (effective - 1))
    reach = -widening * float(stdtrit(effective - 1, (1 - confidence) / 2))
    low, high = (float(end) for end in np.quantile(differences, [ndtr(-reach), ndtr(reach)]))
    if (np.abs(differences) <= rounding).all():
        return low, high, 1.0
    score = _clipped_score(_share_below(differences, 0.0, rounding), len(differences)) / widening
    return low, high, min(1.0, 2 * float(stdtr(effective - 1, -abs(score))))


def _share_below(means: Array, point: float, rounding: float) -> float:
    """Share of resamples below a point; those equal to it count half."""
    off = means - point
    return float((off < -rounding).mean() + (np.abs(off) <= rounding).mean() / 2)


def _clipped_score(share: float, resamples: int) -> float:
    """Normal score of a share of resamples, limited to the resolution of the resamples."""
    least = 1 / (resamples + 1)
    return float(ndtri(min(max(share, least), 1 - least)))


def _stacked(a_counts: Sequence[NDArray[Any]], b_counts: Sequence[NDArray[Any]]) -> Array:
    """Counts of all seeds of both sides, a's first: [items, seeds of both, columns]."""
    if not a_counts or not b_counts:
        raise DataError("one side has no counts: expected an array [items, columns] for each seed")
    shapes = {np.shape(one) for one in (*a_counts, *b_counts)}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        listed = ", ".join(str(list(shape)) for shape in sorted(shapes))
        raise DataError(
            f"counts have shapes {listed}: expected a single shape [items, columns]",
            "compare only items that both answered",
        )
    return np.stack([np.asarray(one, dtype=np.float64) for one in (*a_counts, *b_counts)], axis=1)


def _both(statistic: Statistic, summed: Array, seeds_of_a: int) -> Array:
    """Both sides' metric, averaged over seeds, [resamples, 2], from counts [resamples, seeds of both, columns]."""
    figures = np.asarray(statistic(summed), dtype=np.float64)
    if not np.isfinite(figures).all():
        raise DataError("the metric of summed counts is not finite in a resample of the items", "compare more items")
    return np.stack([figures[:, :seeds_of_a].mean(axis=1), figures[:, seeds_of_a:].mean(axis=1)], axis=1)


def _resampled(
    statistic: Statistic, summed: Array, seeds_of_a: int, resamples: int, random: np.random.Generator
) -> Array:
    """The metric of both sides for each resample, [resamples, 2], from counts [units, seeds of both, columns]."""
    drawn, seeds, columns = summed.shape
    by_unit = summed.reshape(drawn, seeds * columns)
    figures = np.empty((resamples, 2))
    rows = max(1, _AT_ONCE // drawn)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        picked = random.integers(0, drawn, size=(count, drawn)) + drawn * np.arange(count)[:, None]
        times = np.bincount(picked.ravel(), minlength=count * drawn).reshape(count, drawn)  # how often each was drawn
        totals = (times.astype(np.float64) @ by_unit).reshape(count, seeds, columns)
        figures[start : start + count] = _both(statistic, totals, seeds_of_a)
    return figures


def _deviation(values: Array, rounding: float, drawn: int) -> float:
    """Standard error from resamples, with n / (n - 1) correcting the bootstrap's division by n."""
    if float(np.ptp(values)) <= 2 * rounding:
        return 0.0
    return float(values.std(ddof=1)) * math.sqrt(drawn / (drawn - 1))
