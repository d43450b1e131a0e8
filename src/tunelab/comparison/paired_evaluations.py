"""Compare two arms' evaluations of one benchmark, or of held-out rows, by one metric; for runs and studies.

An arm trained with several seeds has one evaluation per seed. An item's value is then its mean over the seeds, and
a corpus metric is the mean of the seeds' metrics over the same items. If every tuned arm has several, the verdict is
over items and trainings; else it is about the very models that were compared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelab.comparison.align import OF_THE_MODEL, GradedItems, Pairs, align
from tunelab.comparison.evaluated import Evaluated
from tunelab.comparison.over_trainings import over_trainings
from tunelab.comparison.paired_comparison import Comparison, compare_counts, compare_values
from tunelab.config.held_out_metrics import BLEU, CHRF
from tunelab.config.questions import COMPLETION_LOSS
from tunelab.errors import DataError
from tunelab.evaluation.metrics.bleu import bleu_of_counts
from tunelab.evaluation.metrics.chrf import chrf_of_counts
from tunelab.evaluation.probabilities import CALIBRATION_ERROR, calibration_error_of_counts
from tunelab.statistics.corpus import Statistic, contributions_of_items
from tunelab.statistics.crossed import Part

#: Of held-out rows; the calibration error of benchmarks with choices.
CORPUS_STATISTICS: dict[str, Statistic] = {
    BLEU: bleu_of_counts,
    CHRF: chrf_of_counts,
    CALIBRATION_ERROR: calibration_error_of_counts,
}


#: Of what was measured at a budget itself.
NO_NOISE = Part(0.0, 1.0)


@dataclass(frozen=True)
class Upper:
    """The evaluations at a larger budget, between which and its own a side is read (between_budgets.py).

    Attributes:
        seeds: one per seed, in the order of the side's own.
        weight: between 0 and 1; the side's own evaluations have the rest.
        noise: the weight, as the seeds' costs leave it uncertain: its standard error.
    """

    seeds: Sequence[Evaluated]
    weight: float
    noise: Part = NO_NOISE


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: shown in errors and verdicts.
        seeds: its evaluations of one benchmark, one per seed; at least one.
        is_tuned: whether each is of a training of its own, so that other trainings would give other values. False: a
            model that is what it is, or whose training is not known.
        upper: if it is read between two budgets, the evaluations at the larger one.
    """

    name: str
    seeds: Sequence[Evaluated]
    is_tuned: bool = False
    upper: Upper | None = None

    @property
    def trainings(self) -> int:
        return len(self.seeds) if self.is_tuned else 0


def compare_sides(
    a: Side, b: Side, metric: str | None = None, *, allow_diff: Collection[str] = (), common_items_only: bool = False
) -> Comparison:
    """Compare b with a on their items, by a metric that both have (None = the headline metric).

    Args:
        allow_diff, common_items_only: see align(); keys of the model are always allowed.

    Raises:
        RunError: one side has no score for it, or a file is missing or damaged.
        DataError: the two sides, or the seeds of one, were not evaluated in the same way; lists every difference. Or
            the metric is of a corpus, and one side is read between two budgets.
    """
    first = a.seeds[0]
    chosen = first.metric(metric)
    if _is_of_corpus(first, chosen.name) and (a.upper or b.upper):
        raise DataError(
            f"{chosen.name} is a corpus metric: without a value for each item it is not read between budgets",
            "compare by a metric that has one, or at a budget that both were trained at",
        )
    allowed = {*OF_THE_MODEL, *allow_diff}
    graded = [mean_of_seeds(side, chosen.name) for side in (a, b)]
    pairs = align(graded[0], graded[1], allow_diff=allowed, common_items_only=common_items_only)
    labels: dict[str, Any] = {"benchmark": first.benchmark, "metric": chosen.name}
    labels |= {"unit": chosen.unit, "higher_is_better": chosen.higher_is_better}
    if _is_of_corpus(first, chosen.name):
        a_counts, b_counts = (_counts(side.seeds, chosen.name, pairs.items) for side in (a, b))
        found = compare_counts(pairs, a_counts, b_counts, CORPUS_STATISTICS[chosen.name], **labels)
    else:
        losses = first.is_held_out and chosen.name == COMPLETION_LOSS
        found = compare_values(_losses(a, b, pairs) if losses else pairs, **labels)
    found = dataclasses.replace(found, a_trainings=a.trainings, b_trainings=b.trainings)
    tuned = [side.trainings for side in (a, b) if side.is_tuned]
    if not tuned or min(tuned) < 2:
        return found
    of_a, of_b = (contributions(side, chosen.name, pairs.items).mean(axis=1).tolist() for side in (a, b))
    differing = sum(left != right for left, right in zip(pairs.a, pairs.b, strict=True))
    noise = [one for side in (a, b) if (one := noise_of_costs(side, chosen.name, pairs.items)).error]
    return dataclasses.replace(over_trainings(found, of_a, of_b, differing, noise), by_seed=_by_seed(of_a, of_b))


