"""What the data checks found in the rows of a report's trainings, as plain data: a part of a report (content.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunelab.linting.finding import ShownRow


@dataclass(frozen=True, slots=True)
class DataFinding:
    """What one check found.

    Attributes:
        check: its name ("near-duplicates").
        level: an error was let through (data.allow).
        what, why, remedy: a sentence each, without a full stop.
        count: number of rows.
        examples: up to three of them.
        trainings: of which trainings or arms ("lora; nf4, seed 1"); "" = of all.
    """

    check: str
    level: Literal["error", "warning"]
    what: str
    count: int
    why: str
    remedy: str
    examples: tuple[ShownRow, ...] = ()
    trainings: str = ""

    @property
    def tag(self) -> str:
        return "error, allowed" if self.level == "error" else self.level


@dataclass(frozen=True, slots=True)
class DataChecks:
    """All of them.

    Attributes:
        said: what was checked, with what result, and what was not, in sentences.
        findings: errors first.
    """

    said: tuple[str, ...]
    findings: tuple[DataFinding, ...] = ()
