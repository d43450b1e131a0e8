"""LoftQ's first step: the adapter begins as the best low-rank approximation of what quantising took away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sampled import sampled
from tiny import FAMILIES, tiny_model

from tunelab.errors import ModelError
from tunelab.models.adapters import add_lora
from tunelab.models.load import load_model
from tunelab.models.loftq import STORED, absorb_quantization_error, alternate, begin_at_stored, set_products
from tunelab.models.merge import logits_of
from tunelab.models.precision import weight_format
from tunelab.models.quantized_linear import quantized_layers
from tunelab.models.quantized_save import save_quantized

ROWS = [[5, 9, 200, 31, 7], [3, 4, 5, 6]]


@pytest.mark.parametrize(("family", "name"), sampled(FAMILIES, ["nf4", "int8", "mxfp4"]))
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
    with pytest.raises(ModelError, match="no LoRA layer is on a quantized weight"):
        absorb_quantization_error(dense, tmp_path / "dense")
    form = weight_format("nf4")
    few = load_model(str(tmp_path / "dense"), dtype=torch.float32, form=form)
    (tmp_path / "few").mkdir()
    save_quantized(few, tmp_path / "few")
    with pytest.raises(ModelError, match="the full weight is missing"):
        absorb_quantization_error(add_lora(few, rank=2, alpha=4), tmp_path / "few")


def whole_blocks(family: str) -> Any:
    """A model of which every format can store every layer."""
    return tiny_model(family) if family == "gpt2" else tiny_model(family, intermediate_size=64)


def stored_base(tmp_path: Path, family: str, name: str, *, rank: int, alternations: int) -> dict[str, float]:
    """Writes dense/ and few/ (codes and their adapter); returns what is left of each weight, |W - Q - BA|."""
    dense = whole_blocks(family)
    dense.save_pretrained(tmp_path / "dense")
    few = load_model(str(tmp_path / "dense"), dtype=torch.float32, form=weight_format(name))
    products = alternate(few, tmp_path / "dense", rank=rank, alternations=alternations)
    left = {}
    for layer_name, stored in quantized_layers(few).items():
        weight = dense.get_submodule(layer_name).weight.detach()
        a, b = products[layer_name]
        left[layer_name] = float(((weight.T if stored.from_conv1d else weight) - stored.weight - b @ a).norm())
    folder = tmp_path / f"few-{alternations}"
    folder.mkdir()
    save_quantized(few, folder)
    adapted = add_lora(few, rank=rank, alpha=3 * rank, targets=list(products))
    set_products(adapted, products)
    adapted.save_pretrained(str(folder / STORED))
    return left


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *(("nf4", "gpt2"), ("nf4", "phi3"), ("mxfp4", "llama")),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("nf4", "llama"), ("mxfp4", "phi3"))),
    ],
)
def test_more_alternations_leave_less(family: str, name: str, tmp_path: Path) -> None:
    once = stored_base(tmp_path, family, name, rank=8, alternations=1)
    often = stored_base(tmp_path, family, name, rank=8, alternations=5)
    assert sum(often.values()) < 0.99 * sum(once.values())
    # Loaded again, base and adapter together are the model that was left.
    base = load_model(str(tmp_path / "few-5"), dtype=torch.float32, form=weight_format(name))
    adapted = add_lora(base, rank=8, alpha=4)
    assert begin_at_stored(adapted, tmp_path / "few-5") == len(often)
    wanted, made = logits_of(whole_blocks(family), ROWS), logits_of(adapted, ROWS)
    with adapted.disable_adapter():
        bare = logits_of(adapted, ROWS)
    distance = [sum(float((a - b).norm()) for a, b in zip(one, wanted, strict=True)) for one in (made, bare)]
    assert distance[0] < distance[1]
    for layer_name, left in often.items():
        layer = adapted.get_base_model().get_submodule(layer_name)
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
        weight = whole_blocks(family).get_submodule(layer_name).weight
        stored = layer.get_base_layer()
        full = weight.T if stored.from_conv1d else weight
        assert float((full - stored.weight - product).norm().detach()) == pytest.approx(left, rel=1e-4)


def test_a_stored_adapter_must_fit_the_recipes(tmp_path: Path) -> None:
    stored_base(tmp_path, "llama", "nf4", rank=4, alternations=2)
    folder = tmp_path / "few-2"

    def fresh(**options: object) -> object:
        base = load_model(str(folder), dtype=torch.float32, form=weight_format("nf4"))
        return add_lora(base, **{"rank": 4, "alpha": 8, **options})  # type: ignore[arg-type]

    with pytest.raises(ModelError, match="has rank 4, the recipe's adapter 8"):
        begin_at_stored(fresh(rank=8), folder)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"has an adapter for model\.layers\.0\.mlp\.down_proj, unlike the recipe"):
        begin_at_stored(fresh(targets="attention"), folder)  # type: ignore[arg-type]
