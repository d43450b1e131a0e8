"""Output of the verbs: messages and progress on stderr, data on stdout; plain text when not on a terminal."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunelab.cli._progress import Bars, Lines
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


def command(*words: object) -> str:
    """A command line of tunelab's, quoted for a shell."""
    return shlex.join(["tunelab", *map(str, words)])


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


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Progress of long work on stderr: bars on a terminal, a few lines elsewhere; one process of several reports."""
    if int(os.environ.get("RANK", "0")) > 0:  # as torchrun sets it
        yield silent
    elif is_terminal(sys.stderr):
        with Bars(console(sys.stderr)) as bars:
            yield bars
    else:
        yield Lines(say)
