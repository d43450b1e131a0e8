"""What training computes does not depend on how it is cut up: micro-batches, packing, batch sizes, processes' shares.

Each holds for GPT-2 (Conv1D, learned positions), Llama and Phi-3 (fused projections), fully and with LoRA. The
reference is transformers' own forward pass over PEFT's own layers, one row at a time, with the plain loss on all
logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft.tuners.lora import Linear as PeftLinear
from sampled import sampled
from tiny import FAMILIES, random_table, tiny_model
from torch import Tensor, nn
from torch.nn import functional

from tunelab.data.loader import TrainingPlan
from tunelab.models.adapters import add_lora
from tunelab.models.forward import packed_attention
from tunelab.models.lora_linear import DenseLoraLinear
from tunelab.training.loop import LoopSettings, TrainingLoop
from tunelab.training.loss import TargetLoss
from tunelab.training.optimizer import adamw

LENGTHS = (12, 9, 20, 7, 15, 4, 16, 11)
TABLE = random_table(LENGTHS)
METHODS = ("full", "lora", "dora", "full, checkpointing", "lora, checkpointing")

#: Tokens of a micro-batch, packing: from one row per micro-batch (8 x 1) over a few to all eight in one (1 x 8).
CUTS = {
    "8 x 1": (1, False),
    "padded to 45": (45, False),
    "packed by 30": (30, True),
    "packed by 50": (50, True),
    "1 x 8": (1000, True),
}


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def build(family: str, method: str) -> Any:
    model = tiny_model(family)
    if method.endswith("checkpointing"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    if method.startswith("full"):
        return model
    adapted = add_lora(model, rank=4, alpha=8, use_dora=method == "dora")
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return adapted


def with_pefts_layers(model: Any) -> Any:
    """The same model with PEFT's own forward, which autograd takes apart, in place of our fused one."""
    for module in model.modules():
        if isinstance(module, DenseLoraLinear):
            module.__class__ = PeftLinear
    return model


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(found) == sum(parameter.requires_grad for parameter in model.parameters())
    return found


@cache
def reference(family: str, method: str) -> tuple[float, dict[str, Tensor]]:
    """Mean loss over all targets and its gradients: one row at a time, full logits, no packed attention, and LoRA's
    gradients by PyTorch's autograd, not by ours."""
    model = with_pefts_layers(build(family, method))
    total = torch.zeros(())
    for number in range(len(TABLE)):
        ids, mask = (torch.from_numpy(array.copy()).long() for array in TABLE.row(number))
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        total = total + (functional.cross_entropy(logits[:-1], ids[1:], reduction="none") * mask[1:]).sum()
    loss = total / sum(TABLE.targets)
    loss.backward()
    return loss.item(), gradients_of(model)


def step_gradients(model: Any, capacity: int, packing: bool) -> tuple[float, dict[str, Tensor]]:
    """The same from one step of the loop, cut into micro-batches."""
    plan = TrainingPlan(
        table=TABLE,
        epochs=1,
        steps=1,
        batch_size=8,
        batch_tokens=None,
        micro_batch_tokens=capacity,
        packing=packing,
    )
    optimizer = adamw(model.parameters(), lr=0.0, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
    module = TargetLoss(model, layout="packed" if packing else "padded")
    loop = TrainingLoop(module, optimizer, plan, LoopSettings(lr=0.0, max_grad_norm=None), Accelerator(cpu=True))
    loop.module.train()
    with loop.attention():
        result = loop._gradients(plan.step(0)[0], 0)
    return result.loss, gradients_of(model)


@pytest.mark.parametrize(
    ("family", "method"),
    [*itertools.product(FAMILIES, METHODS[:2]), *sampled(FAMILIES, METHODS[2:])],
)
def test_a_step_s_gradient_does_not_depend_on_how_it_is_cut(family: str, method: str) -> None:
    loss, expected = reference(family, method.partition(",")[0])
    sizes, model = set(), build(family, method)
    for capacity, packing in CUTS.values():
        plan = TrainingPlan(TABLE, 1, 1, 8, None, capacity, packing)
        sizes.add(len(plan.batches(plan.step(0)[0])))
        model.zero_grad()
        got_loss, got = step_gradients(model, capacity, packing)
        assert got_loss == pytest.approx(loss, rel=1e-5)
        assert got.keys() == expected.keys()
        for name, gradient in got.items():
            largest = float(expected[name].abs().max())
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=max(1e-4 * largest, 1e-8), msg=name)
    assert len(sizes) == 5
    assert {1, 8} <= sizes, "one micro-batch of eight rows, and eight of one"


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_weighed_by_their_targets_not_by_their_batch(family: str) -> None:
    """The mean of the batches' means is another number; this is the mistake that the weighing prevents."""
    from tunelab.data.loader import packed_batch

    model = build(family, "full")
    loss, _ = reference(family, "full")
    module = TargetLoss(model)
    with packed_attention(model), torch.no_grad():
        means = []
        for row in range(len(TABLE)):
            batch = packed_batch(TABLE, [row])
            means.append(float(module.of_batch(batch)) / len(batch.labels))
    assert abs(sum(means) / len(means) - loss) > 1e-3
    assert sum(mean * count for mean, count in zip(means, TABLE.targets, strict=True)) / sum(
        TABLE.targets
    ) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("window", [3, 9])
def test_a_sliding_window_s_gradients_are_those_of_transformers(window: int) -> None:
    def windowed() -> Any:
        return tiny_model("phi3", sliding_window=window)

    model = windowed()
    total = torch.zeros(())
    for number in range(len(TABLE)):
        ids, mask = (torch.from_numpy(array.copy()).long() for array in TABLE.row(number))
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        total = total + (functional.cross_entropy(logits[:-1], ids[1:], reduction="none") * mask[1:]).sum()
    (total / sum(TABLE.targets)).backward()
    expected = gradients_of(model)
    _, got = step_gradients(windowed(), 1000, True)
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4 * float(expected[name].abs().max()))
