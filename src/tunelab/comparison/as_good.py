"""Is an arm as good as another, within a margin? Non-inferiority in one direction, equivalence in both.

The margin is an amount in the metric's unit, or a share: how much of what the other arm gained over its untuned model
must be kept. A share of at least k is kept exactly if (b - base) - k (a - base) is not negative, so that its test, and
the interval that this test leaves (Fieller's), need no ratio of random numbers.

Sources:
    Lakens, Improving your statistical inferences, chapter 9 (equivalence tests: two one-sided tests at 5 % each, whose
        intervals together have 90 %).
    Fieller 1954, Some problems in interval estimation.
    Marcus, Peritz and Gabriel 1976, On closed testing procedures: "worse" and "within the margin" need no correction
        for each other, as no true difference makes both false.
    Bonett and Price 2012: two items more, one for each side, where values are right or wrong (paired_tests.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunelab.comparison.align import OF_THE_MODEL, Pairs, align
from tunelab.comparison.paired_comparison import ALPHA, FEW_DISCORDANT, POWER, Comparison
from tunelab.comparison.paired_evaluations import Side, contributions, mean_of_seeds, noise_of_costs
from tunelab.errors import DataError
from tunelab.statistics.crossed import Crossed, Part, crossed, parts_of_trainings
from tunelab.statistics.proportions import BOUNDS
from tunelab.statistics.units import CONFIDENCE, gather_units
from tunelab.units import format_interval, format_number, interval_decimals

Answer = Literal[
    "as good",
    "alike",
    "worse within margin",
    "better within margin",
    "worse beyond margin",
    "better beyond margin",
    "not known",
]

#: The most items that a plan looks for.
_MOST_ITEMS = 10**7


@dataclass(frozen=True, slots=True)
class Judged:
    """Whether b is as good as a. Values are shares kept, or differences b - a turned so that higher is better.

    Attributes:
        comparison: b against a.
        base_name: the untuned model that gains are measured from; "" = the margin is an amount.
        both_ways: whether b must not be better by more than the margin either.
        limit: the share that must be kept (0.9), or minus the margin.
        value: the share kept, or the difference.
        low, high: one-sided 95 % bounds.
        p: one-sided, that b is as good as asked.
        p_beyond: one-sided, that it is not.
        is_above: whether what is beyond the margin would be so upwards.
        p_holm, family: after Holm's correction over the study's questions.
        can_show: the limit that so many items would meet with 80 % power if nothing differed; None = none would.
        items_needed: items with which this limit would be; None = no number of items, with so many trainings.
        items_as_measured: items that would show what was measured, if it is true; None = no number.
    """

    comparison: Comparison
    base_name: str
    both_ways: bool
    limit: float
    value: float
    low: float
    high: float
    p: float
    p_beyond: float
    is_above: bool
    can_show: float | None
    items_needed: int | None
    items_as_measured: int | None
    p_holm: float | None = None
    family: int = 1

    @property
    def decisive_p(self) -> float:
        """The p of what is claimed: as good, or beyond the margin. At most one of both claims can be false."""
        return min(self.p, self.p_beyond)

    @property
    def answer(self) -> Answer:
        """One of four: within the margin; different, but by less than it; by more; not known."""
        if (self.decisive_p if self.p_holm is None else self.p_holm) >= ALPHA:
            return "not known"
        if self.p_beyond < self.p:
            return "better beyond margin" if self.is_above else "worse beyond margin"
        is_better = (self.comparison.difference > 0) == self.comparison.higher_is_better
        if self.comparison.shown and not is_better:
            return "worse within margin"
        if self.comparison.shown and self.both_ways:
            return "better within margin"
        return "alike" if self.both_ways else "as good"


@dataclass(frozen=True)
class _Measured:
    """Several arms' metric on the same items, turned so that higher is better.

    Attributes:
        each: of each arm what items contribute, [trainings, items].
        clusters: of each item; None = items are independent.
        added: the value, in both directions, of two items that are added; 0.0 = none are.
        over_trainings: whether every tuned arm has several trainings.
        noise: of each arm, what the noise of measured costs adds where it is read between two budgets.
    """

    each: Sequence[NDArray[np.float64]]
    clusters: Sequence[str] | None
    added: float
    over_trainings: bool
    noise: Sequence[Part]

    @property
    def items(self) -> int:
        return int(self.each[0].shape[1])

    def figure(self, weights: Sequence[float]) -> float:
        """A weighted sum of the arms' metrics."""
        return math.fsum(weight * float(one.mean()) for one, weight in zip(self.each, weights, strict=True))

    def parts(self, weights: Sequence[float]) -> tuple[Part, list[Part]]:
        """What items and what trainings contribute to the variance of a weighted sum."""
        values = np.sum([weight * one.mean(axis=0) for one, weight in zip(self.each, weights, strict=True)], axis=0)
        clusters = list(self.clusters) if self.clusters is not None else None
        if self.added:
            values = np.append(values, [self.added, -self.added])
            clusters = None if clusters is None else [*clusters, "", ""]
        units = gather_units([0.0] * len(values), values.tolist(), clusters)
        figures = [one.mean(axis=1).tolist() for one in self.each]
        of_trainings = parts_of_trainings(figures, weights) if self.over_trainings else []
        noise = [
            Part(abs(w) * one.error, one.degrees) for w, one in zip(weights, self.noise, strict=True) if w * one.error
        ]
        return Part(units.error, units.effective - 1), [*of_trainings, *noise]

    def estimate(self, weights: Sequence[float]) -> Crossed:
        """A weighted sum of the arms' metrics, over items and trainings."""
        of_items, of_trainings = self.parts(weights)
        shrunk = self.items / (self.items + 2) if self.added else 1.0
        return crossed(shrunk * self.figure(weights), [of_items, *of_trainings])


