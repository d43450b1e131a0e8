"""Promise: what a study's jobs need is checked before the first one runs, and every key of its benchmarks is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from study_files import study_of, write_study_files

from tunelab.errors import ConfigError
from tunelab.records.cells import cells_of, read_cell
from tunelab.studies.run_study import run_study
from tunelab.studies.study_report import study_report


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


def lacks(files: Path, out: Path, **changes: Any) -> str:
    """What run_study() says before the first job; nothing was run, and nothing written."""
    with pytest.raises(ConfigError) as caught:
        run_study(study_of(files, **changes), out)
    assert not out.exists()
    return caught.value.message


def test_all_that_is_missing_is_named_before_the_first_job(files: Path, tmp_path: Path) -> None:
    arms = {
        "lora": {},
        "gone": {"recipe": {"model": str(files / "nowhere")}},
        "rows": {"recipe": {"data": {"sources": ["none.jsonl"]}}},
        "tracked": {"recipe": {"train": {"trackers": ["wandb"]}}},
    }
    benchmarks = {"held-out": {}, "ifeval": {"data": str(tmp_path / "no-folder")}, "mmlu": {"data": str(files)}}
    said = lacks(files, tmp_path / "out", arms=arms, benchmarks=benchmarks, questions=[])
    assert "before the first job: 4 problems" in said, "wandb is installed for the tests"
    assert f"arms.gone: model: {files / 'nowhere'}: no such folder" in said
    assert "arms.rows: data: none.jsonl: no such file" in said
    assert "benchmarks.ifeval: ifeval.data=" in said and "no such folder" in said
    assert "benchmarks.mmlu: " in said


def test_a_tracker_that_is_not_installed(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = {"train": {"trackers": ["trackio"]}}
    said = lacks(files, tmp_path / "out", arms={"a": {"recipe": recipe}}, questions=[])
    assert "arms.a: train: train.trackers: trackio is not installed" in said


def test_an_option_that_the_benchmark_does_not_have(files: Path, tmp_path: Path) -> None:
    said = lacks(files, tmp_path / "out", benchmarks={"gsm8k": {"shot": 3}}, questions=[])
    assert "gsm8k.shot: unknown option" in said and "did you mean 'shots'?" in said


def test_a_full_disk(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000))
    said = lacks(files, tmp_path / "out", arms={"full": {"recipe": {"method": "full"}}}, questions=[])
    assert "full fine-tuning will write at least" in said and "1000 B are free" in said


@pytest.mark.parametrize(
    ("benchmarks", "said"),
    [
        ({"held-out": {"limits": 1}}, "benchmarks.held-out.limits: unknown key"),
        ({"held-out": {"limit": 0}}, "benchmarks.held-out.limit: 0, expected a positive integer"),
        ({"gsm8k": {"limit": "many"}}, "benchmarks.gsm8k.limit: 'many', expected a positive integer"),
        ({"gsm8k": {"max_new_tokens": -1}}, "benchmarks.gsm8k.max_new_tokens: -1, expected a positive integer"),
    ],
)
def test_a_wrong_key_of_a_benchmark(files: Path, benchmarks: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of(files, benchmarks=benchmarks, questions=[])
    assert said in caught.value.message and "1 problem" in caught.value.message


def test_the_keys_of_held_out_are_those_that_it_is_evaluated_with(files: Path, tmp_path: Path) -> None:
    """It was ignored: all rows were measured, and the report said that one was."""
    keys = {"limit": 3, "max_new_tokens": 1}
    arms = {"base": {"tuned": False}, "lora": {}}
    study = study_of(files, arms=arms, seeds=[0], benchmarks={"held-out": keys})
    run_study(study, tmp_path)
    for cell in cells_of(study):
        if cell.benchmark:
            done = read_cell(tmp_path, cell.key)
            assert done is not None
            scores = json.loads((tmp_path / done.folder / "scores.json").read_text())["scores"]
            assert {score["n"] for score in scores} == {3}, cell.title
    caveats = " ".join(study_report(tmp_path).not_proved)
    assert "held-out was evaluated on 3 of " in caveats
    other = study_of(files, arms=arms, seeds=[0], benchmarks={"held-out": {**keys, "limit": 4}})
    assert {cell.key for cell in cells_of(other) if cell.benchmark}.isdisjoint(
        {cell.key for cell in cells_of(study)}
    ), "another limit is another evaluation"
    assert [cell.key for cell in cells_of(other) if not cell.benchmark] == [
        cell.key for cell in cells_of(study) if not cell.benchmark
    ], "of the same training"
    run_study(other, tmp_path)
    assert "held-out was evaluated on 4 of " in " ".join(study_report(tmp_path).not_proved)
