"""State the result of a comparison in one sentence.

The sentence follows the corrected p alone. "No difference shown" is not "no difference", so it always comes with the
minimum detectable difference, or with the words that no result could have been significant. Interval and first p are
those of one comparison, and agree; p after correction is given in addition.
"""

from __future__ import annotations

from typing import Literal

from tunelab.comparison.paired_comparison import POWER, Comparison
from tunelab.statistics.permutation import least_p
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
POINTS = {"0-1": 100.0, "0-100": 1.0}


def outcome(comparison: Comparison) -> Literal["better", "worse", "no difference shown"]:
    """The result in a word, of b."""
    one = comparison
    if not one.shown:
        return "no difference shown"
    return "better" if (one.difference > 0) == one.higher_is_better else "worse"


def verdict(comparison: Comparison) -> str:
    """The result as a sentence: "b is better than a by 1.2 points (95 % interval 0.3 to 2.1, p = 0.012)".

    It says what outcome() says. Points are hundredths of a metric from 0 to 1, and units of one from 0 to 100; other
    metrics keep their unit. The digits are those of the standard error, as in every table. Arms that were trained once
    are called "this a model": what was shown is about these models.
    """
    one = comparison
    a, b = model_names(one)
    scale, unit = (POINTS[one.unit], "points") if one.unit in POINTS else (1.0, one.unit)
    shift, low, high = (scale * value for value in (one.difference, one.low, one.high))
    decimals = max(interval_decimals(low, high), 1 if unit == "points" else 0)
    found_better = outcome(one)
    over = "" if not one.parts else f" over items and {one.seeds} trainings"
    certainty = f"{over}, {_p_words(one)}{trained_once(one)}"
    if found_better != "no difference shown":
        ends = (low, high) if shift > 0 else (-high, -low)
        interval = format_interval(*ends, decimals, signed=False)
        shown = f"{format_number(abs(shift), decimals)} {unit} (95 % interval {interval}{certainty})"
        return f"{b} is {found_better} than {a} by {shown}"
    difference = f"{format_number(shift, decimals, signed=True)} {unit}"
    between = f" between {a} and {b}" if trained_once(one) else ""
    interval = format_interval(low, high, decimals)
    found = f"no difference shown{between}: {difference} (95 % interval {interval}{certainty})"
    if not one.could_be_shown:
        return f"{found}, {too_few(one)}"
    if one.detectable is None:
        share = format_share(unseen_share(round(one.effective_units)), 0)
        return f"{found}, the same whichever of the {one.n:,} items are drawn (up to {share} of others may differ)"
    smallest = format_number(scale * one.detectable, max(decimals, decimals_of(scale * one.detectable, 1)))
    return f"{found}, minimum detectable difference {smallest} {unit} (at {format_share(POWER, 0)} power)"


def model_names(one: Comparison) -> tuple[str, str]:
    """Both names: an arm's own if its trainings speak for the arm, "this lora model" if there is only one."""
    named = ((one.a_name, one.a_trainings), (one.b_name, one.b_trainings))
    a, b = (f"this {name} model" if trainings == 1 else name for name, trainings in named)
    return a, b


def trained_once(one: Comparison) -> str:
    """What to add if an arm was trained once: "; each was trained once"."""
    once = [trainings for trainings in (one.a_trainings, one.b_trainings) if trainings == 1]
    return {0: "", 1: "; it was trained once", 2: "; each was trained once"}[len(once)]


def too_few(one: Comparison) -> str:
    """Why no result could be significant: the smallest p of the test, after correction, is not below its level."""
    family = f" and {one.family} comparisons" if one.family > 1 else ""
    number, unit = (one.n, "items") if one.clusters is None else (one.clusters, "clusters")
    least = format_probability(min(1.0, one.family * one.smallest_p))
    measured = f"{number:,} {unit}"
    if one.smallest_p > least_p(number):  # random swaps measure no smaller share than one of them
        measured = f"the random swaps of {measured}"
    return f"no result could be significant with {measured}{family} (the smallest possible p is {least})"


def _p_words(one: Comparison) -> str:
    """p of this comparison, p after a correction, and the test if items are clustered."""
    words = format_p(one.p, is_bound=one.p_is_bound)
    if one.parts:
        words += f", {one.degrees_in_words}"
    if one.p_holm is not None and one.family > 1:
        kind = "exploratory comparisons" if one.exploratory else "comparisons"
        words += f"; {format_p(one.p_holm, is_bound=one.p_is_bound)} after Holm over {one.family} {kind}"
    return words if one.clusters is None else f"{words}; {one.test}"
