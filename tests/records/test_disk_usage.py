"""The disk usage of a study's directory is told by kind, and what is no longer needed can be freed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunelab.errors import RunError
from tunelab.records.cells import Cell
from tunelab.records.disk_usage import (
    FINISHED,
    OTHERS,
    PREPARED,
    RESPONSES,
    UNFINISHED,
    UNUSED,
    WEIGHTS,
    disk_usage,
    free_checkpoints,
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
    monkeypatch.setattr("tunelab.records.disk_usage.cache_directory", lambda: tmp_path / "cache")
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


def test_disk_usage_by_kind(folder: Path) -> None:
    found = {one.kind: one for one in disk_usage(folder, CELLS)}
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
    assert found[PREPARED].freed_by == f"rm -r {folder.parent / 'cache' / 'k'}", "the cache is of all studies"
    assert not found[UNFINISHED].freed_by and not found[WEIGHTS].freed_by


def test_checkpoints_of_finished_trainings_alone_are_freed(folder: Path) -> None:
    assert free_checkpoints(folder, CELLS) == 10
    assert sorted(path.parent.name for path in folder.glob("runs/*/checkpoints")) == ["train-b", "train-old"]
    assert (folder / "runs/train-a/adapter/adapter_model.safetensors").exists()
    assert FINISHED not in {one.kind for one in disk_usage(folder, CELLS)}
    assert free_checkpoints(folder, CELLS) == 0


def test_nothing_is_removed_in_a_dry_run(folder: Path) -> None:
    assert free_checkpoints(folder, CELLS, dry_run=True) == 10
    assert (folder / "runs/train-a/checkpoints").exists()


@pytest.mark.parametrize("place", ["/other/runs/train-a", "../other/runs/train-a", "runs/train-b", "", "runs/linked"])
def test_a_record_that_names_another_directory_removes_nothing(folder: Path, place: str) -> None:
    written(folder.parent / "other/runs/train-a/checkpoints/step-00000002/weights.safetensors", 9)
    place = f"{folder.parent}{place}" if place.startswith("/") else place
    (folder / "runs/linked").symlink_to(folder.parent / "other/runs/train-a")
    key = "linked" if place == "runs/linked" else "train-x"
    named = Cell(key, "lora", 0, "", status="done", folder=place)
    with pytest.raises(RunError, match=rf"{key}.json: folder is .*, which is not runs/{key} .*; nothing was removed"):
        free_checkpoints(folder, [*CELLS, named])
    assert len(list(folder.parent.rglob("checkpoints"))) == 4


def test_linked_checkpoints_lose_the_link_alone(folder: Path) -> None:
    run = folder / "runs/train-a"
    (run / "checkpoints").rename(folder.parent / "elsewhere")
    (run / "checkpoints").symlink_to(folder.parent / "elsewhere")
    assert free_checkpoints(folder, CELLS) == 0
    assert not (run / "checkpoints").is_symlink() and list((folder.parent / "elsewhere").iterdir())


def test_a_key_that_is_no_folder_of_the_cache_is_not_measured(folder: Path) -> None:
    manifest = json.dumps({"data": {"key": ".."}})
    (folder / "runs/train-a/manifest.json").write_text(manifest, encoding="utf-8")
    assert PREPARED not in {one.kind for one in disk_usage(folder, CELLS)}


def test_files_that_vanish_meanwhile_are_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = os.walk

    def walked(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, names in walk(top):
            yield place, folders, [*names, "gone"]

    before = disk_usage(folder, CELLS)
    monkeypatch.setattr("tunelab.records.disk_usage.os.walk", walked)
    assert disk_usage(folder, CELLS) == before
