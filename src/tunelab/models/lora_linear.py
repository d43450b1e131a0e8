"""A frozen linear layer and its LoRA matrices as one autograd function.

PEFT computes x W + (x A) B s as five operations, casts the input to the matrices' float32 on the way (autocast casts
it back), and adds up their input gradients in backward. Here the small products are accumulated into the large ones, in
the compute dtype, and only the input and x A, of width rank, are kept for backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunelab.errors import ModelError
from tunelab.models.quantized_linear import QuantizedLinear


class DenseLoraLinear(PeftLinear):  # type: ignore[misc]
    """PEFT's layer with a faster forward for the common case; in all other cases it is PEFT's own.

    The common case: one active adapter, not merged, without dropout, DoRA or bias, over a frozen nn.Linear, Conv1D or
    QuantizedLinear.
    """

    def forward(self, x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        name = None if arguments or named else self._plain_adapter()
        if name is None:
            return cast(Tensor, super().forward(x, *arguments, **named))
        layer = self.get_base_layer()
        if not torch.is_grad_enabled():
            return self._without_gradients(layer, name, x)
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        output = _LoraLinear.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]).to(dtype),
            _weight_source(layer),
            bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
        )
        return cast(Tensor, output).view(*x.shape[:-1], -1)

    def merge(self, *arguments: Any, **named: Any) -> None:
        """PEFT's merge, refused if the base is quantized: the sum would have to be quantized again.

        Raises:
            ModelError: the base is quantized.
        """
        layer = self.get_base_layer()
        if isinstance(layer, QuantizedLinear):
            raise ModelError(
                f"an adapter cannot be merged into weights stored in {layer.form.name}",
                "`tunelab merge RUN --format ...` writes full weights, or quantizes the sum and measures it",
            )
        super().merge(*arguments, **named)

    def _without_gradients(self, layer: nn.Module, name: str, x: Tensor) -> Tensor:
        """The base product is the layer's own forward: its weight may be prepacked (onednn_weights.py)."""
        output: Tensor = layer(x)
        with torch.autocast(x.device.type, enabled=False):
            a, b = (matrix[name].weight.to(output.dtype) for matrix in (self.lora_A, self.lora_B))
            low = torch.mm(x.reshape(-1, x.shape[-1]).to(output.dtype), a.T)  # [n, rank]
            output.view(-1, output.shape[-1]).addmm_(low, b.T, alpha=self.scaling[name])
        return output

    def _plain_adapter(self) -> str | None:
        """The name of the one adapter to apply, if only plain LoRA is needed."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(active) != 1 or active[0] in self.lora_variant:
            return None
        (name,) = active
        layer, dropout = self.get_base_layer(), self.lora_dropout[name]
        plain = (
            isinstance(layer, nn.Linear | Conv1D)
            and not any(parameter.requires_grad for parameter in layer.parameters())
            and self.lora_B[name].bias is None
            and (isinstance(dropout, nn.Identity) or not self.training)
        )
        return name if plain else None


def _weight_source(layer: nn.Module) -> Callable[[torch.dtype], Tensor]:
    """The function that gives the layer's frozen weight [out, in] in a dtype."""
    if isinstance(layer, QuantizedLinear):
        return layer.dequantized
    weight = cast(Tensor, layer.weight)
    # Conv1D stores its weight as [in, out].
    return (weight.T if isinstance(layer, Conv1D) else weight).to


class _LoraLinear(torch.autograd.Function):
    """[n, in] -> [n, out]; bias [out] frozen, A [rank, in] and B [out, rank] trained.

    `weight(dtype)` gives the frozen weight [out, in]. Backward calls it again, so that a dequantized weight is not kept
    in between.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Callable[[torch.dtype], Tensor],
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            small_a, small_b = a.to(x.dtype), b.to(x.dtype)
            transposed = weight(x.dtype).T
            output = torch.mm(x, transposed) if bias is None else torch.addmm(bias, x, transposed)
            low = torch.mm(x, small_a.T)  # [n, rank]
            output.addmm_(low, small_b.T, alpha=scaling)
        ctx.save_for_backward(x, low, small_a, small_b)
        ctx.weight, ctx.scaling, ctx.dtypes = weight, scaling, (a.dtype, b.dtype)
        return output

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        gradient = upstream[0].to(x.dtype)
        low_gradient = torch.mm(gradient, b).mul_(ctx.scaling)  # [n, rank]
        x_gradient = a_gradient = b_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = torch.mm(gradient, ctx.weight(x.dtype)).addmm_(low_gradient, a)
        if ctx.needs_input_grad[3]:
            a_gradient = torch.mm(low_gradient.T, x).to(ctx.dtypes[0])
        if ctx.needs_input_grad[4]:
            b_gradient = torch.mm(gradient.T, low).mul_(ctx.scaling).to(ctx.dtypes[1])
        return x_gradient, None, None, a_gradient, b_gradient, None


def use_dense_lora(model: nn.Module) -> None:
    """Give PEFT's LoRA layers over dense layers this module's forward; nothing else changes."""
    for module in model.modules():
        if type(module) is PeftLinear:
            module.__class__ = DenseLoraLinear
