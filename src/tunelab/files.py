"""Atomic file writes: a kill at any byte leaves either the old or the new content, never a mix."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


def kept_digest(state: object, computed: Callable[[], str]) -> str:
    """The sha256 (hex) of files in this state (places, sizes, times): from the cache, or computed if not whole."""
    known = cache_home() / "digests" / hashlib.sha256(repr(state).encode()).hexdigest()
    with suppress(OSError, ValueError):
        if re.fullmatch("[0-9a-f]{64}", found := known.read_text(encoding="utf-8").strip()):
            return found
    digest = computed()
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        known.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(known, digest + "\n")
    return digest


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable (POSIX: a rename is on disk only once its directory is synced)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace `path` with `text` (UTF-8): temporary file in the same directory, fsync, rename, directory fsync."""
    with named_failures(path):
        with _temporary_text(path, text) as temporary:
            os.replace(temporary, path)
        _sync_names(path.parent)


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


def write_text_once(path: Path, text: str) -> None:
    """Create `path` with `text`, whole at once; a file that is there stays, also if two processes write it."""
    with _temporary_text(path, text) as temporary, suppress(FileExistsError):
        os.link(temporary, path)


@contextmanager
def _temporary_text(path: Path, text: str) -> Iterator[Path]:
    """A temporary file with `text`, synced; it is gone at the end of the block. Removes those of killed writers."""
    temporary = _temporary(path)
    _remove_abandoned(path)
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            _lock(file.fileno())
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def file_written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a library to write; at the end of the block the file is synced and renamed to `path`.

    If the block raises, the temporary file is removed and `path` is unchanged.
    """
    temporary = _temporary(path)
    with named_failures(path):
        _remove_abandoned(path)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_names(path.parent)


def write_json_atomically(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, like write_text_atomically."""
    write_text_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def directory_written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary directory to fill; at the end of the block, its files are synced and it is renamed to `path`.

    If the block raises, the temporary directory is removed and `path` is unchanged. An existing `path` is replaced:
    it is renamed first, so that a kill between the two renames leaves it at `.{name}.old`, from where
    recover_directory() restores it. What killed writers of `path` left is repaired and removed first.
    """
    with named_failures(path):
        yield from _written_atomically(path)


def _written_atomically(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_directory(path)
    temporary = _temporary(path)
    temporary.mkdir()
    old = path.with_name(f".{path.name}.old")
    try:
        with _locked(temporary):
            yield temporary
            _sync_tree(temporary)
            _put_in_place(temporary, path, old)
            _sync_names(path.parent)
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise


def _temporary(path: Path) -> Path:
    """A name of its own next to `path`: processes of two containers that share a disk may have the same id."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.tmp")


def _put_in_place(temporary: Path, path: Path, old: Path) -> None:
    """Rename `temporary` to `path`, and what is there to `old`; of two writers at once, the later one wins."""
    for tries_left in reversed(range(20)):
        try:
            if path.exists():
                os.rename(path, old)
            os.rename(temporary, path)
            return
        except OSError as error:
            is_race = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) and temporary.exists()
            if not (is_race and tries_left):
                raise
            shutil.rmtree(old, ignore_errors=True)  # of the other writer, whose directory is in place


def _sync_names(folder: Path) -> None:
    """Make a rename durable. If that fails, the content is still in place; only a power cut could undo it."""
    with suppress(OSError):
        fsync_directory(folder)


def check_is_new(path: Path) -> None:
    """Check that nothing is at `path`, after repairing what a killed writer left there.

    Raises:
        UsageError: something is.
    """
    recover_directory(path)
    if path.exists():
        raise UsageError(f"{path}: exists already", "choose another directory with --out")


