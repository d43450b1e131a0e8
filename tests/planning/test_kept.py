"""What a forward pass is said to keep is what autograd keeps, byte for byte: the families' layers in tunelab's loop."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from architectures import tiny_architecture
from torch import nn

from tunelab.config import AdapterSettings
from tunelab.models.adapters import add_lora
from tunelab.models.forward import hidden_states, packed_attention
from tunelab.models.linear_layers import train_text_part
from tunelab.planning.activations import Activations, trace
from tunelab.planning.adapters import adapters_of
from tunelab.planning.shape import shape_of
from tunelab.planning.ways import Ways

DENSE = (
    "llama@odd", "gpt2", "qwen2", "qwen3", "mistral", "phi3", "gemma", "gemma2", "gemma3_text", "smollm3", "llama",
)  # fmt: skip

#: A multiple of what packed sequences are padded to.
TOKENS = 64


def kept_by_autograd(model: nn.Module, dtype: torch.dtype | None) -> int:
    """Bytes of all storages that a forward pass over two packed rows saves, without parameters and buffers."""
    own = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers()]}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    ids = torch.arange(TOKENS) % 200
    autocast = nullcontext() if dtype is None else torch.autocast("cpu", dtype)
    with packed_attention(model), autocast, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = hidden_states(model, ids, torch.tensor([0, 20, TOKENS]), "packed")
    total = sum(storage.nbytes() for storage in found.values())
    del output
    return total


def traced(family: str, *, full: bool, narrow: bool, **adapter: object) -> tuple[nn.Module, Activations]:
    model = tiny_architecture(family)
    shape = shape_of(model.config.to_dict(), family)
    settings = AdapterSettings(rank=3, **adapter)
    size = 2 if narrow else 4
    ways = Ways(
        full=full,
        compute=size,
        weights=4 if full else size,
        autocast=narrow,
        on_gpu=False,
        kernel="rows",
        adapter_path="peft" if settings.dropout else "own",
        dropout=settings.dropout,
    )
    if full:
        train_text_part(model)
        return model.train(), trace(shape, ways)
    base = model.to(torch.bfloat16) if narrow else model
    adapted = add_lora(
        base, rank=3, alpha=6, targets=settings.targets, layers=settings.layers, dropout=settings.dropout
    )
    found = adapters_of(shape, settings)
    assert found.parameters == sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    return adapted.train(), trace(shape, ways, found.ranks)


@pytest.mark.parametrize("full", [True, False], ids=["full", "lora"])
@pytest.mark.parametrize("family", DENSE)
def test_in_float32(family: str, full: bool) -> None:
    model, found = traced(family, full=full, narrow=False)
    kept = found.kept(checkpointing=False)
    assert kept.bytes * TOKENS + kept.fixed == kept_by_autograd(model, None)


@pytest.mark.parametrize(
    ("family", "full"), [("llama@odd", True), ("gpt2", False), ("gemma3_text", False), ("phi3", True)]
)
def test_under_autocast(family: str, full: bool) -> None:
    """The copies of trained matrices in bfloat16 come on top."""
    model, found = traced(family, full=full, narrow=True)
    kept = found.kept(checkpointing=False)
    matrices = [
        one.numel()
        for name, one in model.named_parameters()
        if one.requires_grad and one.dim() == 2 and not any(part in name for part in ("embed", "wte", "wpe", "lm_head"))
    ]
    assert kept.bytes * TOKENS + kept.fixed + 2 * sum(matrices) == kept_by_autograd(model, torch.bfloat16)


@pytest.mark.parametrize(
    "adapter",
    [
        {"targets": ("v_proj",)},
        {"targets": ("down_proj",), "layers": (1,)},
        {"targets": "attention"},
        {"dropout": 0.25},
        {"targets": ("q_proj", "up_proj"), "dropout": 0.25},
    ],
    ids=str,
)
def test_with_adapters_on_some_layers_and_peft_s_path(adapter: dict[str, object]) -> None:
    model, found = traced("qwen3", full=False, narrow=False, **adapter)
    kept = found.kept(checkpointing=False)
    assert kept.bytes * TOKENS + kept.fixed == kept_by_autograd(model, None)
