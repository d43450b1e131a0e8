"""Bad rows through the whole command line: named by file and row, nothing written; or skipped by count if asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model_folder(tmp_path_factory.mktemp("model") / "base")


GOOD = {"instruction": "Say {}.", "output": "It is {}."}
BAD_FILES: list[tuple[str, str, Callable[[], bytes], str]] = [
    ("empty output", "auto", lambda: _line({"instruction": "Say.", "output": " "}), "row 3: empty output: message 2"),
    ("wrong type", "auto", lambda: _line({"instruction": 5, "output": "x"}), "row 3: column 'instruction' is a number"),
    ("broken JSON", "auto", lambda: b'{"instruction": "x", \n', "row 3: broken JSON"),
    ("invalid UTF-8", "auto", lambda: b'{"instruction": "\xff", "output": "x"}\n', "row 3: .*UTF-8"),
    (
        "no assistant turn",
        "messages",
        lambda: _line({"messages": [{"role": "user", "content": "Hi"}]}),
        "row 3: no assistant turn",
    ),
    (
        "zero target tokens",
        "pretokenized",
        lambda: _line({"input_ids": [1, 2], "completion_mask": [1, 0]}),
        "row 3: zero target tokens",
    ),
]


def _line(row: Any) -> bytes:
    return (json.dumps(row) + "\n").encode()


def good_row(source: str, number: int) -> dict[str, Any]:
    if source == "messages":
        turns = ({"role": "user", "content": f"Say {number}"}, {"role": "assistant", "content": f"{number}"})
        return {"messages": list(turns)}
    if source == "pretokenized":
        return {"input_ids": [1, 2, number, 256], "completion_mask": [0, 0, 1, 1]}  # 256 ends an answer
    return {name: text.format(number) for name, text in GOOD.items()}


@pytest.fixture(params=BAD_FILES, ids=[entry[0] for entry in BAD_FILES])
def bad_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    _, source, bad, message = request.param
    path = tmp_path / "mine.jsonl"
    lines = [_line(good_row(source, number)) for number in (1, 2, 4, 5)]
    path.write_bytes(b"".join([*lines[:2], bad(), *lines[2:]]))
    return path, message


def command(verb: str, model: Path, rows: Path, *words: str) -> int:
    from tunelab.cli.main import main

    keys = ["data.held_out=0", "data.template=plain", "train.steps=1", "train.device=cpu", "train.dtype=fp32"]
    return main([verb, "--model", str(model), "--data", str(rows), *keys, *words])


def test_a_bad_row_ends_the_command_by_name_and_nothing_is_written(
    bad_file: tuple[Path, str], model: Path, tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, message = bad_file
    assert command("prepare", model, path) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {path}: 1 of 5 rows cannot be used:\n  mine.jsonl row 3: ")
    assert re.search(message, err)
    assert "hint: fix them, or skip them with on_bad_row: skip (data.on_bad_row=skip)" in err
    assert not own_cache.exists() or not list(own_cache.iterdir())


def test_a_bad_row_is_skipped_by_count_where_that_is_asked_for(
    bad_file: tuple[Path, str], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, message = bad_file
    assert command("prepare", model, path, "data.on_bad_row=skip") == 0
    out, err = capsys.readouterr()
    training = out.splitlines()[1].split()
    assert training[:2] == ["training", "4"]
    assert "dropped: mine.jsonl row 3: " in err and re.search(message, err)


def test_training_on_a_bad_row_fails_with_the_same_words_and_no_result(
    bad_file: tuple[Path, str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, message = bad_file
    run = tmp_path / "run"
    assert command("train", model, path, "--out", str(run)) == 1
    out, err = capsys.readouterr()
    assert out == "" and re.search(message, err) and "mine.jsonl row 3" in err
    assert not any((run / name).exists() for name in ("adapter", "model", "checkpoints", "metrics.jsonl"))
