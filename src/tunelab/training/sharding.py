"""A frozen base whose weights are shared out: each process holds a part of every block and gathers a block to run it.

By torch's fully_shard (FSDP2). The adapters stay whole in every process, and DistributedDataParallel averages their
gradients as it does without sharding: checkpoints, results and resuming do not change.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tunelab.errors import ModelError
from tunelab.models.forward import backbone
from tunelab.training.loss import TargetLoss


def shard_base(module: TargetLoss, accelerator: Accelerator, sharding: str = "full") -> None:
    """Share out the frozen weights of a model with its loss, block by block; embeddings, norm and head are one group.
    Nothing happens with `sharding` "none".

    The model may be on the host: a block is moved to the device as a whole, and all but a share of it freed.

    Raises:
        ModelError: the model has no list of blocks.
    """
    if sharding == "none":
        return
    device = accelerator.device
    mesh = init_device_mesh(device.type, (accelerator.num_processes,))
    trained = {parameter for parameter in module.parameters() if parameter.requires_grad}
    for block in blocks(module.model):
        fully_shard(block, mesh=mesh, ignored_params=trained & set(block.parameters()))
    # The loss computes its gradients in the forward pass: the head is not needed again in the backward pass.
    fully_shard(module, mesh=mesh, ignored_params=trained, reshard_after_forward=True)
    for parameter in trained:
        parameter.data = parameter.data.to(device)
    shared = [name for name, parameter in module.named_parameters() if isinstance(parameter, DTensor)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, shared)  # type: ignore[no-untyped-call]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks of a model: the longest list of modules of its backbone.

    Raises:
        ModelError: it has none.
    """
    lists = [list(child) for child in backbone(model).children() if isinstance(child, nn.ModuleList)]
    if not lists:
        raise ModelError(
            f"{type(backbone(model)).__name__} has no list of blocks to share out", "set train.sharding=none"
        )
    return max(lists, key=len)


def shared_bytes(module: nn.Module) -> tuple[int, int]:
    """Bytes of weights that this process holds, and of all that are shared out."""
    found = [parameter for parameter in module.parameters() if isinstance(parameter, DTensor)]
    with torch.no_grad():
        held = sum(parameter.to_local().nbytes for parameter in found)
    return held, sum(parameter.nbytes for parameter in found)