def judge_difference(a: Side, b: Side, comparison: Comparison, margin: float, *, both_ways: bool) -> Judged:
    """Whether b is worse than a by less than a margin; with `both_ways` also better by less.

    Args:
        comparison: of the same two sides; names the metric.
        margin: above 0, in the metric's unit.

    Raises:
        DataError: the two were not evaluated in the same way.
    """
    measured = _measured([b, a], comparison)
    weights = (1.0, -1.0)
    found = measured.estimate(weights)
    worse, better = found.above(-margin), _turned(found).above(-margin)
    # Not as good: at least so much worse, or (both ways) so much better.
    beyond = [_turned(found).above(margin), found.above(margin) if both_ways else 1.0]
    low, high = found.interval(2 * CONFIDENCE - 1)
    planned = _planned(measured, weights, margin, abs(margin + found.value), both_ways)
    return Judged(
        *(comparison, "", both_ways, -margin, measured.figure(weights), low, high),
        *(max(worse, better) if both_ways else worse, min(beyond), beyond[1] < beyond[0]),
        *(None if planned[0] is None else -planned[0], *planned[1:]),
    )


def judge_share(a: Side, b: Side, base: Side, comparison: Comparison, share: float, *, both_ways: bool) -> Judged:
    """Whether b keeps a share of what a gained over its untuned base; with `both_ways` also at most 2 - share of it.

    Args:
        comparison: of a and b; names the metric.
        share: such as 0.9.

    Raises:
        DataError: the gain's own interval touches 0, so that a share of it means nothing; or the three were not
            evaluated in the same way.
    """
    measured = _measured([b, a, base], comparison)
    gain = measured.estimate((0.0, 1.0, -1.0))
    if not gain.interval(CONFIDENCE)[0] > 0:
        raise DataError(
            f"what {a.name} gained over {base.name} was not shown ({_in_words(gain, comparison)}), so a share of it "
            "means nothing",
            "ask `within` an amount in the metric's unit, or evaluate more items",
        )

    def kept(limit: float) -> Crossed:
        return measured.estimate((1.0, -limit, limit - 1.0))

    value = measured.figure((1.0, 0.0, -1.0)) / measured.figure((0.0, 1.0, -1.0))
    low = _root(lambda limit: kept(limit).above(), value, -1.0)
    high = _root(lambda limit: _turned(kept(limit)).above(), value, 1.0)
    more = 2 - share
    as_good = kept(share).above()
    beyond = [_turned(kept(share)).above(), kept(more).above() if both_ways else 1.0]
    weights = (1.0, -share, share - 1.0)
    gained = measured.figure((0.0, 1.0, -1.0))
    planned = _planned(measured, weights, (1 - share) * gained, abs(kept(share).value), both_ways)
    return Judged(
        *(comparison, base.name, both_ways, share, value, low, high),
        *(max(as_good, _turned(kept(more)).above()) if both_ways else as_good, min(beyond), beyond[1] < beyond[0]),
        *(None if planned[0] is None else 1 - planned[0] / gained, *planned[1:]),
    )


