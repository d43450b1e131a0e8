"""A run's directory: who may write it, what is read from it, and what a kill leaves of its files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunelab.config import parse_recipe, to_yaml
from tunelab.errors import RunError
from tunelab.records import runs
from tunelab.records.runs import (
    CONTENTS,
    Run,
    check_finished,
    new_run,
    now,
    open_run,
)
from tunelab.records.trained_with import trained_with


def test_a_new_run_and_its_files(tmp_path: Path) -> None:
    run = new_run(tmp_path / "a" / "run", "model: gpt2\n")
    assert run.recipe_file.read_text() == "model: gpt2\n"
    assert (run.status, run.is_done, run.manifest, run.metrics()) == ("new", False, {}, [])
    places = (run.manifest_file, run.metrics_file, run.checkpoints, run.adapter, run.model, run.tokenizer)
    assert {place.parent for place in (*places, run.evaluations, run.trackers)} == {run.path}
    assert open_run(run.path) == run


def test_directories_that_cannot_become_a_run(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", "")
    run.update_manifest(status="interrupted")
    with pytest.raises(RunError, match=r"run: already contains a run \(interrupted\)") as caught:
        new_run(run.path, "")
    assert f"tunelab train --resume {run.path}" in caught.value.hint
    (tmp_path / "photo.png").touch()
    with pytest.raises(RunError, match="the directory is not empty and is not a run"):
        new_run(tmp_path, "")
    with pytest.raises(RunError, match=r"other: no run there \(no recipe.yaml\)"):
        open_run(tmp_path / "other")


@pytest.mark.parametrize("section", ["recipe", "model", "data"])
def test_a_manifest_without_an_object_is_damaged(section: str, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", "model: gpt2\n")
    run.manifest_file.write_text(json.dumps({"status": "finished", section: None}), encoding="utf-8")
    with pytest.raises(RunError, match=rf"manifest.json: {section} is null, expected an object"):
        assert run.manifest
    assert "unreadable" in repr(run)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trained": {"training_seconds": "x"}}, "trained.training_seconds is 'x', expected a number"),
        ({"trained": {"targets": 1.5}}, "trained.targets is 1.5, expected an integer"),
        ({"sessions": []}, r"sessions is \[\], expected a list of one or more"),
        ({"sessions": [{"environment": 3}]}, "sessions.0.environment is 3, expected an object"),
        ({"steps": 0}, "steps is 0, expected a positive number"),
        ({"held_out_loss_before": "low"}, "held_out_loss_before is 'low', expected a number"),
    ],
)
def test_a_manifest_with_a_value_of_another_type_is_damaged(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.manifest_file.write_text(json.dumps(changes), encoding="utf-8")
    with pytest.raises(RunError, match=f"manifest.json: {said}"):
        _ = run.manifest


def test_a_manifest_that_lacks_what_is_read_in_a_session_is_damaged(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.manifest_file.write_text('{"sessions": [{"started": "now"}]}', encoding="utf-8")
    with pytest.raises(RunError, match=r"manifest.json: lacks environment"):
        _ = run.manifest["sessions"][0]["environment"]


def test_a_manifest_that_lacks_what_is_read_is_damaged(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", "model: gpt2\n")
    run.manifest_file.write_text(json.dumps({"status": "finished", "model": {"digest": {}}}), encoding="utf-8")
    with pytest.raises(RunError, match=r"manifest.json: lacks trainable"):
        assert run.manifest["model"]["digest"]["trainable"]
    assert run.manifest.get("data", {}) == {} and "trained" not in run.manifest


def test_what_a_kill_before_the_recipe_was_written_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".recipe.yaml.77.tmp").write_text("mod")
    (tmp_path / ".lock").touch()
    assert new_run(tmp_path, "model: gpt2\n").recipe_file.exists()


def test_a_manifest_is_updated_by_name(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.update_manifest(status="running", seeds={"train": 0})
    run.update_manifest(status="finished")
    assert run.manifest == {"status": "finished", "seeds": {"train": 0}}
    assert run.is_done
    run.update_manifest(status="stopped early")
    assert run.is_done


def test_metrics_are_lines_of_json(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append_metrics({"kind": "train", "step": 1, "loss": 0.1 + 0.2})
    run.append_metrics({"kind": "held-out", "step": 1, "loss": 2.0})
    assert [json.loads(line)["kind"] for line in run.metrics_file.read_text().splitlines()] == ["train", "held-out"]
    assert run.metrics("train") == [{"kind": "train", "step": 1, "loss": 0.1 + 0.2}]


def test_metrics_that_are_no_json_are_not_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append_metrics({"loss": float("inf")})
    assert run.metrics() == []


def test_metrics_of_steps_that_run_again_are_dropped(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.keep_metrics_up_to(3)  # nothing there yet
    for step in (1, 2, 3):
        run.append_metrics({"kind": "train", "step": step, "loss": 1.0})
    run.append_metrics({"kind": "held-out", "step": 3, "loss": 1.0})
    with open(run.metrics_file, "a") as file:
        file.write('{"kind": "train", "st')
    run.keep_metrics_up_to(2)
    assert [record["step"] for record in run.metrics()] == [1, 2]
    run.append_metrics({"kind": "train", "step": 3, "loss": 1.0})
    assert [record["step"] for record in run.metrics()] == [1, 2, 3]
    run.keep_metrics_up_to(0)
    assert run.metrics() == []


HOLD = """
import sys, time
from pathlib import Path
from tunelab.records.runs import Run
with Run(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_writes_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="run: another process is writing this run"), run.locked():
            pytest.fail("not reached")
        process.send_signal(signal.SIGKILL)
        process.wait()
    with run.locked():
        pass
    with run.locked():
        pass


