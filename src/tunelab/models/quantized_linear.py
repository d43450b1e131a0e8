"""A linear layer whose frozen weight is stored in a weight format, the same for every format.

Only codes and scales stay in memory. The weight is dequantized on the fly in forward and again in backward, in the
compute dtype; no copy is kept in between. Only the activations get gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from tunelab.models.formats._format import Packed, WeightFormat


class QuantizedLinear(nn.Linear):
    """y = x W^T + b with W [out, in] stored in a format.

    To PEFT, which wraps it like any other, it is an nn.Linear; its `weight` is not a parameter but is computed from
    codes and scales whenever it is read.

    Args:
        form: the weight format.
        packed: the tensors that store the weight, from form.quantize(); may be on the meta device.
        shape: [out, in].
        bias: [out], or None.
        dtype: of `weight`.
        from_conv1d: it replaces a Conv1D of GPT-2, whose weight is [in, out] in checkpoints.
    """

    def __init__(
        self,
        form: WeightFormat,
        packed: Packed,
        shape: tuple[int, int],
        *,
        bias: Tensor | None = None,
        dtype: torch.dtype = torch.bfloat16,
        from_conv1d: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self.form, self.dtype, self.from_conv1d = form, dtype, from_conv1d
        self.out_features, self.in_features = shape
        self.set_packed(packed)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def set_packed(self, packed: Mapping[str, Tensor]) -> None:
        """Store another weight of the same shape."""
        for name in self.form.packed_layout(self.shape):
            self.register_buffer(name, packed[name])

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in]."""
        return self.out_features, self.in_features

    @property
    def packed(self) -> dict[str, Tensor]:
        """Codes and scales, by name."""
        return {name: self.get_buffer(name) for name in self.form.packed_layout(self.shape)}

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The dequantized weight: [out, in]. Writes to it are lost."""
        return self.dequantized(self.dtype)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The dequantized weight in `dtype`: [out, in]."""
        return self.form.dequantize(self.packed, self.shape, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        flat = x.reshape(-1, self.in_features).to(dtype)
        if not torch.is_grad_enabled():
            few = self.form.multiply_few(flat, self.packed, self.shape)
            if few is not None:
                with_bias = few if bias is None else few + bias
                return with_bias.view(*x.shape[:-1], self.out_features)
        output = _Product.apply(flat, bias, self.dequantized)  # type: ignore[no-untyped-call]
        return cast(Tensor, output).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.form}"


class _Product(torch.autograd.Function):
    """x [n, in] times W^T; `weight(dtype)` gives W [out, in] and is called again in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: Callable[[torch.dtype], Tensor]) -> Tensor:
        ctx.weight = weight
        with torch.autocast(x.device.type, enabled=False):
            transposed = weight(x.dtype).T
            return torch.mm(x, transposed) if bias is None else torch.addmm(bias, x, transposed)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = upstream
        needed = ctx.needs_input_grad[0]
        return (torch.mm(gradient, ctx.weight(gradient.dtype)) if needed else None), None, None


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Every quantized layer of a model, by its dotted name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
