"""Versions and machine are stored with every result, and the commit where tunelab runs from a checkout."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tunelab.records import environment as module
from tunelab.records.environment import environment, source_state


def test_the_environment_says_what_a_result_must_be_read_with() -> None:
    made = environment()
    assert made["libraries"]["torch"]
    assert (made["cores"], made["memory_bytes"] > 2**28) == (os.cpu_count(), True)
    assert made["processor"]
    json.dumps(made)


def test_libraries_that_are_not_there_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIBRARIES", ("torch", "no-such-library"))
    assert environment()["libraries"]["no-such-library"] is None


def test_source_outside_git_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "environment.py"))
    assert source_state.__wrapped__() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_state.__wrapped__() is None


def test_source_in_git_is_told_by_commit_and_dirt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "environment.py").touch()
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, capture_output=True)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "environment.py"))
    clean = source_state.__wrapped__()
    assert clean is not None
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    (tmp_path / "environment.py").write_text("changed")
    changed = source_state.__wrapped__()
    assert changed == {"commit": clean["commit"], "dirty": True}
