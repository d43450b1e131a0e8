"""The paired bootstrap of corpus metrics, which are computed from counts summed over items instead of averaged.

Sources:
    Koehn 2004, Statistical significance tests for machine translation evaluation (EMNLP): items are resampled, the
        metric is recomputed on each sample, and both systems get the same samples.
    Hesterberg 2015, What teachers should know about the bootstrap (arXiv:1411.5279): percentiles moved outward for few
        units, as in bootstrap.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from tunelab.errors import DataError
from tunelab.statistics.bootstrap import RESAMPLES, check_resamples, clipped_score, share_below
from tunelab.statistics.units import CONFIDENCE, Array, Difference, check_share, unit_of_items

#: Summed counts -> metric, over any leading axes: [..., columns] -> [...].
Statistic = Callable[[Array], Array]

#: Resampled units held in memory at a time, as in bootstrap.py.
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


def paired_corpus_bootstrap(
    a_counts: Sequence[NDArray[Any]],
    b_counts: Sequence[NDArray[Any]],
    statistic: Statistic,
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> CorpusDifference:
    """Difference b - a of a metric of summed counts, with the percentile interval of the paired bootstrap.

    Each resample draws as many items as there are (or whole clusters), sums their counts, and computes the metric of
    each seed and side from the same items; seeds are averaged. p is found by inverting the interval: the smallest
    alpha at which the interval of confidence 1 - alpha excludes 0.

    Args:
        a_counts, b_counts: [items, columns] for each seed, items in the same order everywhere; the two sides may have
            different numbers of seeds.
        statistic: the metric of summed counts, [..., columns] -> [...]; called with many resamples at once.
        clusters: of each item; None = items are independent.
        resamples, seed, confidence: as in paired_bootstrap.

    Raises:
        DataError: a side has no seed, array shapes differ, there are fewer than two units, the metric of a
            resample is not finite, resamples < 100, or confidence is not in (0, 1).
    """
    check_share("confidence", confidence)
    check_resamples(resamples)
    stacked = _stacked(a_counts, b_counts)  # [items, seeds of both, columns]
    seeds_of_a = len(a_counts)
    of_item = unit_of_items(clusters, len(stacked))
    drawn, items = int(of_item.max()) + 1, len(of_item)
    summed = np.zeros((drawn, *stacked.shape[1:]))
    np.add.at(summed, of_item, stacked)
    values = _both(statistic, summed.sum(axis=0)[None], seeds_of_a)[0]  # [2]
    drawn_values = _resampled(statistic, summed, seeds_of_a, resamples, np.random.default_rng(seed))  # [resamples, 2]
    rounding = _ROUNDING * float(np.abs(drawn_values).max())
    differences = drawn_values[:, 1] - drawn_values[:, 0]
    effective = max(2.0, items**2 / float((np.bincount(of_item).astype(np.float64) ** 2).sum()))
    low, high, p = _interval_and_p(differences, rounding, effective, confidence)
    value = float(values[1] - values[0])
    words = ["percentile", f"{resamples:,} resamples", f"seed {seed}", "widened for few units"]
    words += [f"{drawn:,} clusters resampled whole"] if drawn < items else []
    method = f"paired bootstrap of the corpus metric ({', '.join(words)})"
    error, *errors = (_deviation(one, rounding, drawn) for one in (differences, *drawn_values.T))
    found = Difference(value, error, min(low, value), max(high, value), p, items, drawn, method)
    return CorpusDifference(float(values[0]), float(values[1]), errors[0], errors[1], found)


def _interval_and_p(
    differences: Array, rounding: float, effective: float, confidence: float
) -> tuple[float, float, float]:
    """The percentile interval, widened with Student's t for few units, and p by inverting the interval."""
    widening = math.sqrt(effective / (effective - 1))
    reach = -widening * float(stdtrit(effective - 1, (1 - confidence) / 2))
    low, high = (float(end) for end in np.quantile(differences, [ndtr(-reach), ndtr(reach)]))
    if (np.abs(differences) <= rounding).all():
        return low, high, 1.0
    score = clipped_score(share_below(differences, 0.0, rounding), len(differences)) / widening
    return low, high, min(1.0, 2 * float(stdtr(effective - 1, -abs(score))))


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
