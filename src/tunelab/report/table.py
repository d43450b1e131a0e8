"""Scores as table cells, one column per arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.statistics.proportions import BOUNDS, interval_of_equal_values
from tunelab.units import format_with_error

#: Shown for a metric that cannot see the references.
BLIND = "n/a"

#: What an interval in place of a standard error means.
EQUAL_VALUES = "An interval in place of ± is a 95 % interval: every item scored the same, and others may differ."


def score_text(score: Any) -> str:
    """A score as "value ± standard error"; a bound in place of an error of 0: "0 (0 to 0.13)".

    Args:
        score: an object with value, error, n, unit and is_blind.
    """
    if score.is_blind:
        return BLIND
    if not has_equal_values(score):
        return format_with_error(score.value, score.error)
    low, high = interval_of_equal_values(score.value, score.n, *BOUNDS[score.unit])
    decimals = max(0, 1 - math.floor(math.log10(high - low)))
    return f"{score.value:.4g} ({round(low, decimals):g} to {round(high, decimals):g})"


def has_equal_values(score: Any) -> bool:
    """Whether every item scored the same, so that the standard error of 0 understates what is unknown."""
    return score.error == 0 and score.unit in BOUNDS and not score.is_blind


def score_rows(arms: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: one row per metric, one column per arm (see score_text); "-" if missing.

    Args:
        arms: name -> its scores (objects with name, value, error, n, unit, higher_is_better, is_blind).
    """
    by_arm = {arm: {score.name: score for score in scores} for arm, scores in arms.items()}
    names: dict[str, Any] = {}
    for scores in arms.values():
        for score in scores:
            names.setdefault(score.name, score)
    rows = []
    for name, score in names.items():
        cells = [by_arm[arm].get(name) for arm in arms]
        shown = ["-" if cell is None else score_text(cell) for cell in cells]
        rows.append([name.replace("_", " "), *shown, score.unit, "higher" if score.higher_is_better else "lower"])
    return ["metric", *arms, "unit", "better"], rows
