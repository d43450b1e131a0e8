"""What takes room in a study's directory is told by kind, and what is no longer needed can be freed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunelab.records.cells import Cell
from tunelab.records.room import (
    FINISHED,
    OTHERS,
    PREPARED,
    RESPONSES,
    UNFINISHED,
    UNUSED,
    WEIGHTS,
    free_checkpoints,
    room_of,
)

CELLS = [
    Cell("train-a", "lora", 0, "", status="done", folder="runs/train-a"),
    Cell("held-out-a", "lora", 0, "held-out", needs="train-a", status="done", folder="runs/train-a/evaluations/x"),
    Cell("train-b", "nf4", 0, "", status="failed"),
]


def written(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's directory with a finished training, one that failed, and one of a job that it no longer has."""
    monkeypatch.setattr("tunelab.records.room.cache_directory", lambda: tmp_path / "cache")
    study = tmp_path / "my study"
    for number, name in enumerate(("train-a", "train-b", "train-old")):
        written(study / "runs" / name / "checkpoints" / "step-00000002" / "weights.safetensors", 10 ** (number + 1))
    written(study / "runs/train-a/adapter/adapter_model.safetensors", 7)
    written(study / "runs/train-a/evaluations/x/responses.jsonl", 5)
    written(study / "evaluations/y/responses.jsonl", 6)
    written(study / "report.html", 3)
    manifest = json.dumps({"data": {"key": "k"}})
    written(study / "runs/train-a/manifest.json", 0)
    (study / "runs/train-a/manifest.json").write_text(manifest, encoding="utf-8")
    written(tmp_path / "cache/k/train.npz", 50)
    written(tmp_path / "cache/of-another/train.npz", 80)
    return study


def test_room_by_kind(folder: Path) -> None:
    found = {one.kind: one for one in room_of(folder, CELLS)}
    manifest = (folder / "runs/train-a/manifest.json").stat().st_size
    assert {kind: one.bytes for kind, one in found.items()} == {
        FINISHED: 10,
        UNFINISHED: 100,
        WEIGHTS: 7,
        RESPONSES: 11,
        UNUSED: 1000,
        OTHERS: 3 + manifest,
        PREPARED: 50,
    }
    assert found[FINISHED].freed_by == f"tunelab study clean '{folder}'"
    assert found[PREPARED].freed_by == f"rm -r {folder.parent / 'cache'}"
    assert not found[UNFINISHED].freed_by and not found[WEIGHTS].freed_by


def test_checkpoints_of_finished_trainings_alone_are_freed(folder: Path) -> None:
    assert free_checkpoints(folder, CELLS) == 10
    assert sorted(path.parent.name for path in folder.glob("runs/*/checkpoints")) == ["train-b", "train-old"]
    assert (folder / "runs/train-a/adapter/adapter_model.safetensors").exists()
    assert FINISHED not in {one.kind for one in room_of(folder, CELLS)}
    assert free_checkpoints(folder, CELLS) == 0