def test_time_is_utc_to_the_second() -> None:
    assert now().endswith("+00:00")
    assert len(now()) == 25


def test_a_run_that_failed_before_its_first_checkpoint_may_begin_again(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", "first")
    run.update_manifest(status="failed", error="ModelError: no such folder")
    run.append_metrics({"kind": "train", "step": 1})
    again = new_run(tmp_path / "run", "second")
    assert again.recipe_file.read_text(encoding="utf-8") == "second"
    assert again.manifest == {} and again.metrics() == []


def test_the_hint_for_a_run_that_is_there_is_a_command_for_a_shell(tmp_path: Path) -> None:
    run = new_run(tmp_path / "my run", "first")
    run.update_manifest(status="interrupted")
    with pytest.raises(RunError, match="already contains a run") as caught:
        new_run(run.path, "second")
    assert f"resume it (tunelab train --resume '{run.path}'), replace it with --overwrite" in caught.value.hint
    with pytest.raises(RunError, match="the run is interrupted, not finished") as caught:
        check_finished(run)
    assert caught.value.hint == f"tunelab train --resume '{run.path}'"
    run.update_manifest(status="finished")
    with pytest.raises(RunError, match=r"already contains a run \(finished\)") as caught:
        new_run(run.path, "second")
    assert "--resume" not in caught.value.hint and f"evaluate it (tunelab eval '{run.path}')" in caught.value.hint
    check_finished(run)


def a_run_with_everything(path: Path) -> Run:
    run = new_run(path, "first")
    run.update_manifest(status="finished")
    for name in CONTENTS:
        if "." in name:
            (path / name).write_text("{}\n")
        else:
            (path / name / "below").mkdir(parents=True)
    return run


def test_overwriting_replaces_a_run_and_all_that_belongs_to_it(tmp_path: Path) -> None:
    run = a_run_with_everything(tmp_path / "run")
    again = new_run(run.path, "second", overwrite=True)
    assert again.recipe_file.read_text() == "second" and again.status == "new"
    assert sorted(one.name for one in run.path.iterdir()) == [".lock", "manifest.json", "recipe.yaml"]
    assert new_run(tmp_path / "fresh", "first", overwrite=True).recipe_file.exists(), "where there is none, none goes"


def test_nothing_but_a_run_is_overwritten(tmp_path: Path) -> None:
    run = a_run_with_everything(tmp_path / "run")
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"contains files that are not a run's: notes.txt; nothing was removed"):
        new_run(run.path, "second", overwrite=True)
    assert all((run.path / name).exists() for name in CONTENTS) and run.is_done
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "recipe.yaml").write_text("mine")
    with pytest.raises(RunError, match="project: is not a run; nothing was removed"):
        new_run(tmp_path / "project", "second", overwrite=True)
    with pytest.raises(RunError, match="the directory is not empty and is not a run"):
        new_run(tmp_path, "second", overwrite=True)
    assert (tmp_path / "project" / "recipe.yaml").read_text() == "mine"
    other = a_run_with_everything(tmp_path / "busy")
    with other.locked(), pytest.raises(RunError, match="another process is writing this run"):
        new_run(other.path, "second", overwrite=True)
    assert other.is_done and other.adapter.exists()


