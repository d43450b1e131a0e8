"""Win rates from a directory of alpaca_eval's results: `annotations.json` and optionally `leaderboard.csv`.

alpaca_eval (tatsu-lab/alpaca_eval, metrics/helpers.py and metrics/glm_winrate.py) asks a judge which of two outputs is
better and writes one preference per instruction: 1 = the baseline's, 2 = the model's, in between = the judge's
weight, 1.5 (0 in old files) = a tie, null = a failed judgement. The win rate is the mean preference minus 1, in
percent. The length-controlled win rate (Dubois et al. 2024, arXiv:2404.04475) comes from a regression over many models;
it is read from the leaderboard, not computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunelab.data.sources._source import Row, column, kind_of, optional_text, text
from tunelab.errors import BadRow, DataError
from tunelab.evaluation.benchmark import Score, Scored
from tunelab.evaluation.benchmarks._rows import read_rows
from tunelab.statistics.standard_errors import clustered_mean_with_error
from tunelab.units import format_number

ANNOTATIONS, LEADERBOARD = "annotations.json", "leaderboard.csv"

# Percentage points by which the leaderboard may differ from ours: more than rounding, less than another evaluation.
TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Annotation:
    """One judgement: `win` from 0 (the baseline's output) to 1 (the model's); None where the judge gave none."""

    instruction: str
    model: str
    baseline: str
    annotator: str
    win: float | None


def win_rate(folder: Path, *, name: str | None = None) -> Scored:
    """Win rate (0-100) over the baseline with its standard error; also length-controlled if the leaderboard has it.

    Args:
        folder: alpaca_eval's results of one model.
        name: the model's row in leaderboard.csv; None = the model's name in the annotations.

    Raises:
        DataError: files are missing or of several models, there is no preference at all, or the leaderboard is from
            another evaluation.
        BadRow: a row of a file is malformed.
    """
    annotations = read_annotations(folder)
    judged = [one for one in annotations if one.win is not None]
    if not judged:
        raise DataError(f"{folder / ANNOTATIONS}: none of its {len(annotations)} rows has a preference", "judge again")
    wins = [100 * one.win for one in judged if one.win is not None]
    # Several judgements of one instruction are not independent.
    mean = clustered_mean_with_error(wins, [one.instruction for one in judged])
    protocol = {
        "baseline": sorted({one.baseline for one in annotations}),
        "annotators": sorted({one.annotator for one in annotations}),
        "error": "standard error of the mean, clustered by instruction",
    }
    scores = [Score("win_rate", mean.value, mean.error, mean.n, "0-100", higher_is_better=True, protocol=protocol)]
    warnings = []
    if missing := len(annotations) - len(judged):
        warnings.append(f"{missing} of {len(annotations)} rows have no preference: the win rate is over the others")
    controlled, reason = _length_controlled(folder, name or annotations[0].model, scores[0])
    scores += [controlled] if controlled else []
    warnings += [] if controlled else [f"no length-controlled win rate: {reason}"]
    facts = {
        "model": annotations[0].model,
        "instructions": len({one.instruction for one in judged}),
        "wins": sum(win > 50 for win in wins),
        "losses": sum(win < 50 for win in wins),
        "ties": sum(win == 50 for win in wins),
        "missing": missing,
    }
    return Scored(scores=scores, warnings=warnings, facts=facts)


def read_annotations(folder: Path) -> list[Annotation]:
    """Rows of a directory's annotations.json, in order.

    Raises:
        DataError: no such directory or file, or its rows are of several models.
        BadRow: a row lacks a key, or its preference is invalid.
    """
    path = folder / ANNOTATIONS
    if not path.is_file():
        below = sorted(str(found.parent) for found in folder.glob(f"*/{ANNOTATIONS}")) if folder.is_dir() else []
        raise DataError(
            f"{path}: no such file; expected a directory with alpaca_eval's results",
            f"did you mean {' or '.join(below)}?" if below else "run alpaca_eval on the model_outputs.json first",
        )
    annotations = read_rows([path], _annotation)
    _one_model(path, annotations)
    return annotations


def _one_model(path: Path, annotations: Sequence[Annotation]) -> None:
    models = sorted({one.model for one in annotations})
    if len(models) > 1:
        raise DataError(
            f"{path}: contains annotations of {len(models)} models ({', '.join(models)}), expected one",
            "a win rate is for one model: split the file by generator_2",
        )


def _annotation(row: Row) -> Annotation:
    preference = column(row, "preference")
    if preference is not None and (isinstance(preference, bool) or not isinstance(preference, int | float)):
        raise BadRow(f"'preference' is {kind_of(preference)}, expected a number from 1 to 2, or null")
    if preference is not None and preference != 0 and not 1 <= preference <= 2:
        raise BadRow(f"'preference' is {preference}, expected 1 (the baseline) to 2 (the model), or null")
    win = None if preference is None else 0.5 if preference == 0 else float(preference) - 1
    return Annotation(
        instruction=text(row, "instruction"),
        model=text(row, "generator_2"),
        baseline=optional_text(row, "generator_1"),
        annotator=optional_text(row, "annotator"),
        win=win,
    )


def _length_controlled(folder: Path, name: str, plain: Score) -> tuple[Score | None, str]:
    """The leaderboard's length-controlled win rate of a model, or None and the reason."""
    path = folder / LEADERBOARD
    if not path.is_file():
        return None, f"{path} does not exist"
    rows = {_model_name(row): row for row in read_rows([path], lambda row: row)}
    if name not in rows:
        near = ", ".join(sorted(rows)[:5])
        return None, f"{path} has no row named {name!r}; it has {near}{', ...' if len(rows) > 5 else ''}"
    row = rows[name]
    listed = _number(path, row, "win_rate")
    if listed is not None and abs(listed - plain.value) > TOLERANCE:
        raise DataError(
            f"{path}: {name!r} has win_rate {format_number(listed, 3)}, but {ANNOTATIONS} gives "
            f"{format_number(plain.value, 3)}",
            "the two files are from different evaluations: use files that alpaca_eval wrote together",
        )
    value, error = _number(path, row, "length_controlled_winrate"), _number(path, row, "lc_standard_error")
    if value is None:
        return None, f"{path} gives none for {name!r}"
    regression = "length_controlled_v1 of alpaca_eval"
    protocol = {**plain.protocol, "error": f"as {LEADERBOARD} gives it", "regression": regression}
    n = _number(path, row, "n_total")
    count = plain.n if n is None else int(n)
    return Score("length_controlled_win_rate", value, error, count, "0-100", True, protocol), ""


def _model_name(row: Row) -> str:
    """The first column, which pandas writes without a header."""
    return str(next(iter(row.values())))


def _number(path: Path, row: Row, name: str) -> float | None:
    """A cell as a number; None if the column is missing or the cell is empty."""
    cell = str(row.get(name) or "").strip()
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}: {_model_name(row)!r} has {name} {cell!r}, expected a number")
    return value
