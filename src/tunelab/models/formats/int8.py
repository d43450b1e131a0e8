"""8-bit integers with one float32 scale per row of the weight; activations stay in 16 bits.

Weights as in LLM.int8 (vector-wise, symmetric, to 127), and checkpoints as bitsandbytes writes them. Its integer
product is not used: activations are not quantized, so there are no outliers to separate.
Source: Dettmers et al. 2022, LLM.int8(), section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tunelab.errors import ModelError
from tunelab.models.formats._format import WEIGHTS_AT_ONCE, Packed, check_finite, check_layout


@dataclass(frozen=True)
class Format:
    """Codes [out, in] int8 and scales [out] float32: a weight is code x scale / 127."""

    name: ClassVar[str] = "int8"
    bits_per_weight: ClassVar[float] = 8.0
    block: ClassVar[int] = 0
    error_bound: ClassVar[float] = 0.5 / 127 * 1.001  # plus the rounding of the division

    def packed_layout(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        return {"codes": (shape, torch.int8), "scales": (shape[:1], torch.float32)}

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        check_finite(weight)
        codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        scales = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
        rows = max(1, WEIGHTS_AT_ONCE // weight.shape[1])
        for start in range(0, len(weight), rows):
            part = weight[start : start + rows].to(torch.float32, copy=True)
            largest = part.abs().amax(dim=1)
            factors = torch.where(largest == 0, 0.0, 127 / largest)
            codes[start : start + rows] = part.mul_(factors[:, None]).round_()
            scales[start : start + rows] = largest
        return {"codes": codes, "scales": scales}

    def dequantize(self, packed: Packed, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        return packed["codes"].to(dtype).mul_((packed["scales"] / 127).to(dtype)[:, None])

    def multiply_few(self, x: Tensor, packed: Packed, shape: tuple[int, int]) -> Tensor | None:
        return None

    def checkpoint_config(self, skipped: list[str]) -> dict[str, Any]:
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": False,
            "load_in_8bit": True,
            "llm_int8_threshold": 6.0,
            "llm_int8_has_fp16_weight": False,
            "llm_int8_skip_modules": skipped,
        }

    def to_checkpoint(self, packed: Packed, shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Tensor]:
        format_of_rows = torch.tensor(0, dtype=torch.uint8)  # bitsandbytes: 0 = plain rows
        return {"weight": packed["codes"], "SCB": packed["scales"], "weight_format": format_of_rows}

    def from_checkpoint(self, tensors: Packed, shape: tuple[int, int]) -> dict[str, Tensor]:
        if "SCB" not in tensors:
            raise ModelError(
                "no scales (SCB) next to the int8 weight",
                f"set precision to the checkpoint's format; found: {', '.join(sorted(tensors))}",
            )
        packed = {"codes": tensors["weight"], "scales": tensors["SCB"].float()}
        check_layout(self, packed, shape)
        return packed
