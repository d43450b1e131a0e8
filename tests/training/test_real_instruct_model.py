"""A real instruct model whose weights are bfloat16, on real instructions: trained, asked, measured, merged, exported.

TUNELAB_REAL_MODEL names its folder: a small causal language model with a chat template, such as SmolLM2-135M-Instruct
saved in bfloat16. Two CPU cores that emulate bfloat16 take some four minutes for 135M parameters.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunelab.answering.benchmark_items import load_benchmarks
from tunelab.answering.benchmark_prompts import choice_questions
from tunelab.answering.generate import open_responder
from tunelab.answering.held_out_evaluation import evaluate
from tunelab.evaluation.choices import choice_likelihoods
from tunelab.inference.sampling import Decoding
from tunelab.models.load import load_config, load_model
from tunelab.models.structure import row_layout
from tunelab.publishing.export import export
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def model() -> Path:
    folder = os.environ.get("TUNELAB_REAL_MODEL")
    if not folder:
        pytest.skip("needs a real instruct model: TUNELAB_REAL_MODEL names no folder")
    assert load_config(folder).dtype == torch.bfloat16, "the premise: its weights are bfloat16"
    return Path(folder)


def made(model: Path, data: Path, out: Path, **train: Any) -> dict[str, Any]:
    return {
        "model": {"name": str(model)},
        "adapter": {"rank": 8},
        "data": {
            "sources": [{"name": "alpaca", "path": str(data / "alpaca" / "alpaca_cleaned.json")}],
            "template": "chat",
            "size": 24,
            "held_out": 2,
            "max_length": 64,
        },
        "train": {"steps": 2, "batch_size": 1, "lr": 1e-3, "device": "cpu", "dtype": "bf16", **train},
        "out": str(out),
    }


@pytest.fixture(scope="module")
def run(model: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained in bfloat16, which is the default on a GPU."""
    return finetune(made(model, shared_data, tmp_path_factory.mktemp("real") / "run"))


def test_its_packed_sequences_are_its_own_in_every_dtype(model: Path) -> None:
    assert row_layout(load_model(str(model), dtype=torch.bfloat16)) == "packed"


def test_it_is_trained_in_bfloat16(run: Run) -> None:
    assert run.is_done and run.manifest["held_out_loss_after"] < run.manifest["held_out_loss_before"]


@pytest.mark.parametrize("precision", ["nf4", "mxfp4"])
def test_it_is_trained_over_codes_in_bfloat16(precision: str, model: Path, shared_data: Path, tmp_path: Path) -> None:
    recipe = {**made(model, shared_data, tmp_path / "run", steps=1), "precision": precision}
    recipe["data"]["held_out"] = 0
    assert finetune(recipe).is_done


def test_it_answers_and_is_measured_in_bfloat16(run: Run) -> None:
    answer = next(open_responder(run).answer(["What is the capital of France?"], Decoding(max_new_tokens=6)))
    assert answer.text.strip()
    assert evaluate(run, limit=1, max_new_tokens=4, arms=("tuned",)).arms["tuned"]


def test_it_is_merged_and_exported_in_bfloat16(run: Run, tmp_path: Path) -> None:
    exported = export(run, tmp_path / "hf", to="hf")  # as merge() does by itself
    stored = json.loads((exported.path / "merge.json").read_text(encoding="utf-8"))
    assert (stored["format"], stored["dtype"]) == ("bf16", "bf16")
    assert 1e-4 < stored["floor"]["kl"] < 1e-2, "what bfloat16 alone costs it"
    assert 1e-4 < stored["quality"]["kl"] <= stored["most_kl"]
    assert AutoModelForCausalLM.from_pretrained(exported.path).dtype == torch.bfloat16


def test_log_probabilities_of_mmlu_are_those_of_plain_transformers(model: Path, shared_data: Path) -> None:
    """Few-shot prefixes are computed once, choices together; plain transformers computes each sequence by itself.

    In float64, since its own float32 is farther from that (3e-5) than ours (1e-5).
    """
    responder = open_responder(model=str(model), changes=["train.dtype=fp32"], raw=True)
    (mmlu,) = load_benchmarks(["mmlu"], {"mmlu": {"data": str(shared_data / "mmlu"), "shots": 1}}, 6)
    questions = choice_questions(responder, "mmlu", mmlu.items)
    ours = {
        one.index: one.log_probabilities
        for one in choice_likelihoods(responder.model, questions, micro_batch_tokens=4096)
    }
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval()
    for index, question in enumerate(questions):
        start = len(question.prompt_ids)
        for found, choice in zip(ours[index], question.continuations, strict=True):
            with torch.no_grad():
                logits = plain(torch.tensor([[*question.prompt_ids, *choice]])).logits[0]
            places = range(start - 1, start - 1 + len(choice))
            expected = sum(
                float(logits[place].log_softmax(-1)[token]) for place, token in zip(places, choice, strict=True)
            )
            assert found == pytest.approx(expected, abs=2e-5)
