"""Before anything has run, a study's time is estimated from the model's size, the rows and the machine's speed."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_files import study_of, write_study_files

from tunelab.cli._study_lists import show_jobs
from tunelab.records.cells import cells_of
from tunelab.studies.demo import demo_study
from tunelab.studies.rough_time import RoughTime, rough_time


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


def test_time_follows_from_work_and_speed(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"base": {"tuned": False}, "lora": {}, "full": {"recipe": {"method": "full"}}}
    arms |= {"longer": {"recipe": {"train": {"steps": 60}}}}
    study = study_of(files, arms=arms, seeds=[0])
    cells = cells_of(study)
    monkeypatch.setattr("tunelab.studies.rough_time._operations_per_second", lambda width, recipe: 1e9)
    found = rough_time(study, cells).seconds
    seconds = {cell.title: found[cell.key] for cell in cells}
    lora, full, longer = (seconds[f"{arm}, seed 0: training"] for arm in ("lora", "full", "longer"))
    steps = (longer - lora) / 9  # its 60 steps are nine times 6 more
    assert full == pytest.approx(lora + steps / 2), "three passes in place of two"
    assert lora > steps > 0, "the losses before and after come on top"
    assert seconds["base: held-out"] == pytest.approx(seconds["lora, seed 0: held-out"]) and len(found) == len(cells)
    monkeypatch.setattr("tunelab.studies.rough_time._operations_per_second", lambda width, recipe: 2e9)
    assert rough_time(study, cells).seconds[cells[0].key] == pytest.approx(seconds["base: held-out"] / 2)


def test_what_cannot_be_estimated_is_left_out(files: Path) -> None:
    study = study_of(files, seeds=[0], arms={"gone": {"recipe": {"model": "./gone"}}}, questions=[])
    found = rough_time(study, cells_of(study))
    assert found.seconds == {} and found.unknown[0].startswith("gone: ./gone: ")
    study = study_of(files, seeds=[0], arms={"base": {"tuned": False}}, questions=[])
    (seconds,) = rough_time(study, cells_of(study)).seconds.values()
    assert 0 < seconds < 60, "measured on this machine"


@pytest.mark.parametrize(
    ("train", "why"),
    [
        ({"device": "cuda"}, "lora: train.device=cuda: no CUDA GPU is available"),
        ({"dtype": "fp16", "device": "auto"}, "lora: train.dtype=fp16 needs a GPU, and none is used"),
    ],
)
def test_a_machine_without_the_device_does_not_know_and_says_why(
    files: Path,
    tmp_path: Path,
    train: dict[str, str],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    study = study_of(files, seeds=[0], arms={"lora": {"recipe": {"train": train}}}, questions=[])
    assert rough_time(study, cells_of(study)) == RoughTime({}, [why])
    assert show_jobs(study, tmp_path, []) == 0
    assert f"2 jobs, 2 to run\nunknown time: {why}\n" in capsys.readouterr().err


#: Seconds of a training and its evaluation in benchmarks/results/2026-11-30-demo.md, and the speed of a float32 product
#: of the demo model's width on that machine, AMD EPYC with two cores.
DEMO, DEMO_SPEED = {"full": (6.4, 1.5), "lora": (6.0, 2.5), "nf4": (6.8, 2.7)}, 138e9


def test_the_demo_took_what_is_estimated_within_a_factor_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunelab.studies.rough_time._operations_per_second", lambda width, recipe: DEMO_SPEED)
    study = demo_study(["seeds=[0]"])
    cells = [cell for cell in cells_of(study) if cell.arm in DEMO]
    found = rough_time(study, cells).seconds
    took = {cell.title: DEMO[cell.arm][bool(cell.benchmark)] / found[cell.key] for cell in cells}
    assert len(took) == 6 and all(0.5 < ratio < 2 for ratio in took.values()), took


def test_jobs_on_benchmarks_are_named(files: Path) -> None:
    study = study_of(files, seeds=[0], arms={"base": {"tuned": False}}, benchmarks={"gsm8k": {}}, questions=[])
    assert rough_time(study, cells_of(study)).unknown == ["jobs on gsm8k are not estimated before one is done"]
