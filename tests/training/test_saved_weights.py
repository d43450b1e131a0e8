"""Fully trained weights are saved in the checkpoint's dtype, and what that costs is measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from tunelab.answering.held_out_evaluation import evaluate
from tunelab.cli.train import summary
from tunelab.errors import TrainingError
from tunelab.files import directory_written_atomically
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in bfloat16."""
    folder = tmp_path_factory.mktemp("bf16") / "base"
    tiny.tiny_model("llama").to(torch.bfloat16).save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def train(model: Path, rows: Path, out: Path, **changes: Any) -> Run:
    return finetune(tiny.recipe(model, rows, out, method="full", data__held_out=4, train__steps=2, **changes))


def dtypes(run: Run) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(run.model / "model.safetensors").values()}


def test_in_the_dtype_of_the_checkpoint(bf16: Path, models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    run = train(bf16, rows, tmp_path / "run")
    saved = run.manifest["saved"]
    assert dtypes(run) == {torch.bfloat16} and saved["dtype"] == "bf16" and saved["tokens"] > 0
    assert 0 < saved["kl"] < 4 * saved["floor_kl"] + 1e-5
    assert ("weights saved as", "bf16") in summary(run)
    assert dtypes(train(models["llama"], rows, tmp_path / "fp32")) == {torch.float32}
    whole = train(bf16, rows, tmp_path / "whole", train__save_dtype="fp32")
    assert dtypes(whole) == {torch.float32} and whole.manifest["saved"] is None


def test_the_loss_that_is_recorded_is_of_the_weights_that_are_saved(bf16: Path, rows: Path, tmp_path: Path) -> None:
    run = train(bf16, rows, tmp_path / "run")
    likelihoods = evaluate(run, max_new_tokens=1).likelihoods["tuned"]
    loss = sum(row.completion_nll for row in likelihoods) / sum(row.completion_tokens for row in likelihoods)
    assert loss == pytest.approx(run.manifest["held_out_loss_after"], rel=1e-5)


def test_rounding_that_costs_too_much(bf16: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunelab.inference.divergence.FLOOR_MULTIPLE", 0.0)
    run = train(bf16, rows, tmp_path / "run")
    assert dtypes(run) == {torch.float32} and run.manifest["saved"]["dtype"] == "fp32"
    assert any("would cost a KL of" in value for _, value in summary(run))
    assert dtypes(train(bf16, rows, tmp_path / "asked", train__save_dtype="bf16")) == {torch.bfloat16}


def test_what_overflows(bf16: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunelab.training.saved_weights._overflowing", lambda model, dtype: "lm_head.weight")
    assert dtypes(train(bf16, rows, tmp_path / "run")) == {torch.float32}
    with pytest.raises(TrainingError, match=r"lm_head\.weight: a trained weight overflows fp16"):
        train(bf16, rows, tmp_path / "asked", train__save_dtype="fp16")


def test_files_have_the_modes_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with directory_written_atomically(tmp_path / "made") as folder:
            (folder / "inner").mkdir(mode=0o700)
            (folder / "inner/weights").touch(mode=0o600)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "made").rglob("*")}
    assert modes == {"inner": 0o750, "weights": 0o640}
