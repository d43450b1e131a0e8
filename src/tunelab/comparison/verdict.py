"""State the result of a comparison in one sentence.

The sentence follows the corrected p alone. "No difference shown" is not "no difference", so it always comes with the
minimum detectable difference, or with the words that no result could have been significant. Interval and first p are
those of one comparison, and agree; p after correction is given in addition.
"""

from __future__ import annotations

from typing import Literal

from tunelab.comparison.paired_comparison import POWER, Comparison
from tunelab.statistics.proportions import unseen_share
from tunelab.units import (
    decimals_of,
    format_interval,
    format_number,
    format_p,
    format_probability,
    format_share,
    interval_decimals,
)

#: Units that are shares or percentages, and how many points one of them is.
_POINTS = {"0-1": 100.0, "0-100": 1.0}


def outcome(comparison: Comparison) -> Literal["better", "worse", "no difference shown"]:
    """The result in a word, of b. A difference counts if it was shown over items and, where the variation across seeds
    is known, exceeds it."""
    one = comparison
    if not one.shown or not one.beyond_seeds:
        return "no difference shown"
    return "better" if (one.difference > 0) == one.higher_is_better else "worse"


def verdict(comparison: Comparison) -> str:
    """The result as a sentence: "b is better than a by 1.2 points (95 % interval 0.3 to 2.1, p = 0.012)".

    It says what outcome() says. Points are hundredths of a metric from 0 to 1, and units of one from 0 to 100; other
    metrics keep their unit. The digits are those of the standard error, as in every table.
    """
    one = comparison
    scale, unit = (_POINTS[one.unit], "points") if one.unit in _POINTS else (1.0, one.unit)
    shift, low, high = (scale * value for value in (one.difference, one.low, one.high))
    decimals = max(interval_decimals(low, high), 1 if unit == "points" else 0)
    found_better = outcome(one)
    if found_better != "no difference shown":
        ends = (low, high) if shift > 0 else (-high, -low)
        return (
            f"{one.b_name} is {found_better} than {one.a_name} by {format_number(abs(shift), decimals)} {unit}"
            f" (95 % interval {format_interval(*ends, decimals, signed=False)}, {_p_words(one)})"
        )
    difference = f"{format_number(shift, decimals, signed=True)} {unit}"
    interval = format_interval(low, high, decimals)
    if one.shown:
        return (
            f"no difference shown beyond seed variation: {difference} (95 % interval over items {interval}, "
            f"{_p_words(one)}; {_seed_words(one, scale)})"
        )
    found = f"no difference shown: {difference} (95 % interval {interval}, {_p_words(one)})"
    if not one.could_be_shown:
        return f"{found}, {too_few(one)}"
    if one.detectable is None:
        share = format_share(unseen_share(round(one.effective_units)), 0)
        return f"{found}, the same whichever of the {one.n:,} items are drawn (up to {share} of others may differ)"
    smallest = format_number(scale * one.detectable, max(decimals, decimals_of(scale * one.detectable, 1)))
    return f"{found}, minimum detectable difference {smallest} {unit} (at {format_share(POWER, 0)} power)"


def too_few(one: Comparison) -> str:
    """Why no result could be significant: the smallest p of the test, after correction, is not below its level."""
    family = f" and {one.family} comparisons" if one.family > 1 else ""
    units = f"{one.n:,} items" if one.clusters is None else f"{one.clusters:,} clusters"
    least = format_probability(min(1.0, one.family * one.smallest_p))
    return f"no result could be significant with {units}{family} (the smallest possible p is {least})"


def _seed_words(one: Comparison, scale: float) -> str:
    """The variation across seeds that a difference shown over items is within."""
    assert one.p_of_seeds is not None and one.seed_error is not None, "else it would be beyond the seeds"
    error = scale * one.seed_error
    return f"SE across {one.seeds} seeds {format_number(error, decimals_of(error))}, {format_p(one.p_of_seeds)}"


def _p_words(one: Comparison) -> str:
    """p of this comparison, p after a correction, and the test if items are clustered."""
    words = format_p(one.p, is_bound=one.p_is_bound)
    if one.p_holm is not None and one.family > 1:
        words += f"; {format_p(one.p_holm, is_bound=one.p_is_bound)} after Holm over {one.family} comparisons"
    return words if one.clusters is None else f"{words}; {one.test}"
