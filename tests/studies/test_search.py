"""A searched study: tries choose each arm's learning rate by validation rows, the final trainings are measured.

Nothing that chooses sees the rows that are measured; tries are jobs like others; choices follow from their records.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from study_files import searched_study, write_study_files

from tunelab.cli.main import main
from tunelab.errors import Interrupted
from tunelab.records.cells import (
    CHOICES_FILE,
    Cell,
    asked_study,
    keep_cell,
    keep_choices,
    keep_study,
    known_cells,
    known_choices,
    read_cell,
    read_study,
)
from tunelab.records.runs import Run
from tunelab.studies import run_cell as module
from tunelab.studies.run_study import run_study, waves
from tunelab.studies.study_report import study_report


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def done(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a study that ran."""
    folder = tmp_path_factory.mktemp("done") / "study"
    cells = run_study(searched_study(files), folder)
    assert {cell.status for cell in cells} == {"done"}
    return folder


def test_each_arm_is_trained_at_the_rate_that_its_tries_chose(files: Path, done: Path) -> None:
    study, cells = read_study(done)
    tries, others = [cell for cell in cells if cell.lr is not None], [cell for cell in cells if cell.lr is None]
    assert [cell.title for cell in tries[:2]] == ["lora, lr 0.001: trial", "lora, lr 0.005: trial"] and len(tries) == 3
    assert [cell.title for cell in others if not cell.benchmark] == ["lora, seed 0: training", "nf4, seed 0: training"]
    losses = [cell.validation_loss for cell in tries]
    assert losses[2] is None and "the loss is" in tries[2].error and losses[0] is not None and losses[1] is not None
    best = min(tries[:2], key=lambda cell: cell.validation_loss or 0)
    for arm in ("lora", "nf4"):
        assert study.arm_recipe(arm, 0).train.lr == best.lr
    runs = {cell.arm: Run(done / cell.folder) for cell in others if not cell.benchmark}
    assert {run.recipe.train.lr for run in runs.values()} == {best.lr}
    assert runs["lora"].manifest["held_out_loss_after"] is not None


def test_tries_keep_their_record_alone_and_never_see_the_held_out_rows(done: Path) -> None:
    for cell in (cell for cell in read_study(done)[1] if cell.lr is not None):
        run = Run(done / cell.folder)
        assert {path.name for path in run.path.iterdir()} - {".lock"} == {
            "recipe.yaml",
            "manifest.json",
            "metrics.jsonl",
        }
        assert run.manifest["data"]["held_out"]["given"] == 0 and run.manifest["data"]["validation"]["kept"] == 10
        assert run.manifest.get("held_out_loss_before") is None and run.recipe.train.seed == 1000
        if cell.validation_loss is not None:
            assert run.manifest["validation_loss_after"] == cell.validation_loss


def test_choices_follow_from_the_records(files: Path, done: Path) -> None:
    asked = asked_study(done)
    assert asked == searched_study(files) and asked.search is not None
    kept = (done / CHOICES_FILE).read_bytes()
    keep_choices(asked, done)
    assert (done / CHOICES_FILE).read_bytes() == kept
    found = json.loads(kept)
    assert list(found) == ["lora", "nf4"] and found["nf4"]["tries_of"] == "lora" and found["lora"]["own_lr"] == 5e-3
    assert [one["loss"] is None for one in found["lora"]["tried"]] == [False, False, True]
    before = {file.name: file.read_bytes() for file in (done / "cells").iterdir()}
    run_study(searched_study(files), done)
    assert {file.name: file.read_bytes() for file in (done / "cells").iterdir()} == before, "nothing ran again"


@pytest.mark.slow
def test_other_held_out_rows_choose_and_train_the_same(files: Path, done: Path, tmp_path: Path) -> None:
    """The leak test of a whole study: rows that are measured are replaced, and every weight and choice stays."""
    from tunelab.preparation.rows import read_source, select

    data = searched_study(files).arm_recipe("lora", 0).data
    measured = {one.origin.rpartition(" ")[2] for one in select(data, [read_source(data, 0)]).held_out}
    lines = (files / "rows.jsonl").read_text("utf-8").splitlines()
    for number in range(len(lines)):
        if str(number + 1) in measured:
            lines[number] = json.dumps({"prompt": f"other {number}?", "completion": "another answer"})
    (files / "others.jsonl").write_text("\n".join(lines), "utf-8")
    run_study(searched_study(files, "others.jsonl"), tmp_path)
    assert (tmp_path / CHOICES_FILE).read_bytes() == (done / CHOICES_FILE).read_bytes()
    weights, scores = [], []
    for folder in (done, tmp_path):
        runs = [Run(folder / cell.folder) for cell in read_study(folder)[1] if cell.lr is None and not cell.benchmark]
        weights.append([(run.adapter / "adapter_model.safetensors").read_bytes() for run in runs])
        scores.append([one.value for one in study_report(folder).scores])
    assert weights[0] == weights[1] and len(weights[0]) == 2
    assert scores[0] != scores[1]


def test_the_report_says_what_was_tried_and_what_other_rates_would_have_given(done: Path) -> None:
    report = study_report(done)
    assert [(one.arm, one.source, one.own, len(one.tried)) for one in report.rates] == [
        ("lora", "lora", 5e-3, 3),
        ("nf4", "lora", 5e-3, 3),
    ]
    said = report.rates_said
    assert said[0].startswith(
        "3 trials, 1 of which diverged: one training each with seed 1000, measured by the completion"
    )
    assert "on 10 validation rows" in said[0] and "Held-out rows and benchmarks took no part" in said[0]
    assert any("own learning rate, 0.005" in one for one in said[1:])
    assert report.rates_in_use.startswith(
        "Each tuned arm has the learning rate that its validation rows chose: lora 0.0"
    )
    assert {one.key for one in report.differences} >= {"precision.name"}


