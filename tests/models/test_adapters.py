"""LoRA: where it sits, that it starts as nothing, and that what is saved is PEFT's own format."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_architecture
from peft import LoraConfig, PeftModel, get_peft_model
from rounding import assert_same_but_for_rounding
from sampled import sampled
from tiny import FAMILIES, tiny_model
from transformers import LlamaConfig

from tunelab.config import as_recipe
from tunelab.errors import ModelError
from tunelab.models.adapters import (
    add_lora,
    load_adapter,
    save_adapter,
    without_adapter,
)
from tunelab.models.linear_layers import linear_names
from tunelab.models.merge import logits_of
from tunelab.models.targets import read_by_kernels, resolve_targets
from tunelab.training.forecast import kernels_sentence

ROWS = [list(range(3, 20)), [5, 4, 3]]
LINEAR = {
    "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
    "llama": {f"self_attn.{name}_proj" for name in "qkvo"} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")},
    "phi3": {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"},
}


def shuffled(model: Any, seed: int = 1) -> Any:
    """The adapted model with random B matrices in place of zeros: as if it were trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def adapted_layers(model: Any) -> set[str]:
    return {".".join(name.split(".")[-2:]) for name, module in model.named_modules() if hasattr(module, "lora_A")}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_but_the_head(family: str) -> None:
    model = tiny_model(family)
    assert {".".join(name.split(".")[-2:]) for name in linear_names(model)} == LINEAR[family]
    adapted = add_lora(model, rank=2, alpha=4)
    assert adapted_layers(adapted) == LINEAR[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_alone(family: str) -> None:
    model = tiny_model(family)
    expected = {name for name in LINEAR[family] if "attn" in name}
    assert set(resolve_targets(model, "attention")) == expected
    assert adapted_layers(add_lora(model, rank=2, alpha=4, targets="attention")) == expected


def test_named_layers() -> None:
    assert adapted_layers(add_lora(tiny_model("llama"), rank=2, alpha=4, targets=["q_proj", "mlp.up_proj"])) == {
        "self_attn.q_proj",
        "mlp.up_proj",
    }
    one = add_lora(tiny_model("llama"), rank=2, alpha=4, targets=["model.layers.1.self_attn.q_proj"])
    assert sum(hasattr(module, "lora_A") for module in one.modules()) == 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", [False, True])
def test_only_the_matrices_are_trained_and_they_begin_as_nothing(family: str, head: bool) -> None:
    model = tiny_model(family)
    before = logits_of(model, ROWS)
    adapted = add_lora(model, rank=2, alpha=4, targets=["lm_head", *LINEAR[family]] if head else "all-linear")
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    # To the bit: the base's own layers compute, and what is added to their outputs is zero.
    for row, expected in zip(logits_of(adapted, ROWS), before, strict=True):
        torch.testing.assert_close(row, expected, rtol=0, atol=0)


def test_matrices_are_float32_over_a_bfloat16_base() -> None:
    adapted = add_lora(tiny_model("llama").to(torch.bfloat16), rank=2, alpha=4)
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in adapted.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_a_seed_decides_the_matrices_and_the_caller_s_random_numbers_are_left_alone() -> None:
    def first(seed: int) -> torch.Tensor:
        adapted = add_lora(tiny_model("llama"), rank=2, alpha=4, seed=seed)
        return next(parameter for name, parameter in adapted.named_parameters() if "lora_A" in name).detach().clone()

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    model = tiny_model("llama")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    add_lora(model, rank=2, alpha=4, seed=9)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 8 / 4), (True, 8 / 2)])
def test_the_scale(use_rslora: bool, scale: float) -> None:
    adapted = add_lora(tiny_model("llama"), rank=4, alpha=8, use_rslora=use_rslora)
    layer = next(module for module in adapted.modules() if hasattr(module, "lora_A"))
    assert layer.scaling == {"default": scale}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # from within PEFT
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # likewise
@pytest.mark.parametrize(
    ("family", "kind"), sampled(FAMILIES, [{}, {"use_rslora": True}, {"use_dora": True}, {"targets": ["lm_head"]}])
)
def test_what_is_saved_loads_in_plain_peft(family: str, kind: dict[str, Any], tmp_path: Path) -> None:
    adapted = shuffled(add_lora(tiny_model(family), rank=4, alpha=8, **kind))
    save_adapter(adapted, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    expected = logits_of(adapted, ROWS)
    assert not torch.allclose(expected[0], logits_of(tiny_model(family), ROWS)[0], atol=1e-3)
    plain = PeftModel.from_pretrained(tiny_model(family), tmp_path)
    ours = load_adapter(tiny_model(family), tmp_path)
    for model in (plain, ours):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert_same_but_for_rounding(logits_of(model, ROWS), expected)
    again = load_adapter(tiny_model(family), tmp_path, dropout=0.5)
    assert all(parameter.requires_grad == ("lora_" in name) for name, parameter in again.named_parameters())
    assert again.peft_config["default"].lora_dropout == 0.5


def test_targets_that_match_nothing_are_named() -> None:
    with pytest.raises(
        ModelError, match=r"adapter.targets: 'wq' matches no linear layer of LlamaForCausalLM"
    ) as caught:
        resolve_targets(tiny_model("llama"), ["q_proj", "wq"])
    assert "self_attn.q_proj" in caught.value.hint


def test_a_model_without_attention_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr("tunelab.models.targets.linear_names", lambda model: ["layers.0.mlp.up"])
    with pytest.raises(ModelError, match="LlamaForCausalLM: no attention projections found by name"):
        resolve_targets(model, "attention")


def test_folders_without_a_usable_adapter(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with pytest.raises(ModelError, match=r"no adapter found \(no adapter_config.json\)"):
        load_adapter(model, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no adapter_model.safetensors"):
        load_adapter(model, tmp_path)


def test_an_adapter_of_another_model(tmp_path: Path) -> None:
    add_lora(tiny_model("llama"), rank=4, alpha=8).save_pretrained(tmp_path / "llama")
    with pytest.raises(ModelError, match=r"llama: the adapter does not fit GPT2LMHeadModel: "):
        load_adapter(tiny_model("gpt2"), tmp_path / "llama")
    with pytest.raises(ModelError, match=r"llama: the adapter does not fit LlamaForCausalLM: "):
        load_adapter(tiny_model("llama", hidden_size=64), tmp_path / "llama")
    with pytest.raises(ModelError, match=r"does not fit LlamaForCausalLM: missing key base_model.model.model.layers.2"):
        load_adapter(tiny_model("llama", num_hidden_layers=3), tmp_path / "llama")
    with pytest.raises(ModelError, match=r"does not fit .*: unexpected key base_model.model.model.layers.1"):
        load_adapter(tiny_model("llama", num_hidden_layers=1), tmp_path / "llama")


@pytest.mark.parametrize("how", [{"bias": "all"}, {"bias": "lora_only"}, {"init_lora_weights": "pissa"}, {}])
def test_an_adapter_that_changes_its_base_cannot_be_turned_off(how: dict[str, Any], tmp_path: Path) -> None:
    """Trained biases are the base's own; PiSSA takes its matrices out of the base's weights."""
    base, ids = tiny_model("gpt2"), torch.arange(1, 20)[None]
    plain = base(ids).logits
    targets = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
    made = get_peft_model(copy.deepcopy(base), LoraConfig(task_type="CAUSAL_LM", r=4, **targets, **how))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * parameter.requires_grad
    made.save_pretrained(tmp_path)
    adapted = load_adapter(base, tmp_path)
    torch.testing.assert_close(adapted(ids).logits, made.eval()(ids).logits)
    if how:
        with (
            pytest.raises(ModelError, match="the adapter changes the base's own transformer"),
            without_adapter(adapted),
        ):
            pass
    else:
        with without_adapter(adapted):
            torch.testing.assert_close(adapted(ids).logits, plain)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_rank_beyond_the_memory_is_refused_before_anything_is_allocated(family: str) -> None:
    with pytest.raises(ModelError, match=r"adapter\.rank=100000000000: .* need .*B, and the device has .*B") as caught:
        add_lora(tiny_model(family), rank=10**11, alpha=1)
    assert "8 to 64 is usual" in caught.value.hint


def test_layers_that_peft_cannot_adapt_are_named() -> None:
    class Mamba(LlamaConfig):  # PEFT refuses out_proj of these by the configuration's model type
        model_type = "mamba"

    model = tiny_model("llama")
    model.config = Mamba(**model.config.to_dict() | {"model_type": "mamba"})
    model.model.layers[0].mlp.out_proj = torch.nn.Linear(32, 32)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM: PEFT cannot adapt these layers: .*'out_proj'") as caught:
        add_lora(model, rank=2, alpha=4)
    assert "adapter.targets as a list without them" in caught.value.hint


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_layers_whose_weights_kernels_read_get_no_adapter(name: str) -> None:
    model = tiny_architecture(name, num_hidden_layers=1)
    left_out = {"mamba": ["x_proj", "dt_proj", "out_proj"], "mamba2": ["out_proj"]}[name]
    assert read_by_kernels(model) == [f"backbone.layers.0.mixer.{last}" for last in left_out]
    assert resolve_targets(model, "all-linear") == ["mixer.in_proj"]
    match = rf"adapter\.targets: '{left_out[0]}' of Mamba2?ForCausalLM: fused kernels read its weight past an adapter"
    with pytest.raises(ModelError, match=match) as refused:
        add_lora(model, rank=2, alpha=4, targets=["in_proj", left_out[0]])
    assert "such as in_proj" in refused.value.hint
    targets = ("all-linear", ["in_proj"])
    asked, named = ({"model": "m", "data": "d.jsonl", "adapter": {"targets": one}} for one in targets)
    adapted = add_lora(model, rank=2, alpha=4)
    said = kernels_sentence(as_recipe(asked), adapted)
    assert said == (
        f"no adapter on {len(left_out)} layers ({' and '.join(left_out)}): Mamba's kernels read their weights past an "
        "adapter"
    )
    assert kernels_sentence(as_recipe(named), adapted) is None and kernels_sentence(as_recipe(asked), model) is None
