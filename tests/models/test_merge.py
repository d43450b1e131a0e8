"""Merged = adapted, whatever the architecture, the kind of adapter, and whether weights are tied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILIES, tiny_model
from transformers import AutoModelForCausalLM

from tunelab.errors import ModelError
from tunelab.models.adapters import add_lora
from tunelab.models.merge import compare_logits, logits_of, merge_adapter

ROWS = [list(range(3, 20)), [5, 4, 3]]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "attention": {"targets": "attention"},
    "head": {"targets": ["lm_head"]},
}


def trained(model: Any, **kind: Any) -> Any:
    adapted = add_lora(model, rank=4, alpha=8, **kind)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapted


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_is_adapted_also_after_saving(family: str, kind: str, tied: bool, tmp_path: Path) -> None:
    base = tiny_model(family, tie_word_embeddings=tied)
    plain = logits_of(base, ROWS)
    adapted = trained(base, **KINDS[kind])
    expected = logits_of(adapted, ROWS)
    assert float((expected[0] - plain[0]).abs().max()) > 0.01, "the adapter does something"
    merged = merge_adapter(adapted)
    check = compare_logits(expected, logits_of(merged, ROWS), torch.float32)
    assert check.passed, check
    assert (check.tokens, check.same_argmax) == (20, 1.0)
    merged.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert compare_logits(expected, logits_of(loaded, ROWS), torch.float32).passed
    is_tied = loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert is_tied == (tied and kind != "head")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_stays_within_the_dtype_s_tolerance(dtype: torch.dtype) -> None:
    adapted = trained(tiny_model("llama"))
    expected = logits_of(adapted, ROWS)
    check = compare_logits(expected, logits_of(merge_adapter(adapted).to(dtype), ROWS), dtype)
    assert check.passed
    assert check.largest_difference > 1e-5, "float32 differences would be far smaller"


def test_a_wrong_merge_is_seen() -> None:
    adapted = trained(tiny_model("llama"))
    expected = logits_of(adapted, ROWS)
    with adapted.disable_adapter():
        check = compare_logits(expected, logits_of(adapted, ROWS), torch.bfloat16)
    assert not check.passed


def test_an_adapter_that_is_no_number_is_refused() -> None:
    adapted = trained(tiny_model("llama"))
    with torch.no_grad():
        next(parameter for name, parameter in adapted.named_parameters() if "lora_B" in name)[0] = float("nan")
    with pytest.raises(ModelError, match="the adapter cannot be merged: NaNs detected in the merged weights"):
        merge_adapter(adapted)
