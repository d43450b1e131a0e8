"""Scores as table cells, one column per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.units import format_with_error


def score_rows(arms: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: one row per metric, one column per arm, "value ± standard error"; "-" if missing.

    Args:
        arms: name -> its scores (objects with name, value, error, unit, higher_is_better).
    """
    by_arm = {arm: {score.name: score for score in scores} for arm, scores in arms.items()}
    names: dict[str, Any] = {}
    for scores in arms.values():
        for score in scores:
            names.setdefault(score.name, score)
    rows = []
    for name, score in names.items():
        cells = [by_arm[arm].get(name) for arm in arms]
        shown = ["-" if cell is None else format_with_error(cell.value, cell.error) for cell in cells]
        rows.append([name.replace("_", " "), *shown, score.unit, "higher" if score.higher_is_better else "lower"])
    return ["metric", *arms, "unit", "better"], rows
