"""AdamW's groups, and the learning rate of every step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from tiny import tiny_model

from tunelab.models.adapters import add_lora
from tunelab.training.optimizer import adamw, learning_rate, loraplus_factors, warmup_steps

SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8}


def test_vectors_get_no_weight_decay_and_frozen_parameters_no_place() -> None:
    model = tiny_model("gpt2")
    model.transformer.wte.weight.requires_grad_(False)
    matrices, vectors = adamw(model.parameters(), weight_decay=0.1, **SETTINGS).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in matrices["params"]} == {2}
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    count = sum(len(group["params"]) for group in (matrices, vectors))
    assert count == sum(parameter.requires_grad for parameter in model.parameters())
    assert (matrices["betas"], matrices["eps"], matrices["lr"]) == ((0.9, 0.99), 1e-8, 1e-3)


def test_a_model_of_matrices_alone_has_one_group() -> None:
    optimizer = adamw([torch.nn.Parameter(torch.zeros(2, 2))], weight_decay=0.0, **SETTINGS)
    assert len(optimizer.param_groups) == 1


def rates(optimizer: torch.optim.Optimizer) -> dict[torch.Tensor, tuple[float, float]]:
    """Parameter -> its learning rate and weight decay."""
    return {one: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for one in group["params"]}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # from within PEFT
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # likewise
def test_lora_plus_is_that_of_peft() -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["wte", "c_attn"], fan_in_fan_out=True)
    model = get_peft_model(tiny_model("gpt2"), config)
    factors = loraplus_factors(model, ratio=16.0, embedding_lr=1e-5, lr=1e-3)
    ours = rates(adamw(model.parameters(), weight_decay=0.1, lr_factors=factors, **SETTINGS))
    plus = {"loraplus_lr_ratio": 16.0, "loraplus_lr_embedding": 1e-5, "loraplus_weight_decay": 0.1}
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, **plus, **SETTINGS)
    expected = rates(theirs)
    assert ours.keys() == expected.keys()
    assert all(ours[one] == pytest.approx(expected[one]) for one in expected)
    assert sorted({rate for rate, _ in ours.values()}) == pytest.approx([1e-5, 1e-3, 1.6e-2])


def test_dora_s_magnitudes_learn_as_b_does_and_have_no_weight_decay() -> None:
    model = add_lora(tiny_model("llama"), rank=2, alpha=4, use_dora=True)
    factors = loraplus_factors(model, ratio=4.0, embedding_lr=1e-6, lr=1e-3)
    found = rates(adamw(model.parameters(), weight_decay=0.1, lr_factors=factors, **SETTINGS))
    names = {name: found[one] for name, one in model.named_parameters() if one in found}
    for name, (lr, decay) in names.items():
        expected = (1e-3, 0.1) if ".lora_A." in name else (4e-3, 0.1) if ".lora_B." in name else (4e-3, 0.0)
        assert (lr, decay) == pytest.approx(expected), name
    assert {decay for _, decay in names.values()} == {0.0, 0.1}


@pytest.mark.parametrize(
    ("warmup", "total", "steps"), [(0, 10, 0), (0.03, 10, 1), (0.5, 10, 5), (3, 10, 3), (0.0, 1, 0)]
)
def test_warm_up_is_a_share_or_a_number(warmup: float, total: int, steps: int) -> None:
    assert warmup_steps(warmup, total) == steps


def test_the_rate_rises_then_falls() -> None:
    rates = [learning_rate(step, 10, peak=1.0, schedule="linear", warmup=2) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    cosine = [learning_rate(step, 4, peak=2.0, schedule="cosine", warmup=0) for step in range(5)]
    assert cosine == pytest.approx([1 + math.cos(math.pi * share) for share in (0, 0.25, 0.5, 0.75, 1)])
    assert {learning_rate(step, 9, peak=3.0, schedule="constant", warmup=0.0) for step in range(9)} == {3.0}


@given(
    st.integers(1, 300),
    st.sampled_from(["cosine", "linear", "constant"]),
    st.one_of(st.integers(0, 5), st.floats(0, 0.99)),
)
def test_the_rate_is_never_zero_nor_above_its_peak(total: int, schedule: Any, warmup: float) -> None:
    rates = [learning_rate(step, total, peak=1.0, schedule=schedule, warmup=warmup) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    rising = warmup_steps(warmup, total)
    assert rates[rising:] == sorted(rates[rising:], reverse=True)


def test_in_8_bits_the_averages_take_a_byte_and_steps_are_nearly_the_same() -> None:
    gradients = [torch.randn(64, 80, generator=torch.Generator().manual_seed(step)) + 0.5 for step in range(10)]
    made = {}
    for in_8_bits in (False, True):
        weight = torch.nn.Parameter(torch.zeros(64, 80))
        few = torch.nn.Parameter(torch.zeros(4, 4))
        optimizer = adamw([weight, few], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8, in_8_bits=in_8_bits)
        for gradient in gradients:
            weight.grad, few.grad = gradient, gradient[:4, :4]
            optimizer.step()
        made[in_8_bits] = weight.detach()
        if in_8_bits:
            assert optimizer.state[weight]["state1"].dtype == optimizer.state[weight]["state2"].dtype == torch.uint8
            assert optimizer.state[few]["state1"].dtype == torch.float32
    assert not torch.equal(made[True], made[False])
    assert float((made[True] - made[False]).norm() / made[False].norm()) < 0.03
