"""Cells on this machine: several processes give what one gives, and one that is killed costs its own cell alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from study_files import study_of, write_study_files

from tunelab.errors import Interrupted, RunError, UsageError
from tunelab.records.cells import RECORDS, read_cell
from tunelab.studies.executors import here
from tunelab.studies.run_cell import run_cell
from tunelab.studies.run_study import run_study
from tunelab.studies.study_report import study_report


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


@pytest.mark.slow
def test_two_at_once_give_what_one_after_another_gives(files: Path, tmp_path: Path) -> None:
    study = study_of(files, seeds=[0])
    run_study(study, tmp_path / "in-turn")
    said: list[tuple[int, int | None, str]] = []
    stages: list[str] = []

    def progress(stage: str, done: int, total: int | None, detail: str = "") -> None:
        stages.append(stage)
        if stage == "5 jobs":
            said.append((done, total, detail))

    cells = run_study(
        study,
        tmp_path / "at-once",
        options={"workers": "2"},
        progress=progress,
    )
    assert {cell.title: cell.error for cell in cells if cell.status != "done"} == {}
    assert all(cell.memory_bytes and cell.seconds for cell in cells)
    in_turn, at_once = study_report(tmp_path / "in-turn"), study_report(tmp_path / "at-once")
    assert (in_turn.scores, in_turn.comparisons) == (at_once.scores, at_once.comparisons)
    assert [one.points for one in in_turn.curves] == [one.points for one in at_once.curves]
    assert said[-1][:2] == (5, 5) and any(detail.count(": ") == 2 for _, _, detail in said), "two ran at once"
    steps = study.recipe["train"]["steps"]
    assert stages.count("lora, seed 0: training") == steps + 1, "each process reports its steps, and once its start"


def killed_when_it_trains(folder: Path, number: int) -> threading.Thread:
    """Sends a signal to the first process that has begun to log losses."""

    def kill() -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            for lock in folder.glob("runs/*/metrics.jsonl"):
                process = next((one for one in children() if str(lock.parent) in open_files(one)), None)
                if process:
                    os.kill(process, number)
                    return
            time.sleep(0.005)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def children(process: int | None = None) -> list[int]:
    """Processes that this one started, and that they started."""
    number = process or os.getpid()
    try:
        own = [int(one) for one in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except OSError:
        return []
    return [*own, *(further for one in own for further in children(one))]


def open_files(process: int) -> str:
    try:
        return " ".join(os.readlink(one) for one in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return ""


@pytest.mark.slow
def test_a_killed_process_costs_its_own_cell_and_is_run_again(files: Path, tmp_path: Path) -> None:
    recipe = study_of(files).recipe
    long = {**recipe, "train": {**recipe["train"], "steps": 60}}
    study = study_of(files, seeds=[0], recipe=long, arms={"base": {"tuned": False}, "lora": {}})
    thread = killed_when_it_trains(tmp_path, signal.SIGKILL)
    found = {cell.title: cell for cell in run_study(study, tmp_path, options={"workers": "2"})}
    thread.join()
    assert found["lora, seed 0: training"].status == "failed"
    assert "its process was killed by signal 9; likely out of memory" in (found["lora, seed 0: training"].error)
    assert "its training failed" in found["lora, seed 0: held-out"].error
    assert found["base: held-out"].status == "done"
    again = run_study(study, tmp_path, options={"workers": "2"})
    assert {cell.status for cell in again} == {"done"}


@pytest.mark.slow
def test_a_process_that_was_asked_to_stop_stops_the_study(files: Path, tmp_path: Path) -> None:
    recipe = study_of(files).recipe
    long = {**recipe, "train": {**recipe["train"], "steps": 60}}
    study = study_of(
        files, seeds=[0], recipe=long, arms={"lora": {}, "nf4": {"recipe": {"precision": "nf4"}}}, questions=[]
    )
    thread = killed_when_it_trains(tmp_path, signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"seed 0: training: stopped; finished work is kept"):
        run_study(study, tmp_path, options={"workers": "2"})
    thread.join()
    assert not multiprocessing.active_children(), "nothing is left running"
    assert {cell.status for cell in run_study(study, tmp_path)} == {"done"}


@pytest.mark.slow
def test_with_gpus_each_process_starts_anew(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here._context([]).get_start_method() == ("forkserver" if sys.platform == "linux" else "spawn")
    assert here._context(["0"]).get_start_method() == "spawn"
    monkeypatch.setattr(here, "_gpus", lambda: ["0", "1"])
    study = study_of(files, arms={"base": {"tuned": False}}, questions=[])
    (cell,) = run_study(study, tmp_path)
    assert cell.status == "done", cell.error


def test_a_failure_that_nobody_foresaw_is_a_failed_cell(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: object, **more: object) -> None:
        raise KeyError("a mistake in the program")

    monkeypatch.setattr("tunelab.training.finetune.finetune", breaks)
    study = study_of(files, seeds=[0], arms={"lora": {}}, questions=[])
    training, _ = run_study(study, tmp_path)
    assert training.error == "KeyError: 'a mistake in the program'"
    assert "in breaks" in (tmp_path / RECORDS / f"{training.key}.txt").read_text(encoding="utf-8")
    assert read_cell(tmp_path, training.key) == training


def test_wrong_options(files: Path, tmp_path: Path) -> None:
    study = study_of(files)
    with pytest.raises(UsageError, match="option workers=0: expected a positive integer"):
        run_study(study, tmp_path, options={"workers": "0"})
    with pytest.raises(UsageError, match="here has no option 'gpus'"):
        run_study(study, tmp_path, options={"gpus": "2"})
    with pytest.raises(UsageError, match="no executor named 'hear'; did you mean 'here'"):
        run_study(study, tmp_path, executor="hear")
    with pytest.raises(RunError, match="the study has no job train-0") as caught:
        run_cell(tmp_path, "train-0")
    assert "--dry-run" in caught.value.hint


def test_gpus_keep_the_names_that_the_environment_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert here._gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-1f")
    assert here._gpus() == ["5", "GPU-1f"]
