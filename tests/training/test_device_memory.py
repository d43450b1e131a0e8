"""A training that cannot fit its GPU stops before the weights are loaded, and says what would fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, MambaConfig, PretrainedConfig

from tunelab.config import Recipe, parse_recipe, resolve
from tunelab.data.loader import TokenTable
from tunelab.data.tokenize import EncodedRow
from tunelab.errors import UsageError
from tunelab.training.device_memory import check_memory, device_memory
from tunelab.units import GIB

WIDE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256}
HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True}


def rows_of(*lengths: int) -> TokenTable:
    def row(count: int) -> EncodedRow:
        return EncodedRow(np.zeros(count, dtype=np.int32), np.ones(count, dtype=np.bool_), "", "")

    return TokenTable.of([row(count) for count in lengths])


def recipe_of(folder: Path, config: PretrainedConfig | None = None, **keys: Any) -> Recipe:
    (config or LlamaConfig(**WIDE, **HEADS)).save_pretrained(folder)
    return resolve(parse_recipe({"model": str(folder), "data": "alpaca", **keys}))


def said(recipe: Recipe, lengths: tuple[int, ...], gib: float | None) -> list[str]:
    found: list[str] = []
    check_memory(recipe, rows_of(*lengths), None if gib is None else round(gib * GIB), found.append)
    return found


def test_what_cannot_fit_stops_and_what_would_is_named(tmp_path: Path) -> None:
    full = recipe_of(tmp_path, method="full", train={"dtype": "bf16"})
    with pytest.raises(
        UsageError, match=r"full fine-tuning needs at least 2\d\.\d\d GiB for its longest row of 200"
    ) as e:
        said(full, (100, 200), 12)
    assert e.value.hint.startswith("these would fit: LoRA, ")
    with pytest.raises(UsageError, match=r"LoRA needs at least .* and the GPU has 1\.00 GiB") as e:
        said(recipe_of(tmp_path, train={"dtype": "bf16"}), (100, 200), 1)
    assert e.value.hint == "use a smaller model, or shorter rows (data.max_length)"


def test_what_may_not_fit_is_a_warning_with_the_remedy(tmp_path: Path) -> None:
    lora = recipe_of(tmp_path, train={"dtype": "bf16", "micro_batch_tokens": 16384})
    (warning,) = said(lora, (100, 200), 16)
    assert warning.startswith("warning: a step of 16,384 tokens may not fit the GPU: predicted ")
    assert "this would fit: train.micro_batch_tokens=" in warning
    assert said(lora, (100, 200), 80) == []


def test_a_cpu_and_unknown_layers_are_not_judged(tmp_path: Path) -> None:
    assert device_memory(torch.device("cpu")) is None
    assert said(recipe_of(tmp_path), (100,), None) == []
    assert said(recipe_of(tmp_path, MambaConfig(hidden_size=64, num_hidden_layers=2)), (100,), 0.001) == []
    assert said(recipe_of(tmp_path), (), 0.001) == []
