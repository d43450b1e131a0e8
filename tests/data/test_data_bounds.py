"""Data that is too large for one row or file, and sources of the user's own that go wrong, are named and bounded."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tunelab.allowed_code import allow_code
from tunelab.data import reader, tables
from tunelab.data.reader import load_examples
from tunelab.errors import DataError

GOOD = json.dumps({"prompt": "p", "completion": "c"}) + "\n"
SOURCE = """
from tunelab.data.messages import Conversation, Message
from tunelab.data.sources._source import SourceOptions
HUB, LICENCE, COLUMNS, EXAMPLE = None, 'CC0', frozenset({'q'}), [{'q': 'x'}]
class Options(SourceOptions):
    pass
def examples(row, options):
    while True:
        pass
"""


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_line_that_is_too_long_is_one_bad_row(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST_LINE", 1000)
    text = (GOOD + '{"prompt": "' + "x" * 5000 + '", "completion": "c"}\n' + GOOD).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    loaded = load_examples("prompt-completion", path=tmp_path / name, on_bad_row="skip")
    assert len(loaded.examples) == 2 and loaded.rows_read == 3
    assert loaded.bad_rows[0].startswith(f"{name} row 2: the line is longer than")


@pytest.mark.parametrize("name", ["rows.json.gz", "rows.csv.gz"])
def test_a_file_that_grows_when_it_is_unpacked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LARGEST_FILE", 100_000)
    (tmp_path / name).write_bytes(gzip.compress(b"x" * 1_000_000))
    with pytest.raises(DataError, match=rf"{name}: more than .* unpacked, which is the most that is read at once"):
        load_examples("prompt-completion", path=tmp_path / name)


def test_a_row_of_more_characters_than_any_model_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST_ROW", 1000)
    path = tmp_path / "rows.json"
    turns = [{"role": "user", "content": "x" * 2000}, {"role": "assistant", "content": "c"}]
    path.write_text(json.dumps([{"messages": turns}, {"messages": [{**turns[0], "content": "p"}, turns[1]]}]))
    loaded = load_examples("messages", path=path, on_bad_row="skip")
    assert len(loaded.examples) == 1
    assert "row 1: 2,014 characters, at most 1,000 are read as one row" in loaded.bad_rows[0]


def test_a_source_of_the_users_own_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SECONDS_PER_ROW", 0.2)
    source, path = tmp_path / "mine.py", tmp_path / "rows.jsonl"
    source.write_text(SOURCE)
    path.write_text('{"q": "p"}\n')
    allow_code(source)
    with pytest.raises(DataError, match=r"mine\.py: a row takes more than 0\.2 s of processor time"):
        load_examples(str(source), path=path)
