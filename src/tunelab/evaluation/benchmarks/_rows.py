"""Find a benchmark's files in a folder and read their rows; shared by several benchmarks.

A benchmark is read completely or not at all: one bad row stops it, because a score over other items is another score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tunelab.data.sources._source import Row
from tunelab.data.tables import file_rows
from tunelab.errors import BadRow, DataError

T = TypeVar("T")


def find_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files that match the first pattern with any match, by name ("test.jsonl", "main/test-*.parquet").

    A file in place of the folder is taken if it has one of the names: then it is the only one.

    Raises:
        DataError: the folder does not exist, has none of the files, or is a file of another name.
    """
    if folder.is_file() and any(folder.match(pattern) for pattern in patterns):
        return [folder]
    if not folder.is_dir():
        kind = f"is a file, expected a folder, or {' or '.join(patterns)}" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {kind}", "give the folder with the benchmark's files")
    for pattern in patterns:
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found
    raise DataError(
        f"{folder}: contains no {' and no '.join(patterns)}",
        "give the folder with the benchmark's files under these names, or omit it to use the hub",
    )


def read_rows(files: Sequence[Path], read: Callable[[Row], T]) -> list[T]:
    """The result of `read` for every row of these files (.jsonl, .json, .csv, .parquet), in order.

    Args:
        read: row -> value; raises BadRow with the reason only.

    Raises:
        DataError: a file cannot be read, or there are no rows.
        BadRow: a row is bad; names file and row.
    """
    values: list[T] = []
    for path in files:
        for number, row in file_rows(path):
            try:
                if isinstance(row, BadRow):
                    raise row
                values.append(read(row))
            except BadRow as error:
                raise BadRow(
                    f"{path}: row {number}: {error.message}",
                    error.hint or "every row of a benchmark is required: fix it, or download the file again",
                ) from None
    if not values:
        raise DataError(f"{', '.join(map(str, files))}: no rows", "is the file complete?")
    return values
