"""What scoring writes for other tools: AlpacaEval's model_outputs.json, beside the responses that it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sums_benchmark import write_benchmark, write_responses

from tunelab.errors import DataError, RunError
from tunelab.evaluation.benchmark import Response
from tunelab.evaluation.benchmarks import alpacaeval
from tunelab.scoring.score import score_file

HEADER = {"benchmark": "alpacaeval", "items": 2, "model_name": "gpt2", "arm": "base", "decoding": {}}


def write_file(path: Path, header: Mapping[str, Any] = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    target = {"dataset": "koala"}
    answers = [Response(str(place), "h", f"What is {place}?", target, text=f" {place}.\n") for place in (1, 0)]
    lines = [dict(header), *(answer.to_json() for answer in answers)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_model_outputs_lie_beside_the_responses(tmp_path: Path) -> None:
    path = write_file(tmp_path / "arm" / "responses.jsonl")
    found = score_file(path, workers=1)
    assert found.outputs == (path.with_name("model_outputs.json"),)
    rows = json.loads(found.outputs[0].read_text(encoding="utf-8"))
    common = {"dataset": "koala", "generator": "gpt2-base"}
    assert rows == [{**common, "instruction": f"What is {place}?", "output": f"{place}."} for place in (0, 1)]
    before = found.outputs[0].read_bytes()
    assert score_file(path.parent, workers=1).outputs[0].read_bytes() == before


def test_a_file_of_another_name_has_them_in_its_own_folder(tmp_path: Path) -> None:
    (made,) = score_file(write_file(tmp_path / "mine.jsonl"), workers=1).outputs
    assert made == tmp_path / "mine.scored" / "model_outputs.json" and made.exists()


def test_most_benchmarks_write_none(tmp_path: Path) -> None:
    path = write_responses(tmp_path / "arm" / "responses.jsonl", str(write_benchmark(tmp_path)), ["1"], items=1)
    assert score_file(path, workers=1).outputs == ()
    assert sorted(one.name for one in path.parent.iterdir()) == ["grades.jsonl", "responses.jsonl", "scores.json"]


def test_responses_without_a_model_are_refused(tmp_path: Path) -> None:
    header = {key: value for key, value in HEADER.items() if key != "model_name"}
    with pytest.raises(DataError, match=r"model_outputs\.json: the generator has no name"):
        score_file(write_file(tmp_path / "responses.jsonl", header), workers=1)


def test_where_nothing_can_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(alpacaeval, "write_json_atomically", full)
    with pytest.raises(RunError, match=r"cannot be written: No space left on device"):
        score_file(write_file(tmp_path / "responses.jsonl"), workers=1)
