"""Files of answers for other programs: each has a file of settings of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunelab.errors import RunError
from tunelab.records.answers import AnswersFile, read_answers, settings_file

RECORD = {"item": "0", "prompt_hash": "h", "text": "t"}


def written(path: Path, model: str) -> Path:
    with AnswersFile(path, {"model": model}) as file:
        file.append(RECORD)
        file.finish([RECORD])
    return path


@pytest.mark.parametrize("name", ["answers.json", "answers", "answers.txt"])
def test_two_files_of_one_stem_do_not_share_settings(tmp_path: Path, name: str) -> None:
    first, second = written(tmp_path / "answers.jsonl", "one"), written(tmp_path / name, "two")
    assert read_answers(first)[0]["model"] == "one" and read_answers(second)[0]["model"] == "two"


def test_settings_of_before_are_those_of_the_jsonl_file(tmp_path: Path) -> None:
    path = written(tmp_path / "answers.json", "one")
    settings_file(path).rename(tmp_path / "answers.settings.json")
    assert read_answers(path)[0]["model"] == "one", "no other file could have written them"
    other = written(tmp_path / "answers.jsonl", "one")
    settings_file(other).unlink()
    assert read_answers(other)[0]["model"] == "one"
    with pytest.raises(RunError, match=r"answers.json: its settings file answers.json.settings.json is missing"):
        read_answers(path)


def test_an_answer_with_a_key_twice_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "answers.jsonl", "one")
    path.write_text(json.dumps(RECORD)[:-1] + ', "text": "other"}\n', encoding="utf-8")
    with pytest.raises(RunError, match=r"answers.jsonl: line 1: duplicate key 'text' in one object, with 't' and 'oth"):
        read_answers(path)
