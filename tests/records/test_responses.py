"""A file of responses: keyed so that answers cannot be mixed up, whole after a kill at any byte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunelab.errors import RunError
from tunelab.records.responses import ResponseFile, prompt_hash, read_responses

HEADER: dict[str, Any] = {"model": "tiny", "adapter": None, "decoding": {"method": "greedy", "max_new_tokens": 8}}
TEXTS = {"0": "plain", "1": "zwölf\n水", "2": "", "3": "lone \ud83d surrogate"}


def _fill(path: Path, header: dict[str, Any] | None = None) -> int:
    """Answer what is missing; gives how many were made."""
    made = 0
    header = header or HEADER
    with ResponseFile(path, header) as file:
        for item, text in TEXTS.items():
            key = prompt_hash(header, [int(item), 7], header["decoding"])
            if file.get(item, key) is None:
                file.append({"item": item, "prompt_hash": key, "text": text, "token_ids": (1, 2)})
                made += 1
    return made


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "responses.jsonl"
    assert _fill(path) == 4
    header, records = read_responses(path)
    assert header == HEADER
    assert {record["item"]: record["text"] for record in records} == TEXTS
    assert records[0]["token_ids"] == [1, 2]
    assert "zwölf".encode() in path.read_bytes(), "text must stay readable in the file"
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0]) == {"format_version": 2, **HEADER}


def test_a_second_opening_makes_nothing_again(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    _fill(path)
    before = path.read_bytes()
    assert _fill(path) == 0
    assert path.read_bytes() == before


def test_killed_at_any_byte_and_resumed_is_the_uninterrupted_file(tmp_path: Path) -> None:
    _fill(tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "killed.jsonl"
    borders = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for length in sorted({*range(0, len(whole), 7), *borders, *(place + 1 for place in borders[:-1])}):
        path.write_bytes(whole[:length])
        assert _fill(path) >= 1
        assert path.read_bytes() == whole, f"killed after {length} bytes"


def test_an_answer_is_on_disk_before_the_next_is_made(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    with ResponseFile(path, HEADER) as file:
        file.append({"item": "0", "prompt_hash": "a"})
        assert [record["item"] for record in read_responses(path)[1]] == ["0"]
        assert len(file) == 1


def test_the_hash_covers_model_prompt_and_decoding_but_not_the_order_of_keys() -> None:
    decoding = {"method": "greedy", "stop": (1, 2)}
    hashes = {
        prompt_hash(HEADER, [1, 2], decoding),
        prompt_hash({**HEADER, "model": "other"}, [1, 2], decoding),
        prompt_hash({**HEADER, "adapter": "f00"}, [1, 2], decoding),
        prompt_hash(HEADER, [12], decoding),
        prompt_hash(HEADER, [1, 2], {**decoding, "method": "sample"}),
    }
    assert len(hashes) == 5
    same = prompt_hash(dict(reversed(HEADER.items())), (1, 2), {"stop": [1, 2], "method": "greedy"})
    assert same in hashes


def test_another_header_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    _fill(path)
    before = path.read_bytes()
    other = {"model": "tiny", "decoding": {"method": "greedy", "max_new_tokens": 9}, "revision": "main"}
    with pytest.raises(RunError, match="was made with another model or other settings") as caught:
        ResponseFile(path, other)
    lines = [line.strip() for line in caught.value.message.splitlines()[1:]]
    assert lines == [
        "adapter: null in the file, absent now",
        "decoding.max_new_tokens: 8 in the file, 9 now",
        'revision: absent in the file, "main" now',
    ]
    assert path.read_bytes() == before


def test_the_answer_to_an_old_prompt_is_not_given_for_a_new_one(tmp_path: Path) -> None:
    with ResponseFile(tmp_path / "responses.jsonl", HEADER) as file:
        file.append({"item": "0", "prompt_hash": "old"})
        with pytest.raises(RunError, match="item '0' was answered for a different prompt"):
            file.get("0", "new")


def test_records_without_key_or_twice_are_refused(tmp_path: Path) -> None:
    with ResponseFile(tmp_path / "responses.jsonl", HEADER) as file:
        with pytest.raises(RunError, match=r"the record to append has no 'prompt_hash' \(expected a string\)"):
            file.append({"item": "0"})
        with pytest.raises(RunError, match="the record to append has no 'item'"):
            file.append({"item": 0, "prompt_hash": "a"})
        file.append({"item": "0", "prompt_hash": "a"})
        with pytest.raises(RunError, match="item '0' is already in the file"):
            file.append({"item": "0", "prompt_hash": "b"})
        with pytest.raises(ValueError, match="not JSON compliant"):
            file.append({"item": "1", "prompt_hash": "b", "nll": float("nan")})
    assert len(read_responses(tmp_path / "responses.jsonl")[1]) == 1


RECORD = '{"item": "0", "prompt_hash": "a"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}\nbroken\n" + RECORD, "line 2 is not JSON"),
        pytest.param("{}\n" + "[" * 100_000 + "\n" + RECORD, "line 2 is not JSON", id="nested too deeply"),
        ("{}\n3\n", "line 2 is int, expected a JSON object"),
        ('{}\n{"item": "0"}\n', "line 2 has no 'prompt_hash'"),
        ("{}\n" + RECORD + RECORD, "lines 2 and 3 both answer item '0'"),
        ('{"mod', "has no header line"),
    ],
)
def test_files_that_are_none_of_ours_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=message):
        read_responses(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        read_responses(tmp_path / "responses.jsonl")


def test_reading_needs_no_torch() -> None:
    code = "import tunelab.records.responses, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="notes: contains something else than answers"):
        _fill(tmp_path / "notes")
    assert (tmp_path / "notes").read_text(encoding="utf-8") == "mine"
