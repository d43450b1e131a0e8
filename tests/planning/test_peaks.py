"""The predicted peak of a step of tunelab's own loop is what its tensors take on a CPU, counted storage by storage."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import tiny_architecture
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tunelab.config import parse_recipe, resolve
from tunelab.models.adapters import add_lora
from tunelab.models.linear_layers import train_text_part
from tunelab.planning.estimate import Plan
from tunelab.planning.memory import peak_of
from tunelab.planning.shape import shape_of
from tunelab.training.loss import TargetLoss
from tunelab.training.optimizer import adamw
from tunelab.training.setup import enable_activation_checkpointing

TOKENS, ROW, LAYERS = 1024, 64, 4


class Storages(TorchDispatchMode):
    """Bytes of the storages of all results that are alive, and the most there were."""

    def __init__(self, ignored: set[int]) -> None:
        super().__init__()
        self.ignored, self.alive, self.bytes, self.most = ignored, set[int](), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return found

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.alive or key in self.ignored or not storage.nbytes():
            return
        self.alive.add(key)
        self.bytes += storage.nbytes()
        self.most = max(self.most, self.bytes)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.bytes -= size


def storages_of(tensors: Any) -> dict[int, int]:
    return {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}


def measured(module: TargetLoss) -> int:
    """The peak of the third step: what the first two leave (masks of attention) is not of a step."""
    optimizer = adamw(module.parameters(), lr=1e-4, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8)
    ids, starts = torch.arange(TOKENS) % 200, torch.arange(0, TOKENS + 1, ROW)
    batch = (ids, starts, torch.arange(TOKENS - 1), ids[1:].clone())
    own = storages_of([*module.parameters(), *module.buffers()])
    ignored = {*own, *storages_of(batch)}
    most = 0
    with module.attention():
        for _ in range(3):
            moments = storages_of(one for state in optimizer.state.values() for one in state.values())
            with Storages(ignored | set(moments)) as counted:
                module(*batch).backward()
                optimizer.step()
                optimizer.zero_grad()
            ignored |= counted.alive
            most = counted.most + sum(own.values()) + sum(moments.values())
    return most


def predicted(plan: Plan) -> float:
    return peak_of(plan.shape, plan.ways, plan.traced, replace(plan._load(TOKENS), accumulates=False)).allocated


FAMILIES = ("llama@odd", "gpt2", "qwen3", "phi3")


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_takes_what_is_predicted(family: str, method: str, checkpointing: bool) -> None:
    """Within 10 %, and never more than 5 % under."""
    layers = {"n_layer": LAYERS} if family == "gpt2" else {"num_hidden_layers": LAYERS}
    model: Any = tiny_architecture(family, **layers)
    shape = shape_of(model.config.to_dict(), family)
    if checkpointing:
        enable_activation_checkpointing(model)
    if method == "full":
        train_text_part(model)
    else:
        model = add_lora(model, rank=4, alpha=8)
    train = {"micro_batch_tokens": TOKENS, "activation_checkpointing": checkpointing, "device": "cpu"}
    data = {"sources": ["alpaca"], "max_length": ROW}
    tree = {"model": "x", "method": method, "adapter": {"rank": 4}, "data": data, "train": train}
    plan = Plan(shape, resolve(parse_recipe(tree)), on_gpu=False)
    taken = measured(TargetLoss(model).train())
    assert 0.95 * taken <= predicted(plan) <= 1.10 * taken
