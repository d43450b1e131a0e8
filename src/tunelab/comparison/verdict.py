"""State the result of a comparison in one sentence.

The wording follows the corrected p alone. "No difference shown" is not "no difference", so it always comes with the
smallest difference that could have been detected.
"""

from __future__ import annotations

import math
from typing import Literal

from tunelab.comparison.paired_comparison import ALPHA, POWER, Comparison
from tunelab.statistics.proportions import unseen_share

#: Units that are shares or percentages, and how many points one of them is.
_POINTS = {"0-1": 100.0, "0-100": 1.0}


def outcome(comparison: Comparison) -> Literal["better", "worse", "no difference"]:
    """The result in a word, of b. A difference counts if it was shown over items and, where the variation across seeds
    is known, exceeds it."""
    one = comparison
    if not one.shown or not one.beyond_seeds:
        return "no difference"
    return "better" if (one.difference > 0) == one.higher_is_better else "worse"


def verdict(comparison: Comparison) -> str:
    """The result as a sentence: "b is better than a by 1.2 points (95 % interval 0.3 to 2.1, p = 0.012)".

    It says what outcome() says. Points are hundredths of a metric from 0 to 1, and units of one from 0 to 100; other
    metrics keep their unit.
    """
    one = comparison
    scale, unit = (_POINTS[one.unit], "points") if one.unit in _POINTS else (1.0, one.unit)
    shift, low, high = (scale * value for value in (one.difference, one.low, one.high))
    digits = _decimals((high - low) / 2 or abs(shift), least=1 if unit == "points" else 0)
    found_better = outcome(one)
    if found_better != "no difference":
        low, high = (low, high) if shift > 0 else (-high, -low)
        return (
            f"{one.b_name} is {found_better} than {one.a_name} by {abs(shift):.{digits}f} {unit}"
            f" (95 % interval {low:.{digits}f} to {high:.{digits}f}, {_p_words(one)})"
        )
    if one.shown:
        return (
            f"no difference shown beyond seed variation: {_signed(shift, digits)} {unit} (95 % interval over items"
            f" {_signed(low, digits)} to {_signed(high, digits)}, {_p_words(one)}; {_seed_words(one, scale)})"
        )
    found = (
        f"no difference shown: {_signed(shift, digits)} {unit}"
        f" (95 % interval {_signed(low, digits)} to {_signed(high, digits)}, {_p_words(one)})"
    )
    if one.gained is None and one.error == 0:
        share = 100 * unseen_share(one.n)
        return (
            f"{found}, the same whichever of the {one.n:,} items are drawn (up to {share:.0f} % of others may differ)"
        )
    if one.detectable is None:
        return f"{found}, {one.n:,} items could not have shown any difference"
    smallest = scale * one.detectable
    return (
        f"{found}, differences below {smallest:.{_decimals(smallest, least=digits)}f} {unit} could not have been seen"
        f" (with {POWER * 100:.0f} % power)"
    )


def _seed_words(one: Comparison, scale: float) -> str:
    """The variation across seeds that a difference shown over items is within."""
    assert one.p_of_seeds is not None and one.seed_error is not None, "else it would be beyond the seeds"
    error = scale * one.seed_error
    return f"SE across {one.seeds} seeds {error:.{_decimals(error, 1) + 1}f}, {_p_shown(one.p_of_seeds)}"


def _p_words(one: Comparison) -> str:
    if one.p_holm is None:
        return _p_shown(one.p)
    return f"{_p_shown(one.p_holm)} after Holm over {one.family} comparison{'s' if one.family != 1 else ''}"


def _p_shown(p: float) -> str:
    """Two significant digits: "p = 0.012", "p = 0.34", "p < 0.001"; never rounded up past 0.05."""
    if p < 0.001:
        return "p < 0.001"
    shown = f"{p:.{2 if p >= 0.1 else 3}f}"
    return f"p = {shown}" if (float(shown) < ALPHA) == (p < ALPHA) else f"p = {p:.5f}"


def _decimals(size: float, least: int) -> int:
    """Decimals needed to show a number's first digit, at least `least` and at most 10."""
    return min(10, max(least, -math.floor(math.log10(size)))) if size > 0 else least


def _signed(value: float, digits: int) -> str:
    """ "+1.2", "-0.3", and "0.0" for values that round to zero."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]
