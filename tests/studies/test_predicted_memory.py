"""A dry run says how much memory trainings need that never ran."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_files import study_of, write_study_files

from tunelab.cli._study_lists import show_jobs
from tunelab.records.cells import cells_of
from tunelab.studies.predicted_memory import PROCESS_BYTES, predicted_memory
from tunelab.training.device_memory import planned


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


def test_each_training_has_the_peak_of_its_plan_and_its_process(files: Path) -> None:
    arms = {"base": {"tuned": False}, "lora": {}, "full": {"recipe": {"method": "full"}}}
    study = study_of(files, arms=arms, seeds=[0, 1])
    cells = cells_of(study)
    found = predicted_memory(study, cells)
    assert set(found) == {cell.key for cell in cells if not cell.benchmark}
    by_arm = {cell.arm: found[cell.key] for cell in cells if cell.key in found}
    for arm, predicted in by_arm.items():
        plan = planned(study.arm_recipe(arm, 0), on_gpu=False)
        assert plan is not None and predicted == plan.peak().allocated + PROCESS_BYTES
    assert by_arm["full"] > by_arm["lora"] > PROCESS_BYTES


def test_a_model_that_is_not_here_has_none(files: Path) -> None:
    study = study_of(files, seeds=[0], arms={"gone": {"recipe": {"model": "./gone"}}}, questions=[])
    assert predicted_memory(study, cells_of(study)) == {}


def test_a_dry_run_shows_it(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of(files, seeds=[0], arms={"lora": {}}, questions=[])
    assert show_jobs(study, tmp_path / "out", []) == 0
    shown = capsys.readouterr()
    assert "0.9" in shown.out.split("training", 1)[1], "GiB of the process"
    assert (
        "peak memory of trainings that never ran: predicted for steps that fill train.micro_batch_tokens" in shown.err
    )
