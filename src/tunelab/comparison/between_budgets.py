"""Read an arm's scores between two budgets that it was trained at, where it cost as much as another arm.

The score at a cost is interpolated, linearly in the cost's logarithm, between the trainings at the two nearest budgets:
loss falls about linearly with the logarithm of the steps. So an item's value is a fixed weighted mean of its values in
two trainings of the same seed, and a seed's score is that of two scores: items and trainings stay the samples that they
were, and intervals are those of any other comparison. Where the trainings of several seeds cost unlike amounts, the
weight is uncertain: what that adds is one more part of the variance. Intervals do not cover how far the curve bends
between two budgets.

Source:
    Schulman et al. 2025, LoRA Without Regret (thinkingmachines.ai/blog/lora): loss against the logarithm of the steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tunelab.errors import DataError
from tunelab.units import format_significant

#: Costs that are equal up to rounding, relative.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a curve is read.

    Attributes:
        lower, upper: places of the nearest measured points; equal where one is met exactly.
        weight: of the upper one, from 0 to 1; the lower one has the rest.
    """

    lower: int
    upper: int
    weight: float


def common_cost(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest cost that two arms were both measured at.

    Args:
        a, b: each arm's costs, from its smallest budget to its largest.

    Raises:
        DataError: costs do not grow with the budgets, or the two have no cost in common.
    """
    for costs in (a, b):
        if any(not 0 < low < high for low, high in pairwise(costs)):
            raise DataError("a larger budget did not cost more", "give budgets that are further apart")
    cost = min(a[-1], b[-1])
    if cost < max(a[0], b[0]) * (1 - _ROUNDING):
        raise DataError("the two have nothing in common: one ends before the other begins", "add budgets between")
    return cost


def read_at(costs: Sequence[float], cost: float) -> Reading:
    """Where a curve is read at a cost between its first and its last.

    Raises:
        DataError: the cost is outside of what was measured.
    """
    for place, known in enumerate(costs):
        if math.isclose(known, cost, rel_tol=_ROUNDING):
            return Reading(place, place, 0.0)
    for place, (low, high) in enumerate(pairwise(costs)):
        if low < cost < high:
            return Reading(place, place + 1, math.log(cost / low) / math.log(high / low))
    raise DataError(
        f"a cost of {format_significant(cost)} is outside of what was measured", "add a smaller or a larger budget"
    )


def noise_of_weight(costs: Sequence[float], errors: Sequence[float], reading: Reading, error: float) -> float:
    """The standard error of a reading's weight, by its first derivatives; 0 at a measured point.

    Args:
        errors: relative standard error of each of `costs`.
        error: that of the cost that the curve is read at.
    """
    if reading.lower == reading.upper:
        return 0.0
    of_ends = ((1 - reading.weight) * errors[reading.lower], reading.weight * errors[reading.upper])
    return math.hypot(error, *of_ends) / math.log(costs[reading.upper] / costs[reading.lower])
