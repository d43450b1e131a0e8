"""The main job on real Alpaca rows through GPT-2, Llama-2, Llama-3 and Phi-3 shapes with their real tokenizers.

The weights are random and narrow; vocabulary, tokenizer, template and row text are the real ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from real_tokenizers import NAMES, load_real_tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Phi3Config, PreTrainedModel

import tunelab

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def shaped(name: str, tokenizer: Any) -> PreTrainedModel:
    """A random model of the tokenizer's family and vocabulary."""
    ids = {
        "vocab_size": max(tokenizer.get_vocab().values()) + 1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    torch.manual_seed(0)
    if name == "gpt2":
        return AutoModelForCausalLM.from_config(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, **ids))
    if name == "phi3":
        window = {"max_position_embeddings": 512, "original_max_position_embeddings": 512}
        return AutoModelForCausalLM.from_config(Phi3Config(**SHAPE, **window, num_key_value_heads=4, **ids))
    config = LlamaConfig(**SHAPE, num_key_value_heads=2, max_position_embeddings=512, **ids)
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def alpaca(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the first 2,000 rows: reading all 51,760 would take longer than all that is done with them."""
    rows = json.loads((shared_data / "alpaca/alpaca_cleaned.json").read_text(encoding="utf-8"))[:2000]
    path = tmp_path_factory.mktemp("rows") / "alpaca.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "template"),
    [
        pytest.param(name, template, marks=pytest.mark.slow)
        for name, template in zip(NAMES, ("alpaca", "alpaca", "chat", "chat"), strict=True)
    ],
)
def test_rows_are_trained_measured_and_merged(
    name: str, template: str, shared_data: Path, alpaca: Path, tmp_path: Path
) -> None:
    tokenizer = load_real_tokenizer(name, shared_data, tmp_path)
    folder = tmp_path / "model"
    shaped(name, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = tunelab.finetune(
        {
            "model": str(folder),
            "adapter": {"rank": 4},
            "data": {
                "sources": [{"name": "alpaca", "path": str(alpaca)}],
                "size": 40,
                "held_out": 8,
                "template": template,
            },
            "train": {"epochs": 1, "batch_size": 8, "lr": 2e-2, "device": "cpu", "dtype": "fp32"},
            "evaluate": {"max_new_tokens": 4},
            "out": str(tmp_path / "run"),
        }
    )
    manifest = run.manifest
    assert manifest["held_out_loss_after"] < manifest["held_out_loss_before"]
    assert manifest["data"]["train"]["lossy"] == 0
    scores = tunelab.evaluate(run)
    assert scores.loss_change is not None and scores.loss_change.error is not None
    # The evaluation measures row by row what training measured packed: the same loss over the same targets.
    assert scores.loss_change.value == pytest.approx(
        manifest["held_out_loss_after"] - manifest["held_out_loss_before"], abs=1e-4
    )
    merged = tunelab.merge(run, tmp_path / "merged")
    assert merged.check.passed
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").config.model_type in ("gpt2", "llama", "phi3")
