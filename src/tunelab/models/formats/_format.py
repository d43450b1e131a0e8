"""The interface of a weight format. Each file in this folder has a class `Format`; its name is the format's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from tunelab.errors import ModelError

#: The tensors that a weight is stored in, by name: codes, scales, ...
Packed = Mapping[str, Tensor]

#: Weights quantized at a time: intermediates take a few times 4 bytes each. Blocks of memory as large as a weight would
#: leave gaps between the codes that stay, too small for the next weight's.
WEIGHTS_AT_ONCE = 2**19


class WeightFormat(Protocol):
    """How the weight [out, in] of a linear layer is quantized. Frozen; its fields are the format's options.

    Attributes:
        name: the file's name.
        bits_per_weight: size of a large weight, scales included.
        block: weights that share a scale; 0 = one row of the weight.
        error_bound: largest error of a weight, as a share of its block's largest absolute value.
    """

    @property
    def name(self) -> str: ...

    @property
    def bits_per_weight(self) -> float: ...

    @property
    def block(self) -> int: ...

    @property
    def error_bound(self) -> float: ...

    def packed_layout(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every tensor that a weight of this shape [out, in] is stored in."""

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """The tensors that store `weight` [out, in], float32, bfloat16 or float16, on its device.

        Raises:
            ModelError: a weight is infinite or NaN.
        """

    def dequantize(self, packed: Packed, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """The dequantized weight [out, in], in `dtype`."""

    def multiply_few(self, x: Tensor, packed: Packed, shape: tuple[int, int]) -> Tensor | None:
        """x [n, in] times the weight's transpose for a few rows n, without building the weight: [n, out].

        None if there is no kernel for it: then the weight is dequantized. No gradient is recorded.
        """

    def checkpoint_config(self, skipped: list[str]) -> dict[str, Any]:
        """`quantization_config` of a checkpoint whose linear layers are stored this way, except those in `skipped`."""

    def to_checkpoint(self, packed: Packed, shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors of a layer in a checkpoint, by the suffix to the layer's name; `dtype` is the compute dtype."""

    def from_checkpoint(self, tensors: Packed, shape: tuple[int, int]) -> dict[str, Tensor]:
        """The inverse of to_checkpoint(): tensors as quantize() gives them.

        Raises:
            ModelError: the tensors are not those of a weight of this shape in this format.
        """


def packed_bytes(form: WeightFormat, shape: tuple[int, int]) -> int:
    """Bytes of a weight of this shape, scales included."""
    total = 0
    for size, dtype in form.packed_layout(shape).values():
        total += torch.Size(size).numel() * dtype.itemsize
    return total


def check_finite(weight: Tensor) -> None:
    """Raise a ModelError if a weight is infinite or NaN: a scale would spread it to its whole block."""
    rows = max(1, WEIGHTS_AT_ONCE // weight.shape[1])
    if not all(bool(torch.isfinite(part).all()) for part in torch.split(weight, rows)):
        raise ModelError(
            "a weight is infinite or NaN, and cannot be quantized",
            "the file is damaged, or its training diverged: use another checkpoint",
        )


def check_layout(form: WeightFormat, packed: Packed, shape: tuple[int, int]) -> None:
    """Raise a ModelError if `packed` does not have the layout of a weight of this shape."""
    for name, (size, dtype) in form.packed_layout(shape).items():
        found = packed.get(name)
        if found is None or tuple(found.shape) != size or found.dtype != dtype:
            what = "is missing" if found is None else f"is {tuple(found.shape)}, {found.dtype}"
            raise ModelError(
                f"a weight {shape} in {form.name}: {name} {what}, expected {size}, {dtype}",
                "the checkpoint is damaged, or was quantized with other settings",
            )
