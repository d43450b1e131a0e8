"""Before anything has run, a study's time is estimated from the model's size, the rows and the machine's speed."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_files import study_of, write_study_files

from tunelab.records.cells import cells_of
from tunelab.studies.rough_time import rough_seconds


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


def test_time_follows_from_work_and_speed(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"base": {"tuned": False}, "lora": {}, "full": {"recipe": {"method": "full"}}}
    arms |= {"longer": {"recipe": {"train": {"steps": 60}}}}
    study = study_of(files, arms=arms, seeds=[0])
    cells = cells_of(study)
    monkeypatch.setattr("tunelab.studies.rough_time._operations_per_second", lambda width, recipe: 1e9)
    found = rough_seconds(study, cells)
    seconds = {cell.title: found[cell.key] for cell in cells}
    lora, full, longer = (seconds[f"{arm}, seed 0: training"] for arm in ("lora", "full", "longer"))
    steps = (longer - lora) / 9  # its 60 steps are nine times 6 more
    assert full == pytest.approx(lora + steps / 2), "three passes in place of two"
    assert lora > steps > 0, "the losses before and after come on top"
    assert seconds["base: held-out"] == pytest.approx(seconds["lora, seed 0: held-out"]) and len(found) == len(cells)
    monkeypatch.setattr("tunelab.studies.rough_time._operations_per_second", lambda width, recipe: 2e9)
    assert rough_seconds(study, cells)[cells[0].key] == pytest.approx(seconds["base: held-out"] / 2)


def test_what_cannot_be_estimated_is_left_out(files: Path) -> None:
    study = study_of(files, seeds=[0], arms={"gone": {"recipe": {"model": "./gone"}}}, questions=[])
    assert rough_seconds(study, cells_of(study)) == {}
    study = study_of(files, seeds=[0], arms={"base": {"tuned": False}}, questions=[])
    (seconds,) = rough_seconds(study, cells_of(study)).values()
    assert 0 < seconds < 60, "measured on this machine"


@pytest.mark.parametrize("train", [{"device": "cuda"}, {"dtype": "fp16", "device": "auto"}])
def test_a_machine_without_the_device_does_not_know(
    files: Path, train: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    study = study_of(files, seeds=[0], arms={"lora": {"recipe": {"train": train}}}, questions=[])
    assert rough_seconds(study, cells_of(study)) == {}
