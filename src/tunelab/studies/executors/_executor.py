"""The interface of an executor: a module with these two names.

    OPTIONS: Mapping[str, str]      # option -> description; set as strings with `--option NAME=VALUE`
    def run_cells(folder, cells, options, progress): ...

`run_cells` runs each cell with run_cell(folder, cell), which writes the cell's record, also on failure; in another
process with allowed=allowed_code() of this one, since code of the user's own runs nowhere without it. It must run a
cell that needs a training after that training ended, done or failed; record a cell as failed if its process died
without a record (lost()); and raise Interrupted if stopped, naming anything that still runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from tunelab.errors import UsageError
from tunelab.log_lines import Lines
from tunelab.progress import Progress
from tunelab.records.cells import Cell, keep_cell, read_cell


class Executor(Protocol):
    """The two names of an executor module."""

    OPTIONS: Mapping[str, str]

    def run_cells(
        self, folder: Path, cells: Sequence[Cell], options: Mapping[str, str], progress: Progress
    ) -> None: ...


def lost(folder: Path, cell: Cell, why: str) -> None:
    """Record a cell as failed whose process ended without a record."""
    keep_cell(folder, replace(read_cell(folder, cell.key) or cell, status="failed", error=why))


def job_log() -> Progress:
    """Progress of a job in a process of its own: lines on stderr, which the cluster keeps as the job's log."""

    def write(line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    return Lines(write)


def count_option(options: Mapping[str, str], name: str, default: int) -> int:
    """An option that is a positive integer.

    Raises:
        UsageError: it is not.
    """
    value = options.get(name)
    if value is None:
        return default
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"option {name}={value}: expected a positive integer", f"for example {name}={default}")
    return int(value)
