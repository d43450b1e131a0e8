"""`responses.jsonl`: what a model gave, item by item, written as it is made, so that a killed evaluation resumes.

The first line is the header: one JSON object that says what made the answers (model, revision, adapter hash, precision,
template, decoding, tunelab's version: whatever mapping the caller gives). Every other line is one record, a JSON object
with at least `item` (the item's id, unique in the file) and `prompt_hash`. The hash covers the header, the prompt's
tokens and the decoding, so no file can hand model B the answers of model A, nor an old prompt's answer to a new prompt.

Reading needs neither torch nor a model. Likelihood records are kept in files of the same form.
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
from typing import Any

from tunelab.errors import RunError
from tunelab.files import read_json_lines, truncate_file
from tunelab.records.old_format import likelihood_renamed, stamped, unstamped

Record = dict[str, Any]


def prompt_hash(header: Mapping[str, Any], prompt_ids: Iterable[int], decoding: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of who answers (the header), what is asked (token ids) and how the answer is decoded.

    The order of keys does not matter; every value must be one that JSON can hold.
    """
    parts = [_canonical(header), [int(token) for token in prompt_ids], _canonical(decoding)]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def read_responses(path: Path) -> tuple[Record, list[Record]]:
    """Header and records of a file, in the order in which they were written; a torn last line is left out.

    Raises:
        RunError: the file does not exist, is empty, or holds a line that is none of ours.
    """
    if not path.exists():
        raise RunError(f"{path}: no such file", "nothing was evaluated there yet")
    header, records, _ = _read(path)
    if header is None:
        raise RunError(f"{path}: has no header line", "the evaluation was killed at its very start; run it again")
    return header, records


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep a file of answers from a second process; a killed process holds nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{path}: another process is writing it", "wait for it, or give another file") from None
        yield


class ResponseFile:
    """A file of responses, open for resuming: what is there is known, what is new is appended and flushed.

    Used as a context manager; leaving the block syncs the file to disk and closes it. One process at a time may have
    a file open; the run directory that it lies in is what keeps a second one out.

    Args:
        path: the file; made, with its directories, where it does not exist. A torn last line, as a kill leaves it,
            is cut off.
        header: what makes the answers; must equal the header that an existing file begins with.

    Raises:
        RunError: the headers differ (names the keys and both values), or a line is none of ours.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.header: Record = _canonical(header)
        stored, records, length = _read(path)
        if stored is not None and stored != self.header:
            lines = "\n".join(f"  {line}" for line in _differences(stored, self.header))
            raise RunError(
                f"{path}: was made by something else than what is asked for now\n{lines}",
                "use another output directory, or remove the file to answer every item again",
            )
        self._records = {record["item"]: record for record in records}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > length:
            truncate_file(path, length)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        if stored is None:
            self._write(stamped(self.header))

    def __enter__(self) -> ResponseFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Sync what was appended to disk and close; a second call does nothing."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, item: str, prompt_hash: str) -> Record | None:
        """The record of this item for this prompt; None where it is still to be made.

        Raises:
            RunError: the file holds an answer of this item to another prompt: data or template changed since.
        """
        record = self._records.get(item)
        if record is not None and record["prompt_hash"] != prompt_hash:
            raise RunError(
                f"{self.path}: item {item!r} was answered for another prompt than it has now",
                "the data or the template changed; remove the file to answer every item again",
            )
        return record

    def append(self, record: Mapping[str, Any]) -> Record:
        """Write one record at the end of the file and flush it; gives it back as reading it would.

        Raises:
            RunError: the record has no `item` or `prompt_hash`, or its item is in the file already.
        """
        kept = _checked(_canonical(record), self.path, "the record to append")
        if kept["item"] in self._records:
            raise RunError(f"{self.path}: item {kept['item']!r} is in the file already", "item ids must be unique")
        self._write(kept)
        self._records[kept["item"]] = kept
        return kept

    def _write(self, value: Record) -> None:
        line = memoryview(_line(value))
        while line:  # an unbuffered write may take only a part (a full disk raises)
            line = line[self._file.write(line) :]


def _line(value: Record) -> bytes:
    """One line of JSON, readable where UTF-8 can hold it, escaped where it cannot (a lone surrogate in a text)."""
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n").encode()


def _canonical(value: Mapping[str, Any]) -> Record:
    """The mapping as JSON gives it back: tuples are lists, keys are strings. NaN and infinity raise ValueError."""
    result: Record = json.loads(json.dumps(dict(value), allow_nan=False))
    return result


def _read(path: Path) -> tuple[Record | None, list[Record], int]:
    """Header (None where there is none yet), records, and the length in bytes of the complete lines."""
    try:
        lines, length = read_json_lines(path)
    except ValueError as error:
        raise RunError(
            f"{path}: line {_broken_line(path)} is not JSON", "the file was edited or damaged; remove it"
        ) from error
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict):
            raise RunError(f"{path}: line {number} is {type(line).__name__}, expected a JSON object")
    if not lines:
        return None, [], 0
    seen: dict[str, int] = {}
    for number, line in enumerate(lines[1:], 2):
        item = _checked(line, path, f"line {number}")["item"]
        if item in seen:
            raise RunError(
                f"{path}: lines {seen[item]} and {number} both answer item {item!r}",
                "two processes wrote to it, or it was edited; remove it",
            )
        seen[item] = number
    header, version = unstamped(lines[0], path)
    records = [likelihood_renamed(record) for record in lines[1:]] if version == 1 else lines[1:]
    return header, records, length


def _checked(record: Record, path: Path, what: str) -> Record:
    for key in ("item", "prompt_hash"):
        if not isinstance(record.get(key), str):
            raise RunError(f"{path}: {what} has no {key!r} (expected a string)")
    return record


def _broken_line(path: Path) -> int:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            json.loads(line)
        except ValueError:
            return number
    return 0


def _differences(stored: Any, asked: Any, path: str = "") -> list[str]:
    """What differs between two headers, one line a key: dotted path, stored value, asked value."""
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
