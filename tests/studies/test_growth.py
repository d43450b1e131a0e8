"""What a study's jobs cost does not grow with the jobs that are done."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_files import study_of

from tunelab.config.budgets import Budget
from tunelab.config.study import Study
from tunelab.errors import ConfigError
from tunelab.records import cells
from tunelab.records.cells import Cell, known_cells
from tunelab.records.runs import Run
from tunelab.studies import run_cell as run_cell_module
from tunelab.studies.executors import here
from tunelab.studies.executors._ray_task import Order, work
from tunelab.training.tracked_run import in_group, training_run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Jobs are made up here: none of these files is read."""
    return tmp_path / "files"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Jobs that do nothing; counts the files that are read and the keys that are made while they run."""
    found: Counter[str] = Counter()

    def counted(what: str, function: Any) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            found[what] += 1
            return function(*given, **more)

        return call

    def made(study: Study, cell: Cell, folder: Path, *_: Any) -> Path:
        return folder / "runs" / cell.key

    for name in ("read_json", "training_key", "evaluation_key"):
        monkeypatch.setattr(cells, name, counted(name, getattr(cells, name)))
    monkeypatch.setattr(run_cell_module, "_make", made)
    for name in ("_import_what_cells_use", "_free_memory"):
        monkeypatch.setattr(run_cell_module, name, lambda: None)
    monkeypatch.setattr(here, "_gpus", list)
    return found


@pytest.mark.parametrize("budgets", [None, {"train.steps": [3, 6]}])
def test_a_job_looks_at_no_other_job(
    budgets: dict[str, list[int]] | None, files: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    counts = []
    for seeds in (2, 12):
        study = study_of(files, seeds=list(range(seeds)), budgets=budgets, questions=[])
        folder = tmp_path / str(seeds)
        cells.keep_study(study, folder)
        jobs = known_cells(study, folder)
        reads.clear()
        here.run_cells(folder, jobs, {"workers": "1"}, lambda *_: None)
        counts.append({what: count / len(jobs) for what, count in reads.items()})
        assert {cell.status for cell in known_cells(study, folder)} == {"done"}
    assert counts[1]["read_json"] <= counts[0]["read_json"] <= 4
    assert all(counts[1].get(key, 0) <= counts[0].get(key, 0) for key in ("training_key", "evaluation_key"))


def test_a_job_takes_its_record_and_keeps_what_the_study_calls_it(
    files: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    study = study_of(files, seeds=[0], questions=[])
    cells.keep_study(study, tmp_path)
    job = next(cell for cell in known_cells(study, tmp_path) if not cell.benchmark)
    cells.keep_cell(tmp_path, Cell(job.key, "an earlier name", job.seed, "", seconds=5.0))
    done = run_cell_module.run_cell(tmp_path, job)
    assert (done.arm, done.status) == (job.arm, "done") and done.seconds > 5
    reads.clear()
    assert run_cell_module.run_cell(tmp_path, job.key) == cells.read_cell(tmp_path, job.key)
    assert not reads["training_key"], "the jobs of the study are not made for it"


def test_a_tracked_training_looks_at_no_other_job(
    files: Path, tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(files, seeds=[0, 1], questions=[])
    train = {**study.recipe["train"], "trackers": ["tensorboard"]}
    study = study.model_copy(update={"recipe": {**study.recipe, "train": train}})
    cells.keep_study(study, tmp_path)
    jobs = [cell for cell in known_cells(study, tmp_path) if not cell.benchmark]
    found = []

    def made(study: Study, cell: Cell, folder: Path, *_: Any) -> Path:
        recipe = in_group(study, study.arm_recipe(cell.arm, study.seeds[0]))
        reads.clear()
        found.append(training_run(Run(folder / "runs" / cell.key), recipe))
        return folder / "runs" / cell.key

    monkeypatch.setattr(run_cell_module, "_make", made)
    for job in jobs:
        run_cell_module.run_cell(tmp_path, job)
        assert reads["read_json"] <= 3 and not reads["training_key"]
    assert [(one.name, one.config["cell"]) for one in found] == [(job.title, job.key) for job in jobs]


@pytest.mark.parametrize("has_cell", [True, False])
def test_a_task_of_ray_looks_at_no_other_job(has_cell: bool, files: Path, tmp_path: Path, reads: Counter[str]) -> None:
    study = study_of(files, seeds=list(range(5)), questions=[])
    cells.keep_study(study, tmp_path)
    job = next(cell for cell in known_cells(study, tmp_path) if not cell.benchmark)
    (tmp_path / "marker").write_text("token", encoding="utf-8")
    given = (str(tmp_path), job.key, "marker", "token", "study", str(tmp_path), (), 1.0)
    reads.clear()
    assert work(Order(*given, cell=job if has_cell else None)).how == "ran"
    assert (reads["training_key"] == 0) == has_cell
    done = cells.read_cell(tmp_path, job.key)
    assert done is not None and done.status == "done"


@pytest.mark.parametrize(
    "changes",
    [{"arm": "gone"}, {"seed": 5}, {"benchmark": "mmlu"}, {"budget": Budget("train.steps", 3)}, {"lr": 1e-3}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_record_of_a_job_that_the_study_calls_otherwise_is_looked_up(
    changes: dict[str, Any], files: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    study = study_of(files, seeds=[0], questions=[])
    cells.keep_study(study, tmp_path)
    job = next(cell for cell in known_cells(study, tmp_path) if not cell.benchmark)
    cells.keep_cell(tmp_path, replace(job, **changes))
    done = run_cell_module.run_cell(tmp_path, job.key)
    assert replace(done, seconds=0.0, status="waiting", folder="") == job


def test_a_recipe_is_made_once_for_what_it_is_made_from(files: Path) -> None:
    study = study_of(files)
    first = study.arm_recipe("lora", 0)
    assert study.arm_recipe("lora", 0) is first
    assert study_of(files).arm_recipe("lora", 0) == first
    other = study.model_copy(update={"recipe": {**study.recipe, "train": {**study.recipe["train"], "lr": 1e-4}}})
    assert other.arm_recipe("lora", 0).train.lr == 1e-4 and first.train.lr == 5e-3
    wrong = study.model_copy(update={"recipe": {**study.recipe, "train": {"lr": "much"}}})
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"arm lora"):
            wrong.arm_recipe("lora", 0)
