"""Each cell of a study is one run of one group at every tracker, also where it was stopped; so is the report."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from study_files import study_of, write_study_files
from tracker_files import LOCAL_ONLY, Logged, tensorboard_run, trackio_runs, wandb_sessions

from tunelab.config.study import parse_study
from tunelab.records.cells import cells_of, keep_study, read_study
from tunelab.records.runs import Run
from tunelab.studies.run_cell import run_cell
from tunelab.studies.study_trackers import log_report
from tunelab.training.tracked_run import in_group

TRACKERS = ["wandb", "tensorboard", "trackio"]
TITLES = ["base: held-out", "lora, seed 0: training", "lora, seed 0: held-out", "report"]

# A study whose process may speak to this machine alone: stopped in its training, gone on with, and reported.
STUDY = (
    LOCAL_ONLY
    + """
import json, sys
from tunelab.config.study import parse_study
from tunelab.errors import Interrupted
from tunelab.cli.main import main
from tunelab.studies.run_study import run_study
from pathlib import Path

study, folder = parse_study(json.loads(sys.argv[1])), Path(sys.argv[2])

def stops(stage, done, total, detail=""):
    if stage.endswith(": training") and done >= 3:
        raise KeyboardInterrupt

try:
    run_study(study, folder, progress=stops)
except (Interrupted, KeyboardInterrupt):
    print("stopped", file=sys.stderr)
