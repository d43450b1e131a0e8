"""A run goes on only with the rows and the base that it began with."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from tunelab.errors import Interrupted, RunError
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune, resume
from tunelab.training.loop import TrainingLoop


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    model = tiny.model_folder(tmp_path / "model")
    rows = tiny.rows_file(tmp_path / "rows.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_any_process", lambda self, flag: True)
        with pytest.raises(Interrupted):
            finetune(tiny.recipe(model, rows, tmp_path / "run"))
    return Run(tmp_path / "run")


def test_changed_rows_are_refused(interrupted: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace('completion": "', 'completion": "not '), encoding="utf-8")
    with pytest.raises(RunError, match="the training rows have changed since"):
        resume(interrupted.path)


def test_changed_base_weights_are_refused(interrupted: Run, tmp_path: Path) -> None:
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    weights[name] = weights[name] + torch.ones_like(weights[name])
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"not the base that it was trained on .*its weights differ"):
        resume(interrupted.path)


def test_unchanged_it_goes_on_without_what_a_kill_left(interrupted: Run) -> None:
    (interrupted.path / ".adapter.99.tmp").mkdir()
    (interrupted.path / ".adapter.99.tmp" / "adapter_config.json").touch()
    (interrupted.path / ".manifest.json.99.tmp").touch()
    assert resume(interrupted.path).is_done
    assert not list(interrupted.path.glob(".*.tmp"))


def test_a_damaged_newest_checkpoint_gives_the_run_that_was_never_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = tiny.model_folder(tmp_path / "model"), tiny.rows_file(tmp_path / "rows.jsonl")
    made = {name: tiny.recipe(model, rows, tmp_path / name, train__save_every=2) for name in ("whole", "run")}
    whole = finetune(made["whole"])
    with monkeypatch.context() as patch:
        calls = iter([False, False, False, True])
        patch.setattr(TrainingLoop, "_any_process", lambda self, flag: next(calls))
        with pytest.raises(Interrupted, match="after step 4"):
            finetune(made["run"])
    newest = tmp_path / "run" / "checkpoints" / "step-00000004"
    (newest / "optimizer.safetensors").write_bytes(b"")
    said: list[str] = []
    resumed = resume(tmp_path / "run", notify=said.append)
    assert said[0].startswith(f"{newest} is damaged: optimizer.safetensors: incomplete")
    assert said[1] == "resuming from step 2"
    assert resumed.manifest["weights_after"] == whole.manifest["weights_after"]
    assert [record["step"] for record in resumed.metrics("train")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("content", ["{}", None])
def test_checkpoints_without_what_they_began_with_are_refused(interrupted: Run, content: str | None) -> None:
    if content is None:
        interrupted.manifest_file.unlink()
    else:
        interrupted.manifest_file.write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"manifest\.json: lacks what the run started with, although there are"):
        resume(interrupted.path)