def test_of_two_that_start_at_once_only_one_gets_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = runs._check_free

    def as_another_starts(run: Run, overwrite: bool) -> None:
        check(run, overwrite)
        monkeypatch.setattr(runs, "_check_free", check)
        new_run(run.path, "first")

    monkeypatch.setattr(runs, "_check_free", as_another_starts)
    with pytest.raises(RunError, match="already contains a run"):
        new_run(tmp_path / "run", "second")
    assert Run(tmp_path / "run").recipe_file.read_text(encoding="utf-8") == "first"


def test_a_failed_run_with_a_checkpoint_is_kept(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", "first")
    run.update_manifest(status="failed")
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    with pytest.raises(RunError, match=r"already contains a run \(failed\)"):
        new_run(tmp_path / "run", "second")


def test_a_recipe_that_was_edited_since_the_run_started(tmp_path: Path) -> None:
    recipe = parse_recipe({"model": "m", "data": "rows.jsonl", "train": {"lr": 1e-4}})
    run = new_run(tmp_path / "run", to_yaml(recipe))
    text = run.recipe_file.read_text(encoding="utf-8")
    lines = ("lr: 0.0001", "lr: 0.0002"), ("name: none", "name: nf4"), ("loss_on: completion", "loss_on: all")
    lines = *lines, ("new_tokens: null", "new_tokens: template")
    run.recipe_file.write_text(text.replace(*lines[0]), encoding="utf-8")
    assert run.recipe.train.lr == 2e-4, "it has not started"
    run.update_manifest(recipe=trained_with(recipe))
    for before, after in lines:
        assert before in text
        run.recipe_file.write_text(text.replace(before, after), encoding="utf-8")
        key, value = after.split(": ")
        with pytest.raises(RunError, match=rf"not what the run was started with: [a-z]+\.{key} is {value}, was"):
            _ = run.recipe
    may = text.replace("micro_batch_tokens: 4096", "micro_batch_tokens: 512").replace("rows.jsonl", "moved.jsonl")
    assert may != text
    run.recipe_file.write_text(may, encoding="utf-8")
    assert run.recipe.train.micro_batch_tokens == 512


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "train", "step": 1}',
        '{"step": null, "loss": 1.0}',
        '{"step": 1, "loss": "a"}',
        '{"step": NaN, "loss": 1.0}',
        '{"step": 1, "loss": Infinity}',
        "[1, 2.0]",
    ],
)
def test_a_damaged_record_of_metrics_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 2.0}\n' + line + "\n", "utf-8")
    with pytest.raises(RunError, match="record 2 has no step and loss, both finite numbers") as caught:
        Run(tmp_path).metrics()
    assert "train again" in caught.value.hint