Path("study.json").write_text(sys.argv[1], encoding="utf-8")  # JSON is YAML
sys.exit(main(["study", "run", "study.json", "--out", str(folder)]))
"""
)


def with_trackers(files: Path, trackers: list[str], **changes: Any) -> dict[str, Any]:
    study = study_of(files, arms={"base": {"tuned": False}, "lora": {}}, seeds=[0], **changes)
    tree: dict[str, Any] = study.model_dump(mode="json")
    tree["recipe"]["train"] |= {"trackers": trackers, "tracker_project": "bits"}
    return tree


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


@dataclass
class Made:
    folder: Path
    trackio: Path
    stderr: str


@pytest.fixture(scope="module")
def made(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A study with all three trackers, as its directory stands in the end."""
    for tracker in TRACKERS:
        if importlib.util.find_spec(tracker) is None:
            pytest.skip(f'needs {tracker}: pip install "tunelab[trackers]"')
    root = tmp_path_factory.mktemp("tracked")
    environment = {
        **os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true",
        "TRACKIO_DIR": str(root / "trackio"), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "default",
    }  # fmt: skip
    tree = json.dumps(with_trackers(files, TRACKERS))
    done = subprocess.run(
        [sys.executable, "-c", STUDY, tree, str(root / "study")],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Does LoRA help? ") and not re.search("(?i)wandb|trackio|tensorboard", done.stdout)
    return Made(root / "study", root / "trackio", done.stderr)


def stored_scores(folder: Path, title: str) -> dict[str, float]:
    """What a cell's scores.json says, as a tracker should have it."""
    (cell,) = (one for one in read_study(folder)[1] if one.title == title)
    content = json.loads((folder / cell.folder / "scores.json").read_text(encoding="utf-8"))
    values = {f"held-out/{one['name']}": one["value"] for one in content["scores"]}
    errors = {f"held-out/{one['name']} error": one["error"] for one in content["scores"] if one["error"] is not None}
    return values | errors


def losses_of(made: Made) -> dict[int, float]:
    (run,) = (made.folder / "runs").iterdir()
    return {int(one["step"]): one["loss"] for one in Run(run).metrics("train")}


@pytest.mark.slow
def test_it_was_stopped_and_nothing_was_sent(made: Made) -> None:
    assert "stopped" in made.stderr and "network:" not in made.stderr
    assert sorted(losses_of(made)) == [1, 2, 3, 4, 5, 6]
    (run,) = (made.folder / "runs").iterdir()
    assert not (run / "trackers").exists(), "a study keeps its trackers' files in one place"


@pytest.mark.slow
def test_wandb_has_one_group(made: Made) -> None:
    sessions = wandb_sessions(made.folder / "trackers" / "wandb")
    assert [one.name for one in sessions] == [TITLES[0], TITLES[1], *TITLES[1:]], "the training in two sessions"
    assert {one.group for one in sessions} == {"few-bits"} and {one.exit_code for one in sessions} <= {0, 1}
    assert [one.job_type for one in sessions] == ["evaluation", "training", "training", "evaluation", "report"]
    assert sessions[1].id == sessions[2].id and len({one.id for one in sessions}) == 4
    assert (sessions[1].exit_code, sessions[2].exit_code) == (1, 0), "stopped, and then done"
    assert (sessions[3].config["arm"], sessions[3].config["seed"], sessions[3].config["benchmark"]) == (
        "lora", 0, "held-out",
    )  # fmt: skip
    steps = [step for session in sessions[1:3] for step, values in session.history if "train/loss" in values]
    assert set(steps) == {1, 2, 3, 4, 5, 6}
    for session in (sessions[0], sessions[3]):
        ((step, values),) = session.history
        assert step == 0 and stored_scores(made.folder, session.name).items() <= values.items()


@pytest.mark.slow
def test_wandb_has_the_report(made: Made) -> None:
    report = wandb_sessions(made.folder / "trackers" / "wandb")[-1]
    (_, scores), (_, shown) = report.history
    perplexity = stored_scores(made.folder, TITLES[2])["held-out/completion_perplexity"]
    assert scores["held-out completion_perplexity/lora"] == pytest.approx(perplexity)
    kinds = {name.removesuffix("/_type"): value for name, value in shown.items() if name.endswith("/_type")}
    assert kinds["report"] == "html-file" and kinds["tables/Quality"] == "table-file"
    assert {name for name in kinds if name.startswith("plots/")} >= {"plots/scores-held-out", "plots/training-loss"}
    media = [path for path in (made.folder / "trackers" / "wandb").rglob("*.html")]
    assert any("<svg" in path.read_text(encoding="utf-8")[:100] for path in media)
    assert any(path.read_text(encoding="utf-8").startswith("<!doctype html>") for path in media)
    (table,) = (made.folder / "trackers" / "wandb").rglob("Quality*.table.json")
    content = json.loads(table.read_text(encoding="utf-8"))
    assert content["columns"][0] == "Arm" and [row[0].split(";")[0] for row in content["data"]] == ["base", "lora"]


@pytest.mark.slow
def test_trackio_has_one_group(made: Made) -> None:
    runs = {run.name.rsplit(" (", 1)[0]: run for run in trackio_runs(made.trackio, "bits")}
    assert sorted(runs) == sorted(TITLES) and len(trackio_runs(made.trackio, "bits")) == 4
    assert {run.group for run in runs.values()} == {"few-bits"}
    logged = {(step, values["train/loss"]) for step, values in runs[TITLES[1]].history if "train/loss" in values}
    assert logged == set(losses_of(made).items()), "a step that ran twice gave the same"
    for title in (TITLES[0], TITLES[2]):
        assert runs[title].history == [(0, stored_scores(made.folder, title))]
    check_trackio_report(runs["report"], made)


def check_trackio_report(run: Logged, made: Made) -> None:
    (_, scores), (_, shown) = run.history
    assert "held-out completion_perplexity/base" in scores
    assert shown["report"]["_type"] == "trackio.markdown" and shown["report"]["_value"].startswith("# few bits")
    rows = shown["tables/Quality"]["_value"]
    assert [row["Arm"].split(";")[0] for row in rows] == ["base", "lora"]
    assert shown["page"]["_type"] == shown["plots/training-loss"]["_type"] == "trackio.html"
    plot = made.trackio / "media" / shown["plots/training-loss"]["file_path"]
    assert "<svg" in plot.read_text(encoding="utf-8")


@pytest.mark.slow
def test_tensorboard_has_one_folder_a_run(made: Made) -> None:
    runs = sorted((made.folder / "trackers" / "few-bits").iterdir())
    names = [one.name.rsplit("-", 1)[0] for one in runs]
    assert names == ["base-held-out", "lora-seed-0-held-out", "lora-seed-0-training", "report"]
    assert not any(path.is_dir() for one in runs for path in one.iterdir()), "one folder is one run"
    base, lora, training, report = (tensorboard_run(one) for one in runs)
    assert training[0]["train/loss"] == [
        (step, pytest.approx(loss)) for step, loss in sorted(losses_of(made).items())
    ], "steps that ran twice stand there once"
    assert "precision:" in training[1]["recipe"]
    for (scalars, _), title in ((base, TITLES[0]), (lora, TITLES[2])):
        expected = stored_scores(made.folder, title)
        assert {name: values for name, ((_, values),) in scalars.items()} == pytest.approx(expected)
    assert report[1]["report"].startswith("The page with its plots: `report.html` in the study's directory")
    assert "# few bits" in report[1]["report"]
    assert "held-out completion_perplexity/lora" in report[0]


def test_trackers_change_nothing_of_what_a_cell_is(files: Path) -> None:
    plain, logged = (parse_study(with_trackers(files, trackers)) for trackers in ([], TRACKERS))
    grouped = with_trackers(files, TRACKERS)
    grouped["recipe"]["train"]["tracker_group"] = "mine"
    for study in (logged, parse_study(grouped)):
        assert [cell.key for cell in cells_of(study)] == [cell.key for cell in cells_of(plain)]
    groups = [
        in_group(one, one.arm_recipe("lora", 0)).train.tracker_group for one in (plain, logged, parse_study(grouped))
    ]
    assert groups == [None, "few-bits", "mine"], "a study without trackers leaves the recipe as it is"


def test_a_tracker_that_cannot_be_reached_fails_the_cell(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason='needs wandb: pip install "tunelab[trackers]"')

    def refuses(**settings: Any) -> None:
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(wandb, "init", refuses)
    study = parse_study(with_trackers(files, ["tensorboard", "wandb"]))
    keep_study(study, tmp_path)
    for cell in cells_of(study)[:2]:
        failed = run_cell(tmp_path, cell.key)
        assert failed.status == "failed"
        assert "train.trackers: wandb could not be started: UsageError: No API key configured" in failed.error
    assert not list(tmp_path.glob("evaluations/*/scores.json")), "it is heard of before anything is evaluated"


def test_a_tracker_that_is_not_installed_fails_the_cell(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parse_study(with_trackers(files, ["trackio"]))
    keep_study(study, tmp_path)
    monkeypatch.setattr("tunelab.training.trackers.importlib.util.find_spec", lambda name: None)
    failed = run_cell(tmp_path, cells_of(study)[0].key)
    assert failed.error == "UsageError: train.trackers: trackio is not installed"


def test_a_study_without_trackers_logs_no_report(files: Path, tmp_path: Path) -> None:
    keep_study(parse_study(with_trackers(files, [])), tmp_path)
    log_report(tmp_path)
    assert not (tmp_path / "trackers").exists()
