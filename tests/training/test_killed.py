"""A run that is killed with SIGKILL, many times and anywhere, ends with the bits of a run that nobody killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repeatable import repeatable
from tiny import recipe

from tunelab.records.runs import Run
from tunelab.training.finetune import finetune, resume

DRIVER = Path(__file__).with_name("kill_driver.py")
KILLS = 24


@pytest.mark.slow
def test_killed_at_random_and_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path), str(KILLS), "0"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "TUNELAB_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    whole = report["whole"]
    assert len(report["hits"]) >= KILLS >= 20
    assert {"loading", "step"} <= set(report["hits"])
    assert {"checkpoint", "best", "result"} & set(report["hits"]), "some kills hit the writing of files"
    assert whole["status"] == "finished"
    assert [record["step"] for record in whole["metrics"] if record["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert max(run["sessions"] for run in report["killed"].values()) > 1
    for path, run in report["killed"].items():
        assert not run["leftovers"], path
        for name in set(whole) - {"sessions"}:
            assert run[name] == whole[name], f"{path}: {name}"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_at_the_command_line(number: int, models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    steps = 250
    made = recipe(models["llama"], rows, tmp_path / "run", train__steps=steps, adapter__dropout=0.1)
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(made))
    command = [sys.executable, "-m", "tunelab", "train", str(file)]
    run = Run(tmp_path / "run")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 200
        while not run.metrics_file.exists() or len(run.metrics("train")) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 130, err
    assert out == ""
    stopped = len(run.metrics("train"))
    assert 3 <= stopped < steps
    assert f"error: stopped after step {stopped} of {steps}; a checkpoint was saved\n" in err
    assert f"hint: resume with: tunelab train --resume {run.path}\n" in err
    assert "Traceback" not in err
    assert run.status == "interrupted"
    assert [path.name for path in run.checkpoints.iterdir()][-1:] == [f"step-{stopped:08d}"]
    if number == signal.SIGINT:
        # The rest here, in another process: the same bits as in one go.
        resumed = resume(run.path)
        whole = finetune({**made, "out": str(tmp_path / "whole")})
        assert resumed.manifest["weights_after"] == whole.manifest["weights_after"]
        assert repeatable(resumed.metrics()) == repeatable(whole.metrics())