def noise_of_costs(side: Side, metric: str, items: Sequence[str]) -> Part:
    """What the noise of measured costs adds to a metric that is read between two budgets; an error of 0 elsewhere."""
    if side.upper is None:
        return NO_NOISE
    both = (side.seeds, side.upper.seeds)
    lower, upper = (float(_contributions_of(side.name, one, metric, items).mean()) for one in both)
    return Part(abs(upper - lower) * side.upper.noise.error, side.upper.noise.degrees)


def _by_seed(of_a: Sequence[float], of_b: Sequence[float]) -> tuple[float, ...]:
    """The difference of each seed; a model that is not tuned is paired with each. () if one side lacks a training."""
    seeds = max(len(of_a), len(of_b))
    if {len(of_a), len(of_b)} - {1, seeds}:
        return ()
    sides = [[*one] * (seeds // len(one)) for one in (of_a, of_b)]
    return tuple(right - left for left, right in zip(*sides, strict=True))


def _is_of_corpus(evaluated: Evaluated, metric: str) -> bool:
    """Whether a metric has no values per item, and is computed from what items contribute to it."""
    return metric in CORPUS_STATISTICS and evaluated.is_held_out == (metric != CALIBRATION_ERROR)


def contributions(side: Side, metric: str, items: Sequence[str]) -> NDArray[np.float64]:
    """What each item contributes to a metric, [evaluations, items]; the mean over items is the metric.

    A value per item is its own contribution; those to a loss per token and to corpus metrics are linearized. Between
    two budgets it is their weighted mean.
    """
    own = _contributions_of(side.name, side.seeds, metric, items)
    if side.upper is None:
        return own
    weight = side.upper.weight
    return (1 - weight) * own + weight * _contributions_of(side.name, side.upper.seeds, metric, items)


def _contributions_of(name: str, seeds: Sequence[Evaluated], metric: str, items: Sequence[str]) -> NDArray[np.float64]:
    if _is_of_corpus(seeds[0], metric):
        each = [contributions_of_items(one, CORPUS_STATISTICS[metric]) for one in _counts(seeds, metric, items)]
    elif seeds[0].is_held_out and metric == COMPLETION_LOSS:
        each = [_row_losses(one, items) for one in seeds]
    else:
        values = [one.graded(name, metric).values for one in seeds]
        each = [np.array([one[item] for item in items], dtype=np.float64) for one in values]
    return np.stack(each)


def mean_of_seeds(side: Side, metric: str) -> GradedItems:
    """Each item's value, averaged over seeds, and weighted between two budgets; evaluations that were not made in the
    same way are refused.
    """
    seeds = [one.graded(side.name, metric) for one in side.seeds]
    above = [one.graded(side.name, metric) for one in side.upper.seeds] if side.upper else []
    first, count = seeds[0], len(seeds) + len(above)
    for place, other in enumerate([*seeds, *above][1:], 1):
        names = [f"{side.name}, evaluation {number} of {count}" for number in (1, place + 1)]
        align(dataclasses.replace(first, name=names[0]), dataclasses.replace(other, name=names[1]))
    values = _means(seeds)
    if side.upper is not None:
        upper, weight = _means(above), side.upper.weight
        values = {item: (1 - weight) * value + weight * upper[item] for item, value in values.items()}
    return dataclasses.replace(first, values=values)


def _means(seeds: Sequence[GradedItems]) -> dict[str, float]:
    return {item: math.fsum(one.values[item] for one in seeds) / len(seeds) for item in seeds[0].values}


def _counts(seeds: Sequence[Evaluated], metric: str, items: Sequence[str]) -> list[NDArray[np.float64]]:
    """A corpus metric's counts of these items, [items, columns] for each seed."""
    found = []
    for one in seeds:
        by_item = one.counts(metric)
        found.append(np.array([by_item[item] for item in items], dtype=np.float64))
    return found


def _losses(a: Side, b: Side, pairs: Pairs) -> Pairs:
    """The pairs with each row's contribution to the completion loss, nats per token, in place of its nats."""
    means = [contributions(side, COMPLETION_LOSS, pairs.items).mean(axis=0).tolist() for side in (a, b)]
    return dataclasses.replace(pairs, a=means[0], b=means[1])


def _row_losses(evaluated: Evaluated, items: Sequence[str]) -> NDArray[np.float64]:
    """Each row's contribution to the loss per token L = sum nats / sum tokens: L + (nats - L tokens) / mean tokens.

    Their mean is L, and their spread gives L's error as a ratio (Cochran 1977, section 2.11), like the perplexity's
    error in the table of scores: rows of different lengths alone add no spread.
    """
    records = evaluated.likelihoods()
    nats = np.array([records[item].completion_nll for item in items])
    tokens = np.array([records[item].completion_tokens for item in items], dtype=np.float64)
    loss = nats.sum() / tokens.sum()
    return np.asarray(loss + (nats - loss * tokens) / tokens.mean(), dtype=np.float64)
