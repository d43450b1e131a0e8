"""A model that bfloat16 changes a lot is trained, asked, measured and merged all the same: rounding is not a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import coarse_model, recipe, tiny_tokenizer

from tunelab.evaluation.likelihood import row_likelihoods
from tunelab.inference.engine import generate
from tunelab.inference.sampling import Decoding
from tunelab.models.load import load_model
from tunelab.publishing.export import export
from tunelab.publishing.merge import merge
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with such a model, its weights in bfloat16."""
    path = tmp_path_factory.mktemp("coarse")
    coarse_model("llama").to(torch.bfloat16).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def run(coarse: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    changes = {"train__dtype": "bf16", "data__held_out": 6}
    return finetune(recipe(coarse, rows, tmp_path_factory.mktemp("coarse-run") / "run", **changes))


def test_it_is_trained_in_bfloat16(run: Run) -> None:
    assert run.is_done and all(line["loss"] > 0 for line in run.metrics() if line["kind"] == "train")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["nf4", "mxfp4"])
def test_it_is_trained_over_codes_in_bfloat16(precision: str, coarse: Path, rows: Path, tmp_path: Path) -> None:
    assert finetune(recipe(coarse, rows, tmp_path / "run", precision=precision, train__dtype="bf16")).is_done


def test_it_answers_and_is_scored_in_bfloat16(coarse: Path) -> None:
    model = load_model(str(coarse), dtype=torch.bfloat16)
    (answer,) = generate(model, tiny_tokenizer(), [[5, 6, 7]], Decoding(max_new_tokens=4), stop_token_ids=[])
    assert len(answer.token_ids) == 4
    (likelihood,) = row_likelihoods(model, [([5, 6, 7, 8], [False, False, True, True])], micro_batch_tokens=64)
    assert likelihood.completion_nll > 0


@pytest.mark.slow
def test_it_is_merged_and_exported_in_bfloat16(run: Run, tmp_path: Path) -> None:
    merged = merge(run, tmp_path / "merged")
    assert merged.dtype == "bf16" and merged.check is not None and merged.check.passed
    assert merged.quality is not None and merged.floor is not None and merged.most_kl is not None
    assert merged.floor.kl > 1e-4 and merged.quality.kl <= merged.most_kl
    assert export(run, tmp_path / "hf", to="hf").checked.startswith("layers compared with base + adapter")
