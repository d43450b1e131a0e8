"""No column that would change what is learned is read over; every column that is not read is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunelab.data.prompts import as_prompts
from tunelab.data.reader import load_examples
from tunelab.data.unread_columns import CHANGE_WHAT_IS_LEARNED, ReadRow
from tunelab.errors import DataError

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
MESSAGE = {"message_id": "a", "parent_id": None, "text": "Why?", "role": "prompter", "lang": "en", "review_count": 3}
FORMATS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "i", "output": "o"},
    "prompt-completion": {"prompt": "p", "completion": "c"},
    "messages": {"messages": TURNS},
    "sharegpt": {"conversations": TURNS},
    "pretokenized": {"input_ids": [1, 2, 3]},
}
#: Columns that a format reads, of those that change what is learned.
READ = {
    "alpaca": {"system", "history", "input"},
    "prompt-completion": {"system"},
    "messages": {"system", "tools"},
    "sharegpt": {"system"},
    "pretokenized": {"labels", "attention_mask", "completion_mask", "assistant_masks", "position_ids"},
}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_a_column_that_changes_what_is_learned_is_read_or_the_row_is_refused(name: str, tmp_path: Path) -> None:
    unread = sorted(CHANGE_WHAT_IS_LEARNED - READ[name])
    path = written(tmp_path, *({**FORMATS[name], column: ["x"]} for column in unread))
    with pytest.raises(DataError) as caught:
        load_examples(name, path=path)
    lines = caught.value.message.splitlines()[1:]
    for column, line in zip(unread[:20], lines, strict=False):
        assert f"column '{column}' would change what is learned, and is not read" in line
        assert f"options.ignore: [{column}]" in line
    assert f"{len(unread)} of {len(unread)} rows" in caught.value.message


@pytest.mark.parametrize("value", [None, "", " ", [], {}, 1, True, "[]"])
def test_an_empty_column_changes_nothing(value: Any, tmp_path: Path) -> None:
    assert len(load_examples("auto", path=written(tmp_path, {**FORMATS["messages"], "tools": value})).examples) == 1


def test_columns_are_left_out_on_purpose(tmp_path: Path) -> None:
    path = written(tmp_path, {**FORMATS["alpaca"], "history": "no list", "tools": ["x"]})
    loaded = load_examples("auto", path=path, options={"ignore": ["history", "tools"]})
    assert len(loaded.examples) == 1 and loaded.unread == {"history": 1, "tools": 1}


def test_what_is_not_read_is_listed_with_its_rows(tmp_path: Path) -> None:
    row = {**FORMATS["alpaca"], "system": "s", "text": "t", "id": 7}
    loaded = load_examples("auto", path=written(tmp_path, row, {**row, "text": ""}))
    assert loaded.unread == {"id": 2, "text": 1}
    mapped = load_examples(
        "columns", path=tmp_path / "rows.jsonl", options={"prompt": "text", "completion": "output"}, on_bad_row="skip"
    )
    assert set(mapped.unread) == {"instruction", "system", "id"}


def test_columns_of_a_flat_message_are_listed(tmp_path: Path) -> None:
    answer = {**MESSAGE, "message_id": "b", "parent_id": "a", "role": "assistant"}
    loaded = load_examples("auto", path=written(tmp_path, MESSAGE, answer))
    assert len(loaded.examples) == 1 and loaded.unread == {"review_count": 2}


def test_prompts_are_held_to_the_same() -> None:
    [prompt] = as_prompts([{"instruction": "And?", "history": [["Why?", "So."]], "system": "Be brief."}])
    assert [turn.role for turn in prompt.messages] == ["system", "user", "assistant", "user"]
    [prompt] = as_prompts([{"messages": TURNS[:1], "tools": [{"name": "search"}]}])
    assert [tool["function"]["name"] for tool in prompt.tools] == ["search"]


def test_a_row_counts_its_columns() -> None:
    assert len(ReadRow({"a": 1, "b": 2})) == 2 and list(ReadRow({"a": 1, "b": 2}, ("a",))) == ["b"]
