"""Atomic file writes: a kill at any byte leaves either the old or the new content, never a mix."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunelab.errors import RunError, TunelabError, UsageError
from tunelab.failures import system_error


def as_path(value: object, what: str = "path") -> Path:
    """A path from a path or a string.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(value, str | os.PathLike):
        return Path(value)
    raise UsageError(f"{what} is {type(value).__name__}, expected a path", "give a string or a pathlib.Path")


def cache_home() -> Path:
    """Tunelab's cache of reproducible files: $TUNELAB_CACHE, or tunelab in the user's cache directory."""
    home = os.environ.get("TUNELAB_CACHE")
    return Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunelab"


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable (POSIX: a rename is on disk only once its directory is synced)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace `path` with `text` (UTF-8): temporary file in the same directory, fsync, rename, directory fsync."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with named_failures(path):
        try:
            with open(temporary, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)


@contextmanager
def named_failures(path: Path) -> Iterator[None]:
    """Let failures of the system (a full disk, no permission) name the file: those of a write do not say which it was.

    Raises:
        OSError: in place of what a library makes of such a failure.
    """
    try:
        yield
    except TunelabError:
        raise
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    except Exception as error:
        number = system_error(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def write_json_atomically(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, like write_text_atomically."""
    write_text_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def directory_written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary directory to fill; at the end of the block, its files are synced and it is renamed to `path`.

    If the block raises, the temporary directory is removed and `path` is unchanged. An existing `path` is replaced:
    it is renamed first, so that a kill between the two renames leaves it at `.{name}.old`, from where
    recover_directory() restores it.
    """
    with named_failures(path):
        yield from _written_atomically(path)


def _written_atomically(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            file.chmod((0o666 if file.is_file() else 0o777) & ~_umask())  # some libraries write weights as 0600
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


def _umask() -> int:
    """The process's umask, which the system tells only while it is set."""
    current = os.umask(0o022)
    os.umask(current)
    return current


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a directory; only under a lock, since a living writer's looks the same."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def recover_directory(path: Path) -> None:
    """Undo a replacement by directory_written_atomically that was killed between its two renames."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        os.rename(old, path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that tunelab wrote.

    Raises:
        RunError: the file is something else, for example empty.
        OSError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged: not JSON: {error}", "restore it from a copy, or start again") from None
    if not isinstance(found, dict):
        raise RunError(f"{path}: damaged: expected a JSON object", "restore it from a copy, or start again")
    return found


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The complete JSON lines of an append-only file, and their length in bytes.

    A torn last line (no newline, or not JSON: the writer was killed) is left out of both.
    A file that does not exist has no lines.

    Raises:
        RunError: another line is not JSON.
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
            number = len(records) + 1
            raise RunError(f"{path}: line {number} is not JSON", "the file was edited or damaged; remove it") from None
        good += len(line)
    return records, good


def truncate_file(path: Path, length: int) -> None:
    """Cut a file to its first `length` bytes, durably."""
    with open(path, "r+b") as file:
        file.truncate(length)
        file.flush()
        os.fsync(file.fileno())


def file_stem(text: str) -> str:
    """Turn text into part of a file name: letters, digits and hyphens."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in text).split()).lower() or "unnamed"