def _measured(sides: Sequence[Side], comparison: Comparison) -> _Measured:
    pairs = [_aligned(sides[0], other, comparison.metric) for other in sides[1:]]
    items = pairs[0].items
    turn = 1.0 if comparison.higher_is_better else -1.0
    each = [turn * contributions(side, comparison.metric, items) for side in sides]
    tuned = [side.trainings for side in sides if side.is_tuned]
    differing = int((np.abs(each[0].mean(axis=0) - each[1].mean(axis=0)) > 0).sum())
    low, high = BOUNDS.get(comparison.unit, (0.0, 0.0))
    # Few items that differ say little about how many others would; shares are always right and wrong answers' means.
    adds = comparison.unit == "0-1" or differing < FEW_DISCORDANT
    noise = [noise_of_costs(side, comparison.metric, items) for side in sides]
    return _Measured(each, pairs[0].clusters, high - low if adds else 0.0, bool(tuned) and min(tuned) > 1, noise)


def _aligned(side: Side, other: Side, metric: str) -> Pairs:
    allowed = {*OF_THE_MODEL, "template"}
    return align(mean_of_seeds(side, metric), mean_of_seeds(other, metric), allow_diff=allowed)


def _turned(found: Crossed) -> Crossed:
    return dataclasses.replace(found, value=-found.value)


def _root(p: Callable[[float], float], start: float, direction: float) -> float:
    """Where a one-sided p reaches 5 %, from a start where it is larger; infinite if it never does."""
    reach = 0.01
    while p(start + direction * reach) > ALPHA:
        reach *= 2
        if reach > 1e6:
            return direction * math.inf
    near, far = 0.0, reach
    for _ in range(50):
        middle = (near + far) / 2
        near, far = (near, middle) if p(start + direction * middle) <= ALPHA else (middle, far)
    return start + direction * far


def _planned(
    measured: _Measured, weights: Sequence[float], margin: float, distance: float, both_ways: bool
) -> tuple[float | None, int | None, int | None]:
    """The margin that as many items show if nothing differs; the items that this margin needs; and those that what was
    measured needs, at this distance from the margin, if it is true."""
    of_items, of_trainings = measured.parts(weights)
    design = (measured.items, of_items, of_trainings)
    power = 1 - (1 - POWER) / 2 if both_ways else POWER
    can_show = margin_shown(*design, measured.items, power=power)
    return can_show, items_for(*design, margin, power=power), items_for(*design, distance)


def margin_shown(
    items: int, of_items: Part, of_trainings: Sequence[Part], planned: int, *, power: float = POWER
) -> float | None:
    """The margin that is shown with this power on so many items, if nothing differs; None if it is not finite.

    Args:
        items: number of items that `of_items` is known from.
        of_items, of_trainings: of the variance of the difference.
        planned: number of items.
    """
    scale = planned / items
    part = Part(of_items.error / math.sqrt(scale), max(1.0, of_items.degrees * scale))
    found = crossed(0.0, [part, *of_trainings]).detectable(ALPHA, power)
    return found if math.isfinite(found) else None


def items_for(
    items: int, of_items: Part, of_trainings: Sequence[Part], margin: float, *, power: float = POWER
) -> int | None:
    """The fewest items that show a margin with this power, if nothing differs; None = no number does."""

    def enough(planned: int) -> bool:
        found = margin_shown(items, of_items, of_trainings, planned, power=power)
        return found is not None and found <= margin

    if not enough(_MOST_ITEMS):
        return None
    low, high = 1, _MOST_ITEMS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _in_words(gain: Crossed, comparison: Comparison) -> str:
    low, high = gain.interval(CONFIDENCE)
    decimals = interval_decimals(low, high)
    return f"{format_number(gain.value, decimals, signed=True)}, 95 % interval {format_interval(low, high, decimals)}"
