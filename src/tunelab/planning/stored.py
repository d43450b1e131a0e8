"""Bytes of weights as they are stored: in 16 or 32 bits, or in a weight format's codes and scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.planning.shape import Linear, ModelShape

#: Values per scale of NF4 and FP4, scales per scale of these, values per scale of MXFP4.
_BLOCK, _NESTED_BLOCK, _MX_BLOCK = 64, 256, 32

#: Formats whose sizes are known.
FORMATS = ("nf4", "fp4", "int8", "mxfp4")


def stored_bytes(inputs: int, outputs: int, form: str, options: Mapping[str, Any]) -> int:
    """Bytes of a weight [outputs, inputs] in a format: its codes and scales, as models/formats lay them out."""
    if form == "int8":
        return outputs * inputs + 4 * outputs
    if form == "mxfp4":
        blocks = outputs * -(-inputs // _MX_BLOCK)
        return blocks * (_MX_BLOCK // 2) + blocks
    weights = inputs * outputs
    blocks = -(-weights // _BLOCK)
    if not options.get("double_quantization", True):
        return -(-weights // 2) + 4 * blocks
    return -(-weights // 2) + blocks + 4 * -(-blocks // _NESTED_BLOCK) + 4


def stored_format(quantization: Mapping[str, Any]) -> str:
    """The format that a checkpoint's weights are stored in, by its `quantization_config`, as models/precision.py reads
    it; "none" = not quantized, or in a format that is not known."""
    method = quantization.get("quant_method")
    if method == "bitsandbytes" and quantization.get("load_in_8bit"):
        return "int8"
    if method == "bitsandbytes" and quantization.get("load_in_4bit"):
        form = str(quantization.get("bnb_4bit_quant_type", "fp4"))
        return form if form in FORMATS else "none"
    is_mxfp4 = method == "compressed-tensors" and quantization.get("format") == "mxfp4-pack-quantized"
    return "mxfp4" if is_mxfp4 or method == "mxfp4" else "none"


def base_bytes(
    shape: ModelShape, size: int, form: str = "none", options: Mapping[str, Any] | None = None, skip: Sequence[str] = ()
) -> int:
    """Bytes of all weights of a model.

    Args:
        size: bytes of a weight that is not quantized.
        skip: last parts of names of linear layers that are not quantized.
    """
    if form == "none":
        return size * shape.total
    quantized = [one for one in shape.linears if not _is_skipped(one, skip)]
    saved = sum(size * one.weights - stored_bytes(one.inputs, one.outputs, form, options or {}) for one in quantized)
    for one in _experts(shape):
        saved += shape.experts * (size * one.weights - stored_bytes(one.inputs, one.outputs, form, options or {}))
    return size * shape.total - shape.layers * saved


def largest_weight(shape: ModelShape) -> int:
    """Numbers in the largest linear weight, experts one by one, without the head."""
    return max(one.weights for one in (*shape.linears, *_experts(shape)))


def _experts(shape: ModelShape) -> tuple[Linear, ...]:
    if not shape.experts:
        return ()
    wide = Linear("gate_up", shape.hidden, 2 * shape.intermediate)
    return wide, Linear("down", shape.intermediate, shape.hidden)


def _is_skipped(linear: Linear, skip: Sequence[str]) -> bool:
    return any(linear.name == one or linear.name.endswith(f".{one}") for one in skip)
