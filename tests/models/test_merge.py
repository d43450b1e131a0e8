"""Merged = adapted, whatever the architecture, the kind of adapter, and whether weights are tied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from logits import compare_logits
from sampled import sampled
from tiny import FAMILIES, coarse_model, tiny_model
from transformers import AutoModelForCausalLM

from tunelab.errors import ModelError
from tunelab.models.adapters import add_lora
from tunelab.models.merge import (
    adapted_outputs,
    compare_outputs,
    logits_of,
    merge_adapter,
    quantize_layers,
    rounded,
    weight_digests,
)
from tunelab.models.precision import weight_format

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


@pytest.mark.parametrize(("family", "kind", "tied"), sampled(FAMILIES, list(KINDS), [False, True]))
def test_merged_is_adapted_also_after_saving(family: str, kind: str, tied: bool, tmp_path: Path) -> None:
    base = tiny_model(family, tie_word_embeddings=tied)
    plain = logits_of(base, ROWS)
    adapted = trained(base, **KINDS[kind])
    expected = logits_of(adapted, ROWS)
    assert float((expected[0] - plain[0]).abs().max()) > 0.01, "the adapter does something"
    outputs = adapted_outputs(adapted)
    merged = merge_adapter(adapted)
    layers = compare_outputs(outputs, merged)
    assert layers.passed and layers.layers == len(outputs) > 0, layers
    check = compare_logits(expected, logits_of(merged, ROWS))
    assert check.passed, check
    assert (check.tokens, check.same_argmax) == (20, 1.0)
    merged.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert compare_logits(expected, logits_of(loaded, ROWS)).passed
    is_tied = loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert is_tied == (tied and kind != "head")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_takes_each_weight_to_its_nearest_number(dtype: torch.dtype) -> None:
    merged = merge_adapter(trained(tiny_model("llama")))
    exact = {name: parameter.clone() for name, parameter in merged.named_parameters()}
    before = weight_digests(merged, torch.float32)
    made = rounded(merged, dtype)
    assert all(torch.equal(parameter, exact[name].to(dtype)) for name, parameter in made.named_parameters())
    assert weight_digests(made, dtype).keys() == before.keys()
    assert set(weight_digests(made, dtype).values()).isdisjoint(before.values())


def test_a_weight_too_large_for_the_dtype_is_refused() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[2, 1] = 1e5
    with pytest.raises(ModelError, match=r"lm_head\.weight: a merged weight is not finite in float16") as refused:
        rounded(model, torch.float16)
    assert "--format bf16" in refused.value.hint


def test_digests_see_every_number_codes_and_scales_included() -> None:
    model = tiny_model("llama")
    quantize_layers(model, weight_format("nf4"))
    before = weight_digests(model, torch.float32)
    layer = model.model.layers[1].mlp.down_proj
    next(iter(layer.packed.values())).view(torch.uint8).flatten()[5] ^= 1
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-7
    after = weight_digests(model, torch.float32)
    assert {name for name in before if before[name] != after[name]} == {
        "model.layers.1.mlp.down_proj",
        "model.norm.weight",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_merge_is_seen(kind: str) -> None:
    adapted = trained(tiny_model("llama"), **KINDS[kind])
    outputs = adapted_outputs(adapted)
    name = next(iter(outputs))
    merged = merge_adapter(adapted)
    assert compare_outputs(outputs, merged).passed
    weight = merged.get_submodule(name).weight
    with torch.no_grad():
        weight *= 1 + 1e-4
    assert not compare_outputs(outputs, merged).passed
    with torch.no_grad():
        weight[0, 0] = float("nan")
    assert not compare_outputs(outputs, merged).passed


def test_depth_that_makes_much_of_rounding_is_no_wrong_merge() -> None:
    adapted = trained(coarse_model("llama"))
    outputs = adapted_outputs(adapted)
    assert compare_outputs(outputs, merge_adapter(adapted)).passed


def test_an_adapter_that_is_no_number_is_refused() -> None:
    adapted = trained(tiny_model("llama"))
    with torch.no_grad():
        next(parameter for name, parameter in adapted.named_parameters() if "lora_B" in name)[0] = float("nan")
    with pytest.raises(ModelError, match="the adapter cannot be merged: NaNs detected in the merged weights"):
        merge_adapter(adapted)


def test_layers_that_share_a_weight_are_not_merged_into_two_sums() -> None:
    base = tiny_model("llama")
    base.model.layers[1].mlp.up_proj.weight = base.model.layers[0].mlp.up_proj.weight
    match = r"layers\.0\.mlp\.up_proj and model\.layers\.1\.mlp\.up_proj share one weight, but each has its own adapter"
    with pytest.raises(ModelError, match=match) as refused:
        merge_adapter(trained(base))
    assert "keep the adapter" in refused.value.hint
    base = tiny_model("llama")
    base.model.layers[1].mlp.up_proj.weight = base.model.layers[0].mlp.up_proj.weight
    merge_adapter(trained(base, targets=["q_proj"]))
