"""Output of the verbs: messages and progress on stderr, data on stdout; plain text when not on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from tunelab.progress import Progress, silent

UNBOUNDED = 1_000_000  # columns: piped output is never truncated or wrapped


def is_terminal(stream: TextIO) -> bool:
    """Whether this stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def console(stream: TextIO) -> Console:
    """A rich console: colors on a terminal unless NO_COLOR is set, plain and never truncated elsewhere."""
    if is_terminal(stream):
        return Console(file=stream, highlight=False, no_color=bool(os.environ.get("NO_COLOR")), emoji=False)
    return Console(
        file=stream,
        highlight=False,
        no_color=True,
        color_system=None,
        width=UNBOUNDED,
        force_terminal=False,
        emoji=False,
    )


def say(message: str) -> None:
    """Print a message on stderr."""
    print(message, file=sys.stderr, flush=True)


def print_data(text: str) -> None:
    """Print a result on stdout as it is, with one newline at its end."""
    print(text, end="" if text.endswith("\n") else "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: first column left-aligned, the others right-aligned.

    Drawn on a terminal; elsewhere plain text of any width, with aligned columns two spaces apart.

    Raises:
        ValueError: a row's number of cells differs from the number of columns.
    """
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ValueError(f"row {number} has {len(row)} cells, the table has {len(columns)} columns")
    if not is_terminal(sys.stdout):
        print_data(_plain_table(columns, rows))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console(sys.stdout).print(table)


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    aligned = []
    for line in lines:
        cells = [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        aligned.append("  ".join(cells).rstrip())
    return "\n".join(aligned) + "\n"


class _RateColumn(ProgressColumn):
    """Units done per second, over the last seconds."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s")


class _Bars:
    """tunelab.progress.Progress as one rich bar for each stage."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._stages: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        if stage not in self._stages:
            self._stages[stage] = self._bars.add_task(stage, total=total, detail="")
        self._bars.update(self._stages[stage], completed=done, total=total, detail=detail)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Progress of long work: bars with rate and time left on stderr, or nothing if stderr is not a terminal."""
    if not is_terminal(sys.stderr):
        yield silent
        return
    bars = RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=console(sys.stderr),
        redirect_stdout=False,  # stdout is data: a bar must never touch it
    )
    with bars:
        yield _Bars(bars)
