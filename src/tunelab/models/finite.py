"""Weights that are NaN or infinite, found by name when a model, an adapter or a weight file is opened.

A model with such a weight answers nonsense without an error, and a sum or a scale spreads it to other weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tunelab.errors import ModelError
from tunelab.failures import explained


def check_model_finite(model: nn.Module, where: str) -> None:
    """Check every parameter and every stored buffer of a model: one pass over its memory.

    Args:
        where: the folder or name that it was loaded from.

    Raises:
        ModelError: a weight is NaN or infinite; the message names the first such tensor.
    """
    stored = model.state_dict().keys()
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in stored)
    _check((*model.named_parameters(), *buffers), where)


def check_files_finite(folder: Path) -> None:
    """Check every tensor in a folder's safetensors files, one at a time.

    Raises:
        ModelError: as check_model_finite(), or a file cannot be read.
    """
    _check(_tensors(sorted(folder.glob("*.safetensors"))), str(folder))


def _tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in files:
        with explained(str(path), ModelError, "the file is damaged: use another copy"), safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  it has keys but is not a mapping
                yield name, file.get_tensor(name)


def _check(tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    for name, tensor in tensors:
        if is_finite(tensor):
            continue
        broken, dtype = int((~torch.isfinite(tensor)).sum()), str(tensor.dtype).removeprefix("torch.")
        overflow = "; float16 overflows above 65,504: set train.dtype=bf16 or fp32" if dtype == "float16" else ""
        raise ModelError(
            f"{where}: {name}: {broken:,} of {tensor.numel():,} weights are NaN or infinite ({dtype})",
            f"the file is damaged, or its training diverged: use another checkpoint{overflow}",
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; true of integers. One pass, no copy of the tensor."""
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2 or not tensor.numel() or tensor.is_meta:
        return True
    least, most = torch.aminmax(tensor.detach())  # both NaN if any element is
    return bool(torch.isfinite(least) & torch.isfinite(most))
