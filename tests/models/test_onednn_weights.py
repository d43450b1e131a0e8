"""Weights laid out for generation: the same products, in the given block only, of the layers that can have it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, tiny_model

from tunelab.models import onednn_weights
from tunelab.models.key_value_cache import _parts
from tunelab.models.load import load_model
from tunelab.models.onednn_weights import OneDnnWeights
from tunelab.models.precision import weight_format
from tunelab.models.quantized_linear import QuantizedLinear

needs_bf16_products = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 products on this processor"
)
IDS = torch.arange(20)[None] * 7 % 250


def laid_out(packed: OneDnnWeights) -> int:
    return len(packed._forwards)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 3e-2, marks=needs_bf16_products)]
)
def test_the_logits_are_those_of_the_plain_layers(family: str, dtype: torch.dtype, tolerance: float) -> None:
    model = tiny_model(family).to(dtype)
    plain = model(IDS).logits
    packed = OneDnnWeights(model)
    with packed.used():
        inside = [module for module in model.modules() if "forward" in vars(module)]
        one = model(IDS[:, :1]).logits
        whole = model(IDS).logits
    layers = {"gpt2": 4, "llama": 7, "phi3": 4}[family]
    assert len(inside) == laid_out(packed) == 2 * layers + 1  # and the output head
    scale = plain.abs().max()
    assert (whole - plain).abs().max() <= tolerance * scale and (one - plain[:, :1]).abs().max() <= tolerance * scale
    assert not any("forward" in vars(module) for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["nf4", "int8", "mxfp4"])
def test_a_quantized_base_is_dequantized_once(
    family: str, name: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    form = weight_format(name)
    model = load_model(str(models[family]), dtype=torch.float32, form=form)
    plain, packed = model(IDS).logits, OneDnnWeights(model)
    assert laid_out(packed) == 2 * {"gpt2": 4, "llama": 7, "phi3": 4}[family] + 1
    monkeypatch.setattr(type(form), "dequantize", lambda *given: pytest.fail("dequantized again"))
    with packed.used():
        assert (model(IDS).logits - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert packed.is_current
    layer = next(one for one in model.modules() if isinstance(one, QuantizedLinear))
    next(iter(layer.packed.values())).add_(1)
    assert not packed.is_current


@torch.no_grad()
def test_quantized_layers_too_large_to_hold_dequantized_stay_as_they_are(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(models["llama"]), dtype=torch.float32, form=weight_format("nf4"))
    monkeypatch.setattr(onednn_weights, "MOST_BYTES", model.lm_head.weight.nbytes)
    with OneDnnWeights(model).used():
        assert [module for module in model.modules() if "forward" in vars(module)] == [model.lm_head]


@torch.no_grad()
def test_weights_that_changed_are_noticed() -> None:
    model = tiny_model("llama")
    packed = OneDnnWeights(model)
    assert packed.is_current
    model.lm_head.weight.mul_(2)
    assert not packed.is_current


@torch.no_grad()
def test_autocast_takes_the_weights_that_have_its_dtype() -> None:
    model = tiny_model("llama")
    with torch.autocast("cpu", torch.bfloat16), OneDnnWeights(model).used():
        assert not any("forward" in vars(module) for module in model.modules())
        assert model(IDS).logits.dtype == torch.bfloat16


@torch.no_grad()
@needs_bf16_products
def test_autocast_takes_weights_in_bfloat16() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), OneDnnWeights(model).used():
        assert "forward" in vars(model.lm_head)
        assert model.lm_head(torch.ones(2, 32)).dtype == torch.bfloat16  # float32 in


@torch.no_grad()
def test_bfloat16_is_left_as_it_is_where_the_processor_has_no_products_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    assert laid_out(OneDnnWeights(model)) == 15
    monkeypatch.setattr(onednn_weights, "_has_bf16_products", lambda: False)
    assert laid_out(OneDnnWeights(model)) == 15, "float32 is laid out everywhere"
    model = model.to(torch.bfloat16)
    plain = model(IDS).logits
    with OneDnnWeights(model).used():
        assert not any("forward" in vars(module) for module in model.modules())
        assert torch.equal(model(IDS).logits, plain)


def test_other_dtypes_and_weights_too_large_to_hold_twice_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert laid_out(OneDnnWeights(tiny_model("llama").to(torch.float16))) == 0
    model = tiny_model("llama")
    size = sum(module.weight.nbytes for module in model.modules() if type(module) is torch.nn.Linear)
    monkeypatch.setattr(onednn_weights, "MOST_BYTES", size)
    assert laid_out(OneDnnWeights(model)) == 15
    monkeypatch.setattr(onednn_weights, "MOST_BYTES", size - 1)
    assert laid_out(OneDnnWeights(model)) == 0


@pytest.mark.parametrize(
    ("positions", "parts"),
    [
        ([], []),
        ([5], [(0, 1, 32)]),
        ([40, 33, 60], [(0, 3, 64)]),
        ([200, 30, 20, 10], [(0, 1, 224), (1, 4, 32)]),
        ([30, 20, 10, 200], [(0, 3, 32), (3, 4, 224)]),
        ([249, 220], [(0, 2, 250)]),  # two calls would read a twentieth less
        ([255], [(0, 1, 250)]),  # no more than the cache has
    ],
)
def test_attention_reads_rows_in_two_parts_where_that_saves_reading(
    positions: list[int], parts: list[tuple[int, int, int]]
) -> None:
    assert [(part.start, part.stop, keys) for part, keys in _parts(positions, 250)] == parts
