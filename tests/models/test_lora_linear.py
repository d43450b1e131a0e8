"""The fused LoRA layer: PEFT's numbers where it computes, PEFT itself where it does not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import Linear as PeftLinear
from tiny import tiny_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunelab.models import lora_linear
from tunelab.models.adapters import add_lora
from tunelab.models.lora_linear import DenseLoraLinear, use_dense_lora
from tunelab.models.merge import logits_of

INPUT, OUTPUT = 12, 20
KINDS = ("linear", "linear without bias", "conv1d")
ROWS = [list(range(3, 20)), [5, 4, 3]]


def layer(kind: str, adapters: tuple[str, ...] = ("default",), **changes: Any) -> Any:
    """One dense layer with LoRA on it, A and B random, turned into ours."""
    torch.manual_seed(5)
    base = Conv1D(OUTPUT, INPUT) if kind == "conv1d" else nn.Linear(INPUT, OUTPUT, bias="without" not in kind)
    if base.bias is not None:
        nn.init.normal_(base.bias)
    settings = {"r": 3, "lora_alpha": 8, "target_modules": ["0"], "fan_in_fan_out": kind == "conv1d", **changes}
    model = get_peft_model(nn.Sequential(base), LoraConfig(**settings))
    for name in adapters[1:]:
        model.add_adapter(name, LoraConfig(**settings))
    use_dense_lora(model)
    module = model.get_base_model()[0]
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    assert type(module) is DenseLoraLinear
    return module


def outcome(module: Any, forward: Callable[[Tensor], Tensor], x: Tensor, inside: AbstractContextManager[Any]) -> Any:
    """Output, and the gradients of the input and of every trained matrix."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    with inside:
        output = forward(x)
    output.backward(torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output.dtype))
    gradients = {name: part.grad.clone() for name, part in module.named_parameters() if part.grad is not None}
    return {"output": output.detach(), "x": x.grad, **gradients}


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the calls that the fused function takes."""
    calls: list[int] = []
    real = lora_linear._LoraLinear.apply

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(lora_linear._LoraLinear, "apply", counted)
    return calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("shape", [(7, INPUT), (2, 5, INPUT), (1, INPUT)])
def test_output_and_gradients_are_pefts(kind: str, use_rslora: bool, shape: tuple[int, ...], fused: list[int]) -> None:
    module = layer(kind, use_rslora=use_rslora)
    x = torch.randn(shape)
    ours = outcome(module, module, x, nullcontext())
    assert len(fused) == 1
    theirs = outcome(module, lambda given: PeftLinear.forward(module, given), x, nullcontext())
    assert len(fused) == 1
    assert ours.keys() == theirs.keys() == {"output", "x", "lora_A.default.weight", "lora_B.default.weight"}
    for name, found in ours.items():
        torch.testing.assert_close(found, theirs[name], rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    scale = 8 / 3**0.5 if use_rslora else 8 / 3
    weight = module.base_layer.weight if kind == "conv1d" else module.base_layer.weight.T
    bias = 0 if module.base_layer.bias is None else module.base_layer.bias
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    torch.testing.assert_close(ours["output"], x @ weight + bias + scale * (x @ a.T @ b.T), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_it_is_as_near_to_float32_as_peft(kind: str, fused: list[int]) -> None:
    module = layer(kind)
    x = torch.randn(3, 9, INPUT)
    exact = outcome(module, module, x, nullcontext())
    ours = outcome(module, module, x, torch.autocast("cpu", torch.bfloat16))
    assert len(fused) == 2
    peft = outcome(module, lambda given: PeftLinear.forward(module, given), x, torch.autocast("cpu", torch.bfloat16))
    assert ours["output"].dtype == torch.bfloat16
    for name, wanted in exact.items():
        assert ours[name].dtype == peft[name].dtype, name
        far, allowed = ((side[name].float() - wanted).norm() / wanted.norm() for side in (ours, peft))
        assert far < 2 * allowed and far < 0.02, name


def test_no_gradient_where_none_is_wanted(fused: list[int]) -> None:
    module = layer("linear")
    module.lora_A["default"].weight.requires_grad_(False)
    x = torch.randn(4, INPUT)
    module(x).sum().backward()
    assert len(fused) == 1 and x.grad is None and module.lora_A["default"].weight.grad is None
    assert module.lora_B["default"].weight.grad is not None
    with torch.no_grad():
        assert not module(x).requires_grad


def disabled(module: Any) -> None:
    module.enable_adapters(False)


def merged(module: Any) -> None:
    module.merge()


def two_active(module: Any) -> None:
    module.set_adapter(["default", "second"])


def trainable_base(module: Any) -> None:
    module.base_layer.weight.requires_grad_(True)


OTHER_CASES: dict[str, tuple[dict[str, Any], Callable[[Any], object]]] = {
    "disabled": ({}, disabled),
    "merged": ({}, merged),
    "DoRA": ({"use_dora": True}, lambda module: None),
    "dropout in training": ({"lora_dropout": 0.5}, lambda module: module.train()),
    "two active adapters": ({"adapters": ("default", "second")}, two_active),
    "trainable base weight": ({}, trainable_base),
    "LoRA bias": ({"lora_bias": True}, lambda module: None),
}


@pytest.mark.parametrize("case", OTHER_CASES)
def test_other_cases_are_pefts_own(case: str, fused: list[int]) -> None:
    changes, change = OTHER_CASES[case]
    module = layer("linear", **changes).eval()
    change(module)
    torch.manual_seed(2)
    ours = outcome(module, module, torch.eye(INPUT), nullcontext())
    torch.manual_seed(2)
    theirs = outcome(module, lambda given: PeftLinear.forward(module, given), torch.eye(INPUT), nullcontext())
    assert fused == []
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        assert torch.equal(found, theirs[name]), name
    assert ("base_layer.weight" in ours) is (case == "trainable base weight")
    assert ("lora_A.default.weight" in ours) is (case not in ("disabled", "merged"))


def test_dropout_outside_training_is_no_hindrance(fused: list[int]) -> None:
    module = layer("linear", lora_dropout=0.5).eval()
    x = torch.randn(4, INPUT)
    torch.testing.assert_close(module(x), PeftLinear.forward(module, x))
    assert len(fused) == 1


def test_of_several_adapters_the_active_one_counts(fused: list[int]) -> None:
    module = layer("linear", adapters=("default", "second"))
    x = torch.randn(4, INPUT)
    first = module(x)
    module.set_adapter("second")
    torch.testing.assert_close(module(x), PeftLinear.forward(module, x))
    assert len(fused) == 2 and not torch.allclose(module(x), first)


def test_rows_of_different_adapters_are_pefts_own(fused: list[int]) -> None:
    module = layer("linear", adapters=("default", "second")).eval()
    x, names = torch.randn(2, INPUT), ["default", "second"]
    mixed = module(x, adapter_names=names)
    assert torch.equal(mixed, PeftLinear.forward(module, x, adapter_names=names)) and fused == []


def test_only_pefts_dense_layers_are_changed() -> None:
    config = LoraConfig(r=2, target_modules=["0", "1"])
    model = inject_adapter_in_model(config, nn.Sequential(nn.Linear(4, 4), nn.Embedding(5, 4), nn.Linear(4, 4)))
    before = [type(part) for part in model]
    use_dense_lora(model)
    assert [type(part) for part in model] == [DenseLoraLinear, *before[1:]]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # from within PEFT
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_merged_saved_and_loaded_it_is_the_same_model_to_peft(family: str, tmp_path: Path) -> None:
    model = add_lora(tiny_model(family), rank=4, alpha=8)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    expected = logits_of(model, ROWS)
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(tiny_model(family), tmp_path)
    kinds = {type(part) for part in plain.modules()}
    assert PeftLinear in kinds and DenseLoraLinear not in kinds
    theirs = get_peft_model(tiny_model(family), plain.peft_config["default"])
    assert dict(model.state_dict()).keys() == dict(theirs.state_dict()).keys()
    model.merge_adapter()
    together = logits_of(model, ROWS)
    model.unmerge_adapter()
    again, alone = logits_of(model, ROWS), logits_of(model.merge_and_unload(), ROWS)
    for found in (logits_of(plain, ROWS), together, again, alone):
        for row, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-4)
