"""`responses.jsonl`: a model's answers, written one by one as they are generated, so that a killed evaluation resumes.

The first line is the header: one JSON object with what produced the answers (model, revision, adapter hash, precision,
template, decoding, tunelab's version: any mapping from the caller). Every other line is one record, a JSON object
with at least `item` (the item's id, unique in the file) and `prompt_hash`. The hash covers the header, the prompt's
tokens and the decoding, so an answer is never reused for another model or another prompt.

Reading needs neither torch nor a model. Likelihood records are stored in files of the same form.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tunelab.errors import RunError
from tunelab.files import named_failures, read_json_lines, truncate_file
from tunelab.records.old_format import likelihood_renamed, stamped, unstamped

Record = dict[str, Any]
File = TypeVar("File", bound="ResponseFile")


def prompt_hash(header: Mapping[str, Any], prompt_ids: Iterable[int], decoding: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the model (the header), the prompt (token ids) and the decoding.

    The order of keys does not matter; every value must be JSON-serializable.
    """
    parts = [_canonical(header), [int(token) for token in prompt_ids], _canonical(decoding)]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def read_responses(path: Path) -> tuple[Record, list[Record]]:
    """Header and records of a file, in file order; a torn last line is left out.

    Raises:
        RunError: the file does not exist, is empty, or has an invalid line.
    """
    if not path.exists():
        raise RunError(f"{path}: no such file", "nothing has been evaluated there yet")
    header, records, _ = _read(path)
    if header is None:
        raise RunError(f"{path}: has no header line", "the evaluation was killed right at the start; run it again")
    return header, records


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a response file against a second process; a killed process releases the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{path}: another process is writing it", "wait for it, or choose another file") from None
        yield


class ResponseFile:
    """A response file, open for resuming: existing records are available, new ones are appended and flushed.

    Use it as a context manager; leaving the block syncs and closes the file. Only one process at a time may have
    a file open; held() ensures that.

    Args:
        path: the file; created, with its directories, if missing. A torn last line, left by a kill,
            is removed.
        header: what produces the answers; must equal the header of an existing file.

    Raises:
        RunError: the headers differ (lists keys and both values), a line is invalid, or the file is something else.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.header: Record = _canonical(header)
        stored, records, length = self._stored()
        if stored is not None and stored != self.header:
            lines = "\n".join(f"  {line}" for line in _differences(stored, self.header))
            raise RunError(
                f"{path}: was made with another model or other settings\n{lines}",
                "use another output directory, or remove the file to answer every item again",
            )
        if not length and path.exists() and path.read_bytes()[:1] not in (b"", b"{"):
            raise RunError(f"{path}: contains something else than answers", "choose another file")
        self._records = {record["item"]: record for record in records}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > length:
            truncate_file(path, length)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        if stored is None:
            try:
                self._keep_header()
            except BaseException:
                self._file.close()
                raise

    def _stored(self) -> tuple[Record | None, list[Record], int]:
        """Header (None if there is none yet), records, and the length in bytes of the complete lines."""
        return _read(self.path)

    def _keep_header(self) -> None:
        self._write(stamped(self.header))

    def __enter__(self: File) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Sync appended records to disk and close; a second call does nothing."""
        if not self._file.closed:
            try:
                with named_failures(self.path):
                    os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, item: str, prompt_hash: str) -> Record | None:
        """The record of this item for this prompt; None if there is none yet.

        Raises:
            RunError: the file has an answer of this item to another prompt: data or template changed since.
        """
        record = self._records.get(item)
        if record is not None and record["prompt_hash"] != prompt_hash:
            raise RunError(
                f"{self.path}: item {item!r} was answered for a different prompt",
                "the data or the template changed; remove the file to answer every item again",
            )
        return record

    def append(self, record: Mapping[str, Any]) -> Record:
        """Append one record and flush it; returns the record as it would be read back.

        Raises:
            RunError: the record has no `item` or `prompt_hash`, or its item is already in the file.
        """
        kept = _checked(_canonical(record), self.path, "the record to append")
        if kept["item"] in self._records:
            raise RunError(f"{self.path}: item {kept['item']!r} is already in the file", "item ids must be unique")
        self._write(kept)
        self._records[kept["item"]] = kept
        return kept

    def _write(self, value: Record) -> None:
        line = memoryview(json_line(value))
        with named_failures(self.path):
            while line:  # an unbuffered write may be partial (a full disk raises)
                line = line[self._file.write(line) :]


def json_line(value: Record) -> bytes:
    """One line of JSON, in UTF-8 if possible, else escaped (a lone surrogate in a text)."""
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n").encode()


def _canonical(value: Mapping[str, Any]) -> Record:
    """The mapping after a JSON round trip: tuples become lists, keys strings. NaN and infinity raise ValueError."""
    result: Record = json.loads(json.dumps(dict(value), allow_nan=False))
    return result


def _read(path: Path) -> tuple[Record | None, list[Record], int]:
    """Header (None if there is none yet), records, and the length in bytes of the complete lines."""
    lines, length = json_objects(path)
    if not lines:
        return None, [], 0
    header, version = unstamped(lines[0], path)
    records = checked_records(lines[1:], path, first_line=2)
    return header, [likelihood_renamed(record) for record in records] if version == 1 else records, length


def json_objects(path: Path) -> tuple[list[Record], int]:
    """The JSON objects of a file, one per line, and the length in bytes of the complete lines; without a torn last one.

    Raises:
        RunError: a line is not a JSON object.
    """
    lines, length = read_json_lines(path)
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict):
            raise RunError(f"{path}: line {number} is {type(line).__name__}, expected a JSON object")
    return lines, length


def checked_records(lines: list[Record], path: Path, *, first_line: int) -> list[Record]:
    """The records, if each has an item and a prompt hash.

    Raises:
        RunError: one has not, or two answer the same item.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, first_line):
        item = _checked(line, path, f"line {number}")["item"]
        if item in seen:
            raise RunError(
                f"{path}: lines {seen[item]} and {number} both answer item {item!r}",
                "two processes wrote to it, or it was edited; remove it",
            )
        seen[item] = number
    return lines


def _checked(record: Record, path: Path, what: str) -> Record:
    for key in ("item", "prompt_hash"):
        if not isinstance(record.get(key), str):
            raise RunError(f"{path}: {what} has no {key!r} (expected a string)")
    return record


def _differences(stored: Any, asked: Any, path: str = "") -> list[str]:
    """Differences between two headers, one line per key: dotted path, stored value, requested value."""
    if not (isinstance(stored, dict) and isinstance(asked, dict)):
        return [] if stored == asked else [f"{path}: {_shown(stored)} in the file, {_shown(asked)} now"]
    lines = []
    for key in sorted({*stored, *asked}):
        below = f"{path}.{key}" if path else key
        if key not in asked:
            lines.append(f"{below}: {_shown(stored[key])} in the file, absent now")
        elif key not in stored:
            lines.append(f"{below}: absent in the file, {_shown(asked[key])} now")
        else:
            lines.extend(_differences(stored[key], asked[key], below))
    return lines


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
