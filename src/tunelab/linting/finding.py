"""What a check of the data found, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tunelab.linting.rows import LintedRows
from tunelab.linting.secrets import EMAIL_SHAPES, SECRET_SHAPES, occurrences

Level = Literal["error", "warning"]

#: In place of a row's text.
HIDDEN = "(not shown: it has what looks like a secret, or an e-mail address)"
NEVER_SHOWN = {**SECRET_SHAPES, **EMAIL_SHAPES}

#: Examples per finding, and characters of each.
EXAMPLES, CHARACTERS = 3, 300


@dataclass(frozen=True)
class Flagged:
    """The rows that a check objects to.

    Args:
        what: one sentence about them, with their number.
        rows: their places among the rows that were checked.
        show: a row's place -> what to show of it.
        shows_text: whether that has texts of rows, and so their secrets.
    """

    what: str
    rows: Sequence[int]
    show: Callable[[int], str]
    shows_text: bool = True


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        name: for --allow and data.allow.
        level: an error stops a training, a warning is printed.
        why: why it matters.
        remedy: what to do.
        find: the rows that it objects to; None = it found nothing, or does not apply.
    """

    name: str
    level: Level
    why: str
    remedy: str
    find: Callable[[LintedRows], Flagged | None]


@dataclass(frozen=True)
class ShownRow:
    """One example of a finding: "FILE row N", and what to see in it."""

    row: str
    shown: str


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        count: number of rows.
        examples: the first rows.
        rows: all of them, "FILE row N".
    """

    check: str
    level: Level
    what: str
    count: int
    why: str
    remedy: str
    examples: tuple[ShownRow, ...] = ()
    rows: tuple[str, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Finding:
        examples = tuple(ShownRow(**one) for one in value["examples"])
        return cls(**{**value, "examples": examples, "rows": tuple(value["rows"])})


def found_by(check: Check, rows: LintedRows) -> Finding | None:
    """What the check finds in these rows; None if nothing."""
    flagged = check.find(rows)
    if flagged is None or not len(flagged.rows):
        return None
    return Finding(
        check=check.name,
        level=check.level,
        what=flagged.what,
        count=len(flagged.rows),
        why=check.why,
        remedy=check.remedy,
        examples=tuple(ShownRow(rows.origins[row], _shown(flagged, rows, row)) for row in flagged.rows[:EXAMPLES]),
        rows=tuple(rows.origins[row] for row in flagged.rows),
    )


def _shown(flagged: Flagged, rows: LintedRows, row: int) -> str:
    """What to show of a row; of one with a secret or an address nothing, for a part of it may be cut off and remain."""
    shown = flagged.show(row)
    if flagged.shows_text and occurrences((rows.prompts[row], rows.answers[row], shown), NEVER_SHOWN):
        return HIDDEN
    return shortened(shown)


def shortened(text: str) -> str:
    """Its beginning, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= CHARACTERS else line[: CHARACTERS - 1] + "…"
