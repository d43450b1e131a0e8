"""Weights prepacked by oneDNN for generation on the CPU.

A product with few rows (the next token of each row) is bound by reading the weight. MKL and oneDNN read a plain
[out, in] matrix at a third to a half of the speed at which oneDNN reads its own layout; they convert to it in every
call or do without. torch.compile prepacks weights for inference with the same two operations.

A quantized layer is dequantized once, into this layout: else every token dequantizes the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunelab.models.quantized_linear import QuantizedLinear

#: Rows that the layout is chosen for; any number works.
FEW_ROWS = 16

#: A model with more weights than this is not prepacked: prepacked weights are a second copy.
MOST_BYTES = 2 * 2**30


class OneDnnWeights:
    """The prepacked weights of a model's linear layers (nn.Linear, Conv1D, QuantizedLinear), with its output head.

    Nothing is prepacked where that is impossible (a device other than the CPU, a dtype other than float32 and bfloat16,
    or bfloat16 on a processor without AVX-512), or if the copy would take more than MOST_BYTES; a copy that is larger
    because of quantized layers goes without these. Later changes of the weights are not noticed: see `is_current`.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if _can_be_packed(module)]
        if sum(_copied_bytes(layer) for layer in layers) > MOST_BYTES:
            layers = [layer for layer in layers if not isinstance(layer, QuantizedLinear)]
        if sum(_copied_bytes(layer) for layer in layers) > MOST_BYTES or not torch.backends.mkldnn.enabled:
            layers = []
        self._forwards = [(layer, _packed_forward(layer)) for layer in layers]
        self._versions = self._weight_versions()

    @property
    def is_current(self) -> bool:
        """Whether the model's weights are still those that were prepacked."""
        return self._versions == self._weight_versions()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block, the layers compute with prepacked weights, without gradients.

        Under autocast only those whose weights have its dtype: others would have to be cast in every call.
        """
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        forwards = [(layer, forward) for layer, forward in self._forwards if dtype in (None, _dtype(layer))]
        for layer, forward in forwards:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, _ in forwards:
                del layer.forward  # the class's own again

    def _weight_versions(self) -> list[tuple[int, int]]:
        stored = [one for layer, _ in self._forwards for one in _stored(layer)]
        return [(one.data_ptr(), one._version) for one in stored]


def _stored(layer: nn.Module) -> list[Tensor]:
    """The layer's weight as it is stored: one tensor, or codes and scales."""
    return list(layer.packed.values()) if isinstance(layer, QuantizedLinear) else [cast(Tensor, layer.weight)]


def _dtype(layer: nn.Module) -> torch.dtype:
    """Of the prepacked weight."""
    return layer.dtype if isinstance(layer, QuantizedLinear) else _stored(layer)[0].dtype


def _copied_bytes(layer: nn.Module) -> int:
    """Of the prepacked weight."""
    if isinstance(layer, QuantizedLinear):
        return layer.in_features * layer.out_features * layer.dtype.itemsize
    return _stored(layer)[0].nbytes


def _can_be_packed(module: nn.Module) -> bool:
    if type(module) not in (nn.Linear, Conv1D, QuantizedLinear) or "forward" in vars(module):
        return False
    if any(one.device.type != "cpu" for one in _stored(module)):
        return False
    dtype = _dtype(module)
    return dtype == torch.float32 or (dtype == torch.bfloat16 and _has_bf16_products())


def _has_bf16_products() -> bool:
    """Whether oneDNN multiplies in bfloat16 here; elsewhere (AVX2 alone) it refuses to prepack such a weight."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed_forward(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    dtype = _dtype(layer)
    weight = layer.dequantized(dtype) if isinstance(layer, QuantizedLinear) else _stored(layer)[0].detach()
    # [out, in] for all: Conv1D stores its weight as [in, out].
    rows = weight.T.contiguous() if type(layer) is Conv1D else weight
    packed = torch.ops.mkldnn._reorder_linear_weight(rows, FEW_ROWS)
    bias = None if layer.bias is None else cast(Tensor, layer.bias).detach().to(dtype)

    def forward(x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, bias, "none", [], ""))

    return forward