def _sync_tree(folder: Path) -> None:
    """Give all files the modes of the umask (some libraries write weights as 0600), and make them durable."""
    for file in folder.rglob("*"):
        file.chmod((0o666 if file.is_file() else 0o777) & ~_umask())
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        else:
            fsync_directory(file)
    fsync_directory(folder)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a lock on a temporary directory: its writer is alive. The system drops it when the writer is killed."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    with suppress(OSError):  # a file system without locks: there nothing is removed as abandoned either
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_running(temporary: Path) -> bool:
    """Whether another process of this machine has the id in a temporary's name: it may be about to take its lock."""
    number = temporary.name.split(".")[-2]
    # A container's processes have the same ids after each start: its own id says nothing.
    return number.isdecimal() and int(number) != os.getpid() and Path(f"/proc/{number}").exists()


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files and directories for `path` whose writers were killed."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if _is_running(temporary):
            continue
        with suppress(OSError):  # another process removed it first, or its writer holds the lock
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
            finally:
                os.close(descriptor)


def _umask() -> int:
    """The process's umask, which the system tells only while it is set."""
    current = os.umask(0o022)
    os.umask(current)
    return current


def recover_directory(path: Path) -> None:
    """Repair what a killed directory_written_atomically left: an interrupted replacement is undone, or completed."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        with suppress(FileNotFoundError):  # another process was faster
            os.rename(old, path)
    shutil.rmtree(old, ignore_errors=True)
    _remove_abandoned(path)


def recover_all_in(folder: Path) -> None:
    """Repair or remove what killed writers left in a directory; only under a lock: a living one's looks the same."""
    for old in folder.glob(".*.old"):
        recover_directory(folder / old.name.removeprefix(".").removesuffix(".old"))
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def read_text(path: Path, error: type[TunelabError], remedy: str, *, key: str | None = None) -> str:
    """The text of a file in UTF-8; line ends become "\\n".

    Args:
        error: what is raised, and with which remedy, if it is not UTF-8.
        key: the setting that names the file, if one does.

    Raises:
        TunelabError: of that kind: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as reason:
        named = f"{key}: {path}" if key else str(path)
        raise error(f"{named}: not UTF-8 at byte {reason.start}", remedy) from None


def read_json(
    path: Path, error: type[TunelabError] = RunError, remedy: str = "restore it from a copy, or start again"
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        error: what is raised, and with which remedy, if the file is something else; the default is for files of a run.

    Raises:
        TunelabError: of that kind: it is not UTF-8, not JSON, or no object.
        OSError: it cannot be read.
    """
    text = read_text(path, error, remedy)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: not JSON: {reason}", remedy) from None
    if not isinstance(found, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(found), repr(found)[:40])
        raise error(f"{path}: expected a JSON object, got {kind}", remedy)
    return found


class DuplicateKeyError(ValueError):
    """An object of a JSON text has a key twice."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text that people or other programs wrote.

    Raises:
        DuplicateKeyError: an object has a key twice, of which json.loads() keeps the last.
        ValueError: it is not JSON.
        RecursionError: it is nested too deep.
    """
    return _DECODER.decode(text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass"))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        key = next(name for name in names if names.count(name) > 1)
        first, second = (str(value)[:40] for value in [value for name, value in pairs if name == key][:2])
        raise DuplicateKeyError(f"duplicate key {key!r} in one object, with {first!r} and {second!r}")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates)  # kept: json.loads() makes one for each line


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The complete JSON lines of an append-only file, and their length in bytes.

    A torn last line (no newline, or not JSON: the writer was killed) is left out of both. No file has no lines.

    Raises:
        RunError: another line is not JSON, or an object has a key twice.
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
            records.append(parse_json(line))
        except DuplicateKeyError as error:
            remedy = "the file was edited or damaged; remove it"
            raise RunError(f"{path}: line {len(records) + 1}: {error}", remedy) from None
        except (ValueError, RecursionError):
            if good + len(line) == len(data):
                break
            number = len(records) + 1
            raise RunError(f"{path}: line {number} is not JSON", "the file was edited or damaged; remove it") from None
        good += len(line)
    return records, good


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def truncate_file(path: Path, length: int) -> None:
    """Cut a file to its first `length` bytes, durably."""
    with open(path, "r+b") as file:
        file.truncate(length)
        file.flush()
        os.fsync(file.fileno())


def file_stem(text: str) -> str:
    """Turn text into part of a file name: letters, digits and hyphens."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in text).split()).lower() or "unnamed"