def stops_in(stage_of: str) -> Any:
    def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
        if stage_of in stage and stage.endswith("training") and done == 2:
            raise KeyboardInterrupt

    return stops


@pytest.mark.slow
def test_a_study_stopped_in_both_waves_goes_on_to_the_same_report(files: Path, done: Path, tmp_path: Path) -> None:
    for where in ("lora, lr 0.005: trial", "nf4, seed 0"):
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            run_study(searched_study(files), tmp_path, progress=stops_in(where))
    assert {cell.status for cell in run_study(searched_study(files), tmp_path)} == {"done"}
    assert (tmp_path / CHOICES_FILE).read_bytes() == (done / CHOICES_FILE).read_bytes()
    whole, parts = study_report(done), study_report(tmp_path)
    assert (whole.scores, whole.comparisons, whole.rates) == (parts.scores, parts.comparisons, parts.rates)


def result(cell: Cell, loss: float | None) -> Cell:
    return dataclasses.replace(cell, status="done", validation_loss=loss)


def test_a_diverged_try_that_was_killed_before_its_record_diverges_again(
    files: Path, done: Path, tmp_path: Path
) -> None:
    shutil.copytree(done, tmp_path / "study")
    diverged = next(cell for cell in read_study(done)[1] if cell.lr is not None and cell.validation_loss is None)
    (tmp_path / "study" / "cells" / f"{diverged.key}.json").unlink()
    again = module.run_cell(tmp_path / "study", diverged.key)
    assert (again.status, again.error, again.validation_loss) == ("done", diverged.error, None)


def test_an_edge_makes_one_more_wave_of_tries(files: Path, tmp_path: Path) -> None:
    arms = {"lora": {}, "r8": {"recipe": {"adapter": {"rank": 8}}}}
    study = searched_study(files, arms=arms, questions=[], search={"factors": [0.1, 1, 10], "extend": 1})
    kinds = []
    for cells in waves(study, tmp_path):
        kinds.append([cell.title for cell in cells])
        for cell in cells:
            best = 5e-3 if cell.arm == "lora" else 5e-2  # the best of r8 is its highest
            keep_cell(tmp_path, result(cell, abs((cell.lr or 0.0) - best)))
    assert len(kinds[0]) == 6 and kinds[1] == ["lora, lr 0.00158: trial", "r8, lr 0.5: trial"]
    assert kinds[2][0] == "lora, seed 0: training"
    assert {arm: one.lr for arm, one in known_choices(study, tmp_path).items()} == {"lora": 5e-3, "r8": 5e-2}


def test_a_failed_try_leaves_its_arm_out_and_is_tried_again(files: Path, tmp_path: Path) -> None:
    arms = {"lora": {}, "r8": {"recipe": {"adapter": {"rank": 8}}}}
    study = searched_study(files, arms=arms, questions=[])
    keep_study(study, tmp_path)
    run = waves(study, tmp_path)
    for cell in next(run):
        lost = dataclasses.replace(cell, status="failed", error="MemoryError: no room")
        inside = result(cell, abs((cell.lr or 0.0) - 5e-3))
        keep_cell(tmp_path, lost if cell.title == "r8, lr 0.001: trial" else inside)
    (final,) = run
    assert {cell.arm for cell in final} == {"lora"}
    found = {cell.title: cell for cell in known_cells(study, tmp_path)}
    assert found["r8, seed 0: training"].error == "no learning rate was chosen for it: a trial failed"
    report = study_report(tmp_path)
    assert {arm.name: arm.status for arm in report.arms} == {"lora": "missing", "r8": "failed"}
    assert {one.arm: one.chosen is None for one in report.rates} == {"lora": False, "r8": True}
    assert [cell.title for cell in next(waves(study, tmp_path))] == ["r8, lr 0.001: trial"]


def test_a_dry_run_says_how_many_trainings(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = searched_study(files, search={}, seeds=[0, 1, 2])
    (tmp_path / "study.json").write_text(json.dumps(study.model_dump(mode="json")), encoding="utf-8")
    (tmp_path / "study.yaml").write_text((tmp_path / "study.json").read_text("utf-8"), encoding="utf-8")
    assert main(["study", "run", str(tmp_path / "study.yaml"), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "11 trainings: 5 trials of learning rates, and up to 2 more while a best" in said
    assert "then 6 with the rates chosen" in said


def test_without_a_search_the_report_says_at_which_rates_it_holds(files: Path, tmp_path: Path) -> None:
    study = searched_study(files, search=None, arms={"base": {"tuned": False}, "lora": {}, "nf4": {}}, questions=[])
    run_study(study.model_copy(update={"arms": {"base": study.arms["base"]}}), tmp_path / "base")
    assert study_report(tmp_path / "base").rates_in_use == ""
    from tunelab.studies.rates_part import rates_in_use

    said = rates_in_use(study, {})
    assert said == "These results hold at the learning rates given, which were not searched: lora 0.005, nf4 0.005."
    assert [cell.title for cell in known_cells(study, tmp_path)][:2] == ["base: held-out", "lora, seed 0: training"]
    assert read_cell(tmp_path, "try-0") is None
