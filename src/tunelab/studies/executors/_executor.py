"""What every executor of a study's cells is: a module with these two names.

    OPTIONS: Mapping[str, str]      # its options and what they mean; `--option NAME=VALUE` gives them as text
    def run_cells(folder, cells, options, progress): ...

`run_cells` runs each cell by run_cell(folder, cell.key), which writes the cell's record, failed ones too. It owes three
things: a cell that needs a training runs after it has ended, well or not; a cell whose process died without a record is
recorded as failed (lost()); Interrupted where work was asked to stop, with nothing left running that is not said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from tunelab.errors import UsageError
from tunelab.progress import Progress
from tunelab.records.cells import Cell, keep_cell, read_cell


class Executor(Protocol):
    """The two names of an executor's module."""

    OPTIONS: Mapping[str, str]

    def run_cells(
        self, folder: Path, cells: Sequence[Cell], options: Mapping[str, str], progress: Progress
    ) -> None: ...


def lost(folder: Path, cell: Cell, why: str) -> None:
    """Record a cell as failed whose process ended without a word."""
    keep_cell(folder, replace(read_cell(folder, cell.key) or cell, status="failed", error=why))


def count_option(options: Mapping[str, str], name: str, default: int) -> int:
    """An option that is a number of things, 1 or more.

    Raises:
        UsageError: it is something else.
    """
    value = options.get(name)
    if value is None:
        return default
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"option {name}={value}: expected a number, 1 or more", f"for example {name}={default}")
    return int(value)
