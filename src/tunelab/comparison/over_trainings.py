"""From a comparison over items to one over items and trainings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tunelab.comparison.paired_comparison import ALPHA, FEW_DISCORDANT, Comparison, detectable_difference
from tunelab.statistics.crossed import Part, crossed, parts_of_trainings
from tunelab.statistics.units import CONFIDENCE


def over_trainings(
    one: Comparison,
    a_figures: Sequence[float],
    b_figures: Sequence[float],
    differing: int,
    further: Sequence[Part] = (),
) -> Comparison:
    """A comparison over items, widened to items and trainings: interval and p say what other trainings of both arms,
    on other items of the kind, would show.

    The more careful of both holds: with few items the test over items alone. Where fewer than 20 items differ in a
        share
    of right answers, two items are added, one for each side, as Bonett and Price do: so few say little of others.

    Args:
        a_figures, b_figures: each side's metric, one per training; one of a model that is not tuned.
        differing: items whose mean over trainings differs.
        further: what else contributes to the variance of the difference.
    """
    several = [side for side in (a_figures, b_figures) if len(side) > 1]
    of_trainings = parts_of_trainings([a_figures, b_figures], [-1.0, 1.0])
    added = math.sqrt(2) / one.n if one.unit == "0-1" and differing < FEW_DISCORDANT else 0.0
    of_items = Part(math.hypot(one.error, added), one.effective_units - 1)
    found = crossed(one.difference, [of_items, *of_trainings, *further])
    low, high = found.interval(CONFIDENCE)
    wider = dataclasses.replace(
        one,
        error=found.error,
        seed_error=math.hypot(*(part.error for part in of_trainings)),
        seeds=min(map(len, several)),
        parts=tuple((part.error, part.degrees) for part in found.parts),
        low=min(low, one.low),
        high=max(high, one.high),
        p=max(found.p, one.p),
        p_is_bound=one.p_is_bound and one.p >= found.p,
        method=f"t intervals over items and over trainings, added in squares; at least as careful as: {one.method}",
    )
    return dataclasses.replace(wider, detectable=detectable_difference(wider, ALPHA))
