"""Merging a run: a plain checkpoint with the logits of base + adapter, or an error that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILIES, model_folder, recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunelab.errors import Interrupted, ModelError, RunError, UsageError
from tunelab.models.adapters import load_adapter
from tunelab.models.load import load_model
from tunelab.models.merge import compare_logits, logits_of
from tunelab.runs import Run
from tunelab.workflows import merge as story
from tunelab.workflows.finetune import finetune
from tunelab.workflows.merge import merge

ROWS = [[72, 101, 108, 108, 111], [256, 3, 4, 5, 6, 7, 8]]


@pytest.fixture(scope="module")
def run(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finetune(recipe(models["llama"], rows, tmp_path_factory.mktemp("merge") / "run", data__held_out=4))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", ["all-linear", ["lm_head"]])
def test_merged_is_adapted(family: str, targets: Any, rows: Path, tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base", family, tie_word_embeddings=True)
    run = finetune(recipe(base, rows, tmp_path / "run", adapter__targets=targets))
    merged = merge(run, tmp_path / "merged")
    assert merged.check is not None and merged.check.passed and merged.check.tokens > 100
    assert (merged.dtype, merged.path) == ("fp32", tmp_path / "merged")
    expected = logits_of(load_adapter(load_model(str(base), dtype=torch.float32), run.adapter), ROWS)
    plain = AutoModelForCausalLM.from_pretrained(merged.path)
    assert compare_logits(expected, logits_of(plain, ROWS), torch.float32).passed
    untouched = logits_of(load_model(str(base), dtype=torch.float32), ROWS)
    assert not compare_logits(expected, untouched, torch.float32).passed
    assert AutoTokenizer.from_pretrained(merged.path).eos_token_id == 256
    with pytest.raises(UsageError, match="merged: exists already"):
        merge(run.path, tmp_path / "merged")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_dtype_of_one_s_own(dtype: str, run: Run, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    merged = merge(
        run,
        tmp_path / dtype,
        into=dtype,
        progress=lambda stage, done, total, detail="": seen.append((stage, done, total)),
    )
    assert merged.dtype == dtype
    assert merged.check is not None and merged.check.largest_difference > 0
    assert seen[-1] == ("merging", 3, 3)
    with pytest.raises(UsageError, match="no way named 'int3' to merge"):
        merge(run, tmp_path / "other", into="int3")


def test_a_merge_that_changes_logits_is_not_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(adapted: Any) -> Any:
        return adapted.unload()

    monkeypatch.setattr(story, "merge_adapter", wrong)
    with pytest.raises(
        ModelError, match=r"the merged model's logits differ from base \+ adapter's by .* of the largest"
    ):
        merge(run, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_runs_that_cannot_be_merged(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    full = finetune(recipe(models["llama"], rows, tmp_path / "full", adapter__kind="none", train__steps=1))
    with pytest.raises(RunError, match="every weight was trained, there is no adapter to merge"):
        merge(full, tmp_path / "merged")

    def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
        import os
        import signal

        if stage == "training":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        finetune(recipe(models["llama"], rows, tmp_path / "half"), progress=stops)
    with pytest.raises(RunError, match="no trained adapter there; the run is interrupted"):
        merge(tmp_path / "half", tmp_path / "merged")
    with pytest.raises(RunError, match="no run there"):
        merge(tmp_path / "none", tmp_path / "merged")
