"""LoftQ's first step: the adapter begins as the best low-rank approximation of what quantising took away."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, tiny_model

from tunelab.errors import ModelError
from tunelab.models.adapters import add_lora
from tunelab.models.load import load_model
from tunelab.models.loftq import absorb_quantization_error
from tunelab.models.merge import logits_of
from tunelab.models.precision import weight_format
from tunelab.models.quantized_linear import quantized_layers
from tunelab.models.quantized_save import save_quantized

ROWS = [[5, 9, 200, 31, 7], [3, 4, 5, 6]]


@pytest.mark.parametrize("name", ["nf4", "int8", "mxfp4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_product_is_the_best_of_its_rank(family: str, name: str, tmp_path: Path) -> None:
    dense = tiny_model(family)
    dense.save_pretrained(tmp_path)
    base = load_model(str(tmp_path), dtype=torch.float32, form=weight_format(name))
    before = logits_of(base, ROWS)
    layers = dict(quantized_layers(base))
    adapted = add_lora(base, rank=8, alpha=4)
    assert absorb_quantization_error(adapted, tmp_path) == len(layers)
    for layer_name, stored in layers.items():
        weight = dense.get_submodule(layer_name).weight.detach()
        lost = (weight.T if stored.from_conv1d else weight) - stored.weight
        layer = adapted.get_base_model().get_submodule(layer_name)
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
        best = float(torch.linalg.svdvals(lost)[8:].square().sum().sqrt())
        left = float((lost - product).detach().norm())
        assert best * 0.999 <= left <= best * 1.02 < float(lost.norm())
    # The model begins nearer to the dense one than without.
    wanted, after = logits_of(dense, ROWS), logits_of(adapted, ROWS)
    assert sum(float((a - b).norm()) for a, b in zip(after, wanted, strict=True)) < sum(
        float((a - b).norm()) for a, b in zip(before, wanted, strict=True)
    )


def test_it_needs_quantised_layers_and_their_full_weights(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    dense = add_lora(load_model(str(tmp_path / "dense"), dtype=torch.float32), rank=2, alpha=4)
    with pytest.raises(ModelError, match="no LoRA layer lies over a quantised weight"):
        absorb_quantization_error(dense, tmp_path / "dense")
    form = weight_format("nf4")
    few = load_model(str(tmp_path / "dense"), dtype=torch.float32, form=form)
    (tmp_path / "few").mkdir()
    save_quantized(few, tmp_path / "few")
    with pytest.raises(ModelError, match="the full weight is not there"):
        absorb_quantization_error(add_lora(few, rank=2, alpha=4), tmp_path / "few")
