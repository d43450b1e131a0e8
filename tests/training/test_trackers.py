"""Each tracker writes to this machine with no network, whatever becomes of the run; metrics.jsonl is always there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe
from tracker_files import LOCAL_ONLY

from tunelab.config import Recipe
from tunelab.errors import RunError, UsageError
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune
from tunelab.training.tracked_run import TrackedRun, training_run
from tunelab.training.trackers import TensorBoardRun, WandbRun

# A run whose process may speak to this machine alone; prints what the run's folders hold.
RUN = (
    LOCAL_ONLY
    + """
import json, sys
from tunelab.training.finetune import finetune
recipe = json.loads(sys.argv[1])
for number in (1, 2):
    finetune({**recipe, "out": recipe["out"] + str(number)})
"""
)


def tracked(tracker: str, models: dict[str, Path], rows: Path, folder: Path) -> str:
    """What two runs of one process wrote to stderr; they lie in run1 and run2."""
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f'needs {tracker}: pip install "tunelab[trackers]"')
    made = recipe(
        models["llama"], rows, folder / "run", train__trackers=[tracker], data__held_out=4, train__eval_every=3
    )
    environment = {
        **os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true",
        "TRACKIO_DIR": str(folder / "trackio"), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "default",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(made)],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "the library prints nothing, nor do trackers on its behalf"
    for number in (1, 2):
        run = Run(folder / f"run{number}")
        assert (run.status, len(run.metrics("train")), len(run.metrics("held-out"))) == ("finished", 6, 2)
    return done.stderr


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_wandb_offline(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    tracked("wandb", models, rows, tmp_path)
    for number in (1, 2):
        (log,) = (path for path in files(tmp_path / f"run{number}" / "trackers") if path.suffix == ".wandb")
        content = log.read_bytes()
        for word in (b"train/loss", b"train/gradient_norm", b"held-out/loss"):
            assert word in content, word
        for place in (str(tmp_path), str(models["llama"]), str(Path.home())):
            assert place.encode() not in content, "no path of this machine"


def assert_in_tensorboard(run: Path) -> None:
    content = b"".join(path.read_bytes() for path in files(run / "trackers"))
    assert b"train/loss" in content
    assert b"held-out/loss" in content
    assert content.count(b"train/lr") == 6


def test_tensorboard(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason='needs tensorboard: pip install "tunelab[trackers]"')
    changes: dict[str, Any] = {"train__trackers": ["tensorboard"], "data__held_out": 4, "train__eval_every": 3}
    finetune(recipe(models["llama"], rows, tmp_path / "run", **changes))
    assert_in_tensorboard(tmp_path / "run")


@pytest.mark.slow  # the test above is its sample
def test_tensorboard_without_a_network(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    tracked("tensorboard", models, rows, tmp_path)
    for number in (1, 2):
        assert_in_tensorboard(tmp_path / f"run{number}")


@pytest.mark.slow
def test_trackio(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    tracked("trackio", models, rows, tmp_path)
    import sqlite3

    (database,) = (path for path in files(tmp_path / "trackio") if path.suffix == ".db" and "tunelab" in path.name)
    with sqlite3.connect(database) as connection:
        logged = connection.execute("select run_name, step, metrics from metrics").fetchall()
    connection.close()
    assert {name for name, _, _ in logged} == {"run1", "run2"}
    losses = [(name, step) for name, step, metrics in logged if b"train/loss" in _bytes(metrics)]
    assert sorted(losses) == [(name, step) for name in ("run1", "run2") for step in range(1, 7)]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def test_a_tracker_is_ended_where_training_fails(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip('needs tensorboard: pip install "tunelab[trackers]"')
    ended: list[bool] = []
    finish = TensorBoardRun.finish
    monkeypatch.setattr(TensorBoardRun, "finish", lambda self, failed: (ended.append(failed), finish(self, failed)))

    def breaks(*args: Any, **more: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("tunelab.training.finetune.TrainingLoop", breaks)
    with pytest.raises(RuntimeError, match="broken"):
        finetune(recipe(models["llama"], rows, tmp_path / "run", train__trackers=["tensorboard"]))
    assert ended == [True]


def test_one_that_does_not_start_is_named_and_the_others_are_ended(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip('needs tensorboard: pip install "tunelab[trackers]"')

    def refuses(self: Any, about: TrackedRun) -> None:
        raise OSError("no route to host")

    ended: list[bool] = []
    monkeypatch.setattr(WandbRun, "__init__", refuses)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setattr(TensorBoardRun, "finish", lambda self, failed: ended.append(failed))
    made = recipe(models["llama"], rows, tmp_path / "run", train__trackers=["tensorboard", "wandb"])
    with pytest.raises(RunError, match=r"train.trackers: wandb could not be started: OSError: no route to host") as one:
        finetune(made)
    assert "WANDB_MODE=offline" in one.value.hint and ended == [True]
    assert Run(tmp_path / "run").manifest["error"].startswith("RunError: train.trackers: wandb")


def test_runs_of_a_group_stand_together(tmp_path: Path) -> None:
    plain = Recipe.model_validate({"model": "m", "data": "rows.jsonl", "train": {"trackers": ["tensorboard"]}})
    grouped = plain.model_copy(update={"train": plain.train.model_copy(update={"tracker_group": "Two, ways"})})
    alone = training_run(Run(tmp_path / "a"), plain)
    assert (alone.group, alone.id, alone.unique_name) == (None, "", "a")
    assert alone.events == tmp_path / "a" / "trackers" / "tunelab"
    first, second = (training_run(Run(tmp_path / name), grouped) for name in "ab")
    assert (first.group, first.job_type, first.name) == ("Two, ways", "training", "a")
    assert [one.events for one in (first, second)] == [tmp_path / "trackers" / "two-ways" / name for name in "ab"]


def test_a_tracker_that_is_not_installed(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"train.trackers: trackio is not installed") as caught:
        finetune(recipe(models["llama"], rows, tmp_path / "run", train__trackers=["trackio"]))
    assert 'pip install "tunelab[trackers]"' in caught.value.hint
    assert not (tmp_path / "run").exists(), "nothing was started"
