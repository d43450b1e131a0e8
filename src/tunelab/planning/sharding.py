"""Several GPUs, as arithmetic: a copy of the training on each, or its parameters sharded over all."""

from __future__ import annotations

from dataclasses import dataclass

from tunelab.planning.estimate import GRADIENT_BYTES, NCCL_BYTES, Plan
from tunelab.planning.memory import on_the_card


@dataclass(frozen=True, slots=True)
class OnSeveral:
    """Bytes per GPU, as the device shows them: the least and the most.

    Args:
        copies: data parallel (DDP), as `torchrun ... tunelab train` runs.
        sharded: weights, gradients and moments divided (FSDP), layers gathered one by one. `tunelab train` does this
            for a LoRA's dense base, whose adapters stay whole.
    """

    copies: tuple[float, float]
    sharded: tuple[float, float]


def on_several(plan: Plan, gpus: int) -> OnSeveral:
    """The memory of each of several GPUs."""
    peak = plan.peak()
    gradients = GRADIENT_BYTES * plan.trained
    copies = peak.allocated + gradients  # DDP's buckets
    divided = ("base weights", "adapter", "gradients", "optimizer moments", "update", "autocast copies")
    layer = plan.base_bytes / plan.shape.layers
    sharded = max(
        sum(size / gpus if part in divided else size for part, size in moment.parts.items()) + 2 * layer
        for moment in peak.moments
    )
    return OnSeveral(_with_nccl(copies, plan.error), _with_nccl(sharded, plan.error))


def _with_nccl(allocated: float, error: float) -> tuple[float, float]:
    least, most = on_the_card(allocated, error)
    return least + NCCL_BYTES, most + NCCL_BYTES
