"""Scores as table cells, one column per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.statistics.proportions import BOUNDS, interval_of_equal_values
from tunelab.units import (
    UNKNOWN,
    column_decimals,
    decimals_of,
    format_significant,
    format_with_error,
    value_decimals,
)

#: Shown for a metric that cannot see the references.
BLIND = "n/a"

#: What an interval in place of a standard error means.
EQUAL_VALUES = "An interval in place of ± is a 95 % interval: every item scored the same, and others may differ."


def score_text(score: Any, decimals: int | None = None) -> str:
    """A score as "value ± standard error"; a bound in place of an error of 0: "0 (0 to 0.13)".

    Args:
        score: an object with value, error, n, unit and is_blind.
        decimals: of value and error; None = from the error.
    """
    if score.is_blind:
        return BLIND
    if not has_equal_values(score):
        return format_with_error(score.value, score.error, decimals)
    low, high = interval_of_equal_values(score.value, score.n, *BOUNDS[score.unit])
    ends = (format_significant(round(end, decimals_of(high - low)), 6) for end in (low, high))
    return f"{format_significant(score.value)} ({' to '.join(ends)})"


def score_texts(scores: Sequence[Any]) -> list[str]:
    """Scores of one metric like score_text(), all with the same decimals; UNKNOWN for None."""
    seen = [one for one in scores if one is not None and not one.is_blind]
    decimals = column_decimals([one.error for one in seen], seen[0].unit if seen else "")
    if decimals is None:
        decimals = value_decimals([one.value for one in seen])
    return [UNKNOWN if one is None else score_text(one, decimals) for one in scores]


def has_equal_values(score: Any) -> bool:
    """Whether every item scored the same, so that the standard error of 0 understates what is unknown."""
    return score.error == 0 and score.unit in BOUNDS and not score.is_blind


def score_rows(arms: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: one row per metric, one column per arm (see score_texts).

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
        shown = score_texts([by_arm[arm].get(name) for arm in arms])
        rows.append([name.replace("_", " "), *shown, score.unit, "higher" if score.higher_is_better else "lower"])
    return ["metric", *arms, "unit", "better"], rows


def score_notes(arms: Mapping[str, Sequence[Any]]) -> list[str]:
    """What a reader of score_rows() must know, one sentence each."""
    return [EQUAL_VALUES] if any(has_equal_values(score) for scores in arms.values() for score in scores) else []


def score_records(arms: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Scores as records for a data frame, one per arm and metric."""
    names = ("value", "error", "n", "unit", "higher_is_better")
    return [
        {"arm": arm, "metric": score.name, **{name: getattr(score, name) for name in names}}
        for arm, scores in arms.items()
        for score in scores
    ]
