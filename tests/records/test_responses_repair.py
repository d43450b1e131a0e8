"""A file of responses cut at any byte goes on as if nobody had cut it; one that is damaged elsewhere is refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.errors import RunError
from tunelab.records.responses import ResponseFile, read_responses

# JSON values as records hold them, with all of Unicode: line separators and lone surrogates too.
TEXT = st.text(st.characters(codec=None), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.dictionaries(TEXT, VALUES, max_size=3)
RECORDS = st.lists(
    st.fixed_dictionaries({"item": TEXT, "prompt_hash": TEXT, "text": TEXT, "more": VALUES}),
    max_size=5,
    unique_by=lambda record: record["item"],
)


def _fill(path: Path, header: dict[str, Any], records: list[dict[str, Any]]) -> int:
    """Append what is missing; gives how many there were before."""
    with ResponseFile(path, header) as file:
        before = len(file)
        for record in records:
            if file.get(record["item"], record["prompt_hash"]) is None:
                file.append(record)
    return before


@settings(max_examples=60, deadline=None)
@given(HEADERS, RECORDS, st.data())
def test_cut_at_any_byte_and_resumed_is_the_uninterrupted_file(
    header: dict[str, Any], records: list[dict[str, Any]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "responses.jsonl"
        _fill(path, header, records)
        whole = path.read_bytes()
        assert whole.count(b"\n") == 1 + len(records), "a record is one line, whatever it holds"
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n")
        if complete:
            stored_header, stored = read_responses(path)
            assert stored_header == header and stored == records[: complete - 1]
            assert path.read_bytes() == whole[:cut], "reading repairs nothing"
        assert _fill(path, header, records) == max(0, complete - 1)
        assert path.read_bytes() == whole


@settings(max_examples=60, deadline=None)
@given(HEADERS, RECORDS.filter(bool), st.data())
def test_a_line_that_was_cut_in_the_middle_is_refused_by_its_number(
    header: dict[str, Any], records: list[dict[str, Any]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "responses.jsonl"
        _fill(path, header, records)
        lines = path.read_bytes().splitlines(keepends=True)
        number = data.draw(st.integers(1, len(lines) - 1), label="line")  # the last may be torn: it is repaired
        kept = data.draw(st.integers(0, len(lines[number - 1]) - 2), label="bytes kept")
        lines[number - 1] = lines[number - 1][:kept] + b"\n"
        damaged = b"".join(lines)
        path.write_bytes(damaged)
        for read in (lambda: read_responses(path), lambda: ResponseFile(path, header)):
            with pytest.raises(RunError, match=rf"responses\.jsonl: line {number} is not JSON"):
                read()
        assert path.read_bytes() == damaged, "a file that is refused stays as it is"


@settings(max_examples=25, deadline=None)
@given(RECORDS.filter(bool), st.binary(min_size=1, max_size=20))
def test_a_torn_tail_of_any_bytes_is_left_out(records: list[dict[str, Any]], tail: bytes) -> None:
    tail = b"{" + tail.replace(b"\n", b"").replace(b"\r", b"")  # one line, and never JSON on its own
    try:
        json.loads(tail)
        tail = b"{"
    except ValueError:
        pass
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "responses.jsonl"
        _fill(path, {}, records)
        whole = path.read_bytes()
        for end in (b"", b"\n"):
            path.write_bytes(whole + tail + end)
            assert read_responses(path)[1] == records
            assert _fill(path, {}, records) == len(records)
            assert path.read_bytes() == whole
