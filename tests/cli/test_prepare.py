"""`tunelab prepare`: what became of the rows, where the cache lies, and that training finds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from verbs import Bench, Command

from tunelab.data.tokenize import RowEncoder

PLAIN = ["data.template=plain", "data.held_out=6", "data.max_length=128"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


def test_it_says_what_became_of_the_rows_and_where_they_lie(tunelab: Command, bench: Bench, own_cache: Path) -> None:
    said = tunelab("prepare", "--model", bench.model, "--data", bench.rows, *PLAIN)
    (folder,) = own_cache.iterdir()
    assert said.code == 0 and said.err == f"written to {folder}\n"
    report = json.loads((folder / "report.json").read_text())
    columns = ["rows", "tokens", "targets", "longest", "truncated", "too long", "bad", "lossy"]
    names = ["kept", "tokens", "targets", "longest", "truncated", "dropped_too_long", "bad", "lossy"]
    assert said.cells["split"] == columns
    assert said.cells["training"] == [str(report["train"][name]) for name in names]
    assert said.cells["held-out"] == [str(report["held_out"][name]) for name in names]
    assert said.cells["training"][0] == "18" and said.cells["held-out"][0] == "6"


def test_a_second_time_it_is_found(tunelab: Command, bench: Bench, own_cache: Path) -> None:
    first = tunelab("prepare", "--model", bench.model, "--data", bench.rows, *PLAIN)
    again = tunelab("prepare", "--model", bench.model, "--data", bench.rows, *PLAIN)
    assert again.out == first.out and again.err.startswith("found in ")
    other = tunelab("prepare", "--model", bench.model, "--data", bench.rows, *PLAIN, "data.seed=1")
    assert other.err.startswith("written to ") and len(list(own_cache.iterdir())) == 2


def test_training_after_it_tokenises_nothing(tunelab: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tunelab("prepare", bench.recipe).code == 0
    encode = RowEncoder.encode

    def refuse(self: RowEncoder, example: Any) -> Any:
        return pytest.fail("a row was tokenised") if example.origin else encode(self, example)

    monkeypatch.setattr(RowEncoder, "encode", refuse)
    assert tunelab("train", bench.recipe, "--out", "a", "train.steps=1").code == 0


def test_truncated_and_dropped_rows_are_counted(tunelab: Command, bench: Bench) -> None:
    words = ["--model", bench.model, "--data", bench.rows, *PLAIN, "data.max_length=45"]
    cells = tunelab("prepare", *words).cells["training"]
    kept, too_long = int(cells[0]), int(cells[5])
    assert kept + too_long == 18 and too_long > 0 and cells[4] == "0"
    cells = tunelab("prepare", *words, "data.on_overflow=truncate").cells["training"]
    assert int(cells[4]) > 0 and int(cells[0]) > kept and cells[3] == "45"


def test_many_bad_rows_are_listed_to_the_twentieth(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    rows = tmp_path / "bad.jsonl"
    rows.write_text(bench.rows.read_text() + '{"prompt": "a", "completion": ""}\n' * 25)
    said = tunelab("prepare", "--model", bench.model, "--data", rows, *PLAIN, "data.on_bad_row=skip")
    lines = [line for line in said.err.splitlines() if line.startswith("dropped: ")]
    assert lines[0] == "dropped: bad.jsonl row 25: empty output: message 2 (assistant) has no text"
    assert len(lines) == 21 and lines[-1] == "dropped: and 5 more"


def test_characters_that_the_tokenizer_cannot_spell_are_said(
    tunelab: Command, shared_data: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Go (now)", "completion": "Gone."}\n{"prompt": "Stay", "completion": "Yes"}\n')
    model = shared_data / "models/tinystories656k"
    said = tunelab("prepare", "--model", model, "--data", rows, "data.template=plain", "data.held_out=0")
    assert said.code == 0 and said.cells["training"][-1] == "1"
    told = "2 characters are not in the tokenizer's vocabulary and dropped from 1 of 2 rows: ( (1), ) (1)\n"
    assert said.err.startswith(told)
    again = tunelab("inspect", "--model", model, "--data", rows, "data.held_out=0", "data.template=alpaca")
    own = "the prompt template's own # is not in the tokenizer's vocabulary and dropped from every prompt\n"
    assert told + own in again.err


def test_longer_rows_than_the_model_has_a_window_for_are_refused(tunelab: Command, bench: Bench) -> None:
    said = tunelab("prepare", "--model", bench.model, "--data", bench.rows, "data.max_length=200")
    assert said.code == 2 and said.out == ""
    assert f"error: data.max_length=200, but {bench.model} has a context window of 128 tokens\n" in said.err
    assert "hint: set data.max_length=128 or less" in said.err


def test_flags_that_cannot_be_obeyed_are_refused(tunelab: Command, bench: Bench, own_cache: Path) -> None:
    for flag, value in (("--out", "there"), ("--limit", "3")):
        said = tunelab("prepare", "--model", bench.model, "--data", bench.rows, *PLAIN, flag, value)
        assert said.code == 2 and f"error: {flag}: rows go into the cache" in said.err
        assert "TUNELAB_CACHE" in said.err and not own_cache.exists() and not Path("there").exists()


def test_no_data_is_wrong_usage(tunelab: Command, bench: Bench) -> None:
    said = tunelab("prepare", "--model", bench.model)
    assert said.code == 2 and "data: is missing" in said.err and "--data SOURCE" in said.err
