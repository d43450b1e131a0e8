"""All checks of the data, and what they found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tunelab.errors import DataError, UsageError
from tunelab.linting import duplicates, template_checks, text_checks, token_checks
from tunelab.linting.finding import Check, Finding, ShownRow, found_by
from tunelab.linting.rows import LintedRows
from tunelab.progress import Progress, silent
from tunelab.units import format_counted

CHECKS: tuple[Check, ...] = (
    *token_checks.CHECKS,
    *template_checks.CHECKS,
    *duplicates.CHECKS,
    *text_checks.CHECKS,
)

#: Rows that cannot be used. Tokenizing refuses them already, unless data.on_bad_row=skip: they are listed, not allowed.
BAD_ROWS = "bad-rows"

#: Bins of the histograms of lengths.
BINS = 40

#: What a check's progress is called.
STAGE = "checking the data"


@dataclass(frozen=True)
class Histogram:
    """How many rows have which length; bins are equally wide in the logarithm.

    Args:
        edges: [bins + 1].
        counts: [bins].
    """

    name: str
    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Lint:
    """What the checks found in a recipe's rows.

    Args:
        rows: split -> number of rows.
        notes: what was not checked, in sentences.
    """

    rows: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    lengths: tuple[Histogram, ...] = field(default=(), repr=False)

    def errors(self, allowed: Sequence[str] = ()) -> list[Finding]:
        """The findings that stop a training."""
        return [one for one in self.findings if one.level == "error" and one.check not in allowed]

    def with_more(self, findings: Sequence[Finding]) -> Lint:
        """The same with these findings behind the others."""
        return replace(self, findings=(*self.findings, *findings))

    def counts(self, allowed: Sequence[str] = ()) -> dict[str, Any]:
        """Check -> number of rows, by level, and the errors that were let through: for a manifest."""
        counted = {
            level: {one.check: one.count for one in self.findings if one.level == level}
            for level in ("error", "warning")
        }
        return {
            "errors": counted["error"],
            "warnings": counted["warning"],
            "allowed": [name for name in counted["error"] if name in allowed],
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "findings": [one.to_json() for one in self.findings],
            "notes": list(self.notes),
            "lengths": [vars(one) for one in self.lengths],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Lint:
        lengths = [
            Histogram(one["name"], one["unit"], tuple(one["edges"]), tuple(one["counts"])) for one in value["lengths"]
        ]
        findings = tuple(Finding.from_json(one) for one in value["findings"])
        return cls(value["rows"], findings, tuple(value["notes"]), tuple(lengths))


def lint(rows: LintedRows, progress: Progress = silent) -> Lint:
    """Run every check on these rows. Errors come first, then the checks in their order."""
    found = [] if not rows.bad else [_bad_rows(rows.bad)]
    for number, check in enumerate(CHECKS, 1):
        if (finding := found_by(check, rows)) is not None:
            found.append(finding)
        progress(STAGE, number, len(CHECKS))
    found.sort(key=lambda one: one.level != "error")
    return Lint(
        rows={name: len(places) for name, places in rows.splits.items()},
        findings=tuple(found),
        notes=tuple(_notes(rows)),
        lengths=tuple(_histograms(rows)),
    )


def check_allowed(names: Sequence[str]) -> None:
    """Check that these are names of checks that can stop a training.

    Raises:
        UsageError: one is not.
    """
    known = [check.name for check in CHECKS if check.level == "error"]
    for name in names:
        if name == BAD_ROWS:
            raise UsageError(f"{name} cannot be allowed: such rows cannot be tokenized", "set data.on_bad_row=skip")
        if name not in known:
            raise UsageError(
                f"{name!r} cannot be allowed: no check of this name stops a training", f"those are {', '.join(known)}"
            )


def refuse_errors(found: Lint, allowed: Sequence[str]) -> None:
    """Stop if the data have an error that is not allowed.

    Raises:
        UsageError: a name that is allowed is no check's.
        DataError: lists the errors with their remedies.
    """
    check_allowed(allowed)
    errors = found.errors(allowed)
    if not errors:
        return
    lines = [f"\n  {one.check}: {one.what}; {one.why}\n    {one.remedy}" for one in errors]
    names = " ".join(f"--allow {one.check}" for one in errors if one.check != BAD_ROWS)
    raise DataError(
        f"the data checks found {format_counted(len(errors), 'error')}:{''.join(lines)}",
        f"`tunelab lint` shows rows; to train nevertheless: {names}" if names else "`tunelab lint` shows rows",
    )


def _bad_rows(bad: Sequence[str]) -> Finding:
    reasons = [ShownRow(*one.partition(": ")[::2]) for one in bad]
    return Finding(
        check=BAD_ROWS,
        level="warning",
        what=f"{format_counted(len(bad), 'row')} that cannot be used",
        count=len(bad),
        why="they are refused, or left out with data.on_bad_row=skip",
        remedy="fix them, or remove them from the file",
        examples=tuple(reasons[:3]),
        rows=tuple(one.row for one in reasons),
    )


def _notes(rows: LintedRows) -> list[str]:
    notes = []
    if rows.table is None:
        notes.append("tokens and template were not checked: no model is given (--model NAME, or a recipe)")
    if not duplicates.has_library():
        notes.append(duplicates.NOT_INSTALLED)
    return notes


def _histograms(rows: LintedRows) -> list[Histogram]:
    if not len(rows):
        return []
    lengths = text_checks.lengths_of(rows)
    if rows.table is None:
        return [_histogram("rows", "characters", lengths)]
    answers = np.asarray(rows.table.targets)
    return [_histogram("rows", "tokens", lengths), _histogram("answers", "tokens", answers)]


def _histogram(name: str, unit: str, lengths: Any) -> Histogram:
    low, high = max(1, int(lengths.min())), max(2, int(lengths.max()))
    edges = np.geomspace(low, high + 1, BINS + 1)
    counts, _ = np.histogram(np.maximum(lengths, low), bins=edges)
    return Histogram(name, unit, tuple(map(float, edges)), tuple(map(int, counts)))
