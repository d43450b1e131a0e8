"""Jobs of one study: one dtype on every machine, and unlike machines are named in its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from bf16_products import with_bf16_products

from tunelab.config import parse_recipe, resolve
from tunelab.config.study import Study, parse_study
from tunelab.errors import RunError
from tunelab.records.runs import Run
from tunelab.studies.report_parts import unlike_machines
from tunelab.studies.run_cell import RESOLVED, _in_dtype_of_study
from tunelab.training.finetune import finetune


def study_of(*models: str) -> Study:
    """An arm without training per model."""
    tree = tiny.recipe(Path("base"), Path("rows.jsonl"), Path("run"), train__dtype="auto")
    del tree["out"]
    arms = {f"arm {model}": {"recipe": {"model": model}, "tuned": False} for model in models}
    held_out: dict[str, Any] = {"held-out": {}}
    return parse_study({"title": "Models", "recipe": tree, "arms": arms, "seeds": [0], "benchmarks": held_out})


def test_auto_is_what_the_first_job_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = resolve(parse_recipe(tiny.recipe(Path("base"), Path("rows.jsonl"), Path("run"), train__dtype="auto")))
    study = study_of("base")
    monkeypatch.setattr(
        "tunelab.preparation.model.compute_dtype",
        lambda recipe: "fp32" if recipe.train.dtype == "auto" else str(recipe.train.dtype),
    )
    assert _in_dtype_of_study(study, recipe, tmp_path).train.dtype == "fp32"
    (tmp_path / RESOLVED).write_text('{"train.dtype": "bf16"}')  # as a first job on a GPU leaves it
    assert _in_dtype_of_study(study, recipe, tmp_path).train.dtype == "bf16"
    named = recipe.model_copy(update={"train": recipe.train.model_copy(update={"dtype": "fp16"})})
    assert _in_dtype_of_study(study, named, tmp_path).train.dtype == "fp16"
    assert [path.name for path in tmp_path.iterdir()] == [RESOLVED]
    (tmp_path / RESOLVED).write_text('{"train.dtype": 5}')
    with pytest.raises(RunError, match=r"resolved\.json: train\.dtype is 5, expected one of fp32, bf16, fp16"):
        _in_dtype_of_study(study, recipe, tmp_path)


def test_arms_on_checkpoints_in_16_and_32_bits_compute_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_bf16_products(monkeypatch, True)
    monkeypatch.setattr(
        "tunelab.preparation.model.checkpoint_dtype",
        lambda recipe: torch.bfloat16 if "half" in recipe.model.name else torch.float32,
    )
    for number, (models, dtype) in enumerate(
        [(["half", "half2"], "bf16"), (["half", "whole"], "fp32"), (["whole", "half"], "fp32")]
    ):
        study, folder = study_of(*models), tmp_path / str(number)
        folder.mkdir()
        found = [_in_dtype_of_study(study, study.arm_recipe(arm, 0), folder).train.dtype for arm in study.arms]
        assert found == [dtype, dtype]


def test_unlike_machines_are_named(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    run = finetune(tiny.recipe(models["llama"], rows, tmp_path / "run", train__steps=1))
    assert list(unlike_machines({"a": run, "b": run})) == []
    other = finetune(tiny.recipe(models["llama"], rows, tmp_path / "other", train__steps=1))
    (session,) = other.manifest["sessions"]
    other.update_manifest(sessions=[{**session, "gpu": "NVIDIA H200"}])
    (caveat,) = unlike_machines({"lora, seed 0": run, "lora, seed 1": Run(other.path)})
    assert "unlike hardware" in caveat and "lora, seed 1 on NVIDIA H200, fp32" in caveat
    other.update_manifest(sessions=[session, {**session, "gpu": "NVIDIA H200"}])
    (caveat,) = unlike_machines({"lora": Run(other.path)})
    assert "threads and then NVIDIA H200, fp32" in caveat
