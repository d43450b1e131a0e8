"""Writing files so that a kill at any byte leaves either the old content or the new one, never a half of each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def file_stem(text: str) -> str:
    """A text as a part of a file name: letters, digits and hyphens."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in text).split()).lower() or "unnamed"


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable (POSIX: a rename is on disk only once its directory is synced)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8): temporary name in the same directory, fsync, rename, fsync of the directory."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_directory(path.parent)


def write_json_atomically(path: Path, value: Any) -> None:
    """`value` as indented JSON with a final newline, written as write_text_atomically does."""
    write_text_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def directory_written_atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary directory to fill; when the block ends, its files are synced and it takes the name `path`.

    If the block raises, the temporary directory is removed and `path` stays as it was. An existing `path` is replaced:
    it is renamed away first, so that a kill between the two renames leaves it under `.{name}.old`, which
    recover_directory() puts back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            else:
                fsync_directory(file)
        fsync_directory(temporary)
        old = path.with_name(f".{path.name}.old")
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(path, old)
        os.rename(temporary, path)
        fsync_directory(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def recover_directory(path: Path) -> None:
    """Undo a replacement by directory_written_atomically that was killed between its two renames."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        os.rename(old, path)


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The complete JSON lines of a file that is appended to, and the byte length that they take.

    A torn last line (no newline, or no JSON: the writer was killed) is left out of both.
    A file that does not exist has no lines.
    """
    if not path.exists():
        return [], 0
    data = path.read_bytes()
    records: list[dict[str, Any]] = []
    good = 0
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            records.append(json.loads(line))
        except ValueError:
            if good + len(line) == len(data):
                break
            raise
        good += len(line)
    return records, good


def truncate_file(path: Path, length: int) -> None:
    """Cut a file to its first `length` bytes, durably."""
    with open(path, "r+b") as file:
        file.truncate(length)
        file.flush()
        os.fsync(file.fileno())
