"""Output of the verbs: messages and progress on stderr, data on stdout; plain text when not on a terminal."""

from __future__ import annotations

import atexit
import gc
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

from tunelab.cli._progress import Bars
from tunelab.log_lines import Lines
from tunelab.progress import Progress, silent
from tunelab.report.table_layout import column_parts, fits, named_lines, number_columns

UNBOUNDED = 1_000_000  # columns: piped output is never truncated or wrapped
MANY_MODULES = 500  # torch with transformers and PEFT are some 3,500


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


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without looking for garbage meanwhile: what is imported stays, and looking takes a sixth of the time.

    Where it was much, later searches leave it out too.
    """
    collected, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) - before > MANY_MODULES:
            gc.freeze()
            atexit.register(gc.unfreeze)  # what the interpreter cannot collect at its end, nanobind reports as leaked
        if collected:
            gc.enable()


def say(message: str) -> None:
    """Print a message on stderr."""
    print(message, file=sys.stderr, flush=True)


def say_base(name: str) -> None:
    """Say of a GGUF file how it stored its weights, and that they are dense from here on; nothing of other models."""
    from tunelab.models.gguf.reading import gguf_sentences

    for sentence in gguf_sentences(name):
        say(sentence)


def command(*words: object) -> str:
    """A command line of tunelab's, quoted for a shell."""
    return shlex.join(["tunelab", *map(str, words)])


def print_data(text: str) -> None:
    """Print a result on stdout as it is, with one newline at its end."""
    print(text, end="" if text.endswith("\n") else "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, keys: int = 1) -> None:
    """Print a table on stdout: columns of numbers right-aligned, all others left-aligned.

    Drawn on a terminal, in several parts below each other if it is too wide, so that no word is broken; elsewhere plain
    text of any width, with aligned columns two spaces apart.

    Args:
        keys: number of columns at the left that name a row; every part has them.

    Raises:
        ValueError: a row's number of cells differs from the number of columns.
    """
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ValueError(f"row {number} has {len(row)} cells, the table has {len(columns)} columns")
    if not is_terminal(sys.stdout):
        print_data(_plain_table(columns, rows))
        return
    screen = console(sys.stdout)
    for part in column_parts(columns, rows, keys, screen.width):
        names, cells = [columns[place] for place in part], [[row[place] for place in part] for row in rows]
        if fits(columns, rows, part, screen.width):
            screen.print(_drawn_table(names, cells))
        else:
            named = [(", ".join(line[:keys]), line[-1]) for line in (names, *cells)]
            print_data("\n".join(["", *named_lines(named, screen.width), ""]))


def _drawn_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column, is_number in zip(columns, number_columns(columns, rows), strict=True):
        table.add_column(Text(column), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    to_the_right = number_columns(columns, rows)
    aligned = []
    for line in lines:
        cells = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, to_the_right, strict=True)
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
