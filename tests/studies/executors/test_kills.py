"""A searched study with budgets that is killed at random in both of its waves ends in the report of one that is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from slurm_commands import write_commands

DRIVER = Path(__file__).parents[1] / "search_kill_driver.py"


def killed(folder: Path, executor: str, kills: int, **environment: str) -> dict[str, Any]:
    """What search_kill_driver.py prints."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder), executor, str(kills), "0"],
        capture_output=True,
        text=True,
        timeout=1400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TUNELAB_CACHE": str(folder / "cache"), **environment},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_is_the_same(found: dict[str, Any]) -> None:
    assert found["whole"]["failed"] == found["killed"]["failed"] == {}
    assert found["killed"]["choices"] == found["whole"]["choices"]
    assert found["killed"]["report"] == found["whole"]["report"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_here(tmp_path: Path) -> None:
    found = killed(tmp_path, "here", 10)
    assert found["hits"].count("study in tries") >= 3 and found["hits"].count("study in final trainings") >= 3
    check_is_the_same(found)


EACH = ["job in tries", "study in tries", "job in final trainings", "study in final trainings"]


@pytest.mark.slow
@pytest.mark.timeout(1500)  # every job and every attempt is a process of its own, which imports torch
def test_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray (pip install tunelab[ray]), which is not installed")
    found = killed(tmp_path, "ray", 4)
    assert found["hits"] == EACH
    check_is_the_same(found)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_slurm(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    place = write_commands(tmp_path / "bin", tmp_path / "cluster")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    found = killed(tmp_path, "slurm", 4, PATH=path, SLURM_STAND_IN=str(place))
    assert found["hits"] == EACH
    check_is_the_same(found)
