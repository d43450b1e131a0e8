"""What nf4 and fp4 share: 16 levels, blocks of 64 with a float32 scale each, and scales that are quantized in turn.

Codes and scales are bitsandbytes' own, from its functional kernels for CPU and CUDA (its modules are not used: on the
CPU its Linear4bit repacks weights in an evaluation forward, and later gradients are wrong). Checkpoints are written as
transformers writes and reads them for bitsandbytes.
Source: Dettmers et al. 2023, QLoRA, sections 2 and 3 (NormalFloat, double quantization).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from tunelab.errors import ModelError, UsageError
from tunelab.models.formats._format import WEIGHTS_AT_ONCE, Packed, check_finite, check_layout

BLOCK, NESTED_BLOCK = 64, 256

#: Most rows of x for multiply_few: with more, the time to dequantize no longer decides.
MOST_ROWS = 32


@dataclass(frozen=True)
class FourBits:
    """A 4-bit format of bitsandbytes.

    Args:
        double_quantization: the blocks' scales are stored in 8 bits, with a float32 scale for 256 of them.
    """

    double_quantization: bool = True

    name: ClassVar[str]
    levels_bound: ClassVar[float]  # half the largest distance between neighboring levels
    block: ClassVar[int] = BLOCK

    def __post_init__(self) -> None:
        if not isinstance(self.double_quantization, bool):
            raise UsageError(
                f"precision.options.double_quantization is {self.double_quantization!r}, expected true or false"
            )

    @property
    def bits_per_weight(self) -> float:
        return 4 + (8 / BLOCK + 32 / (BLOCK * NESTED_BLOCK) if self.double_quantization else 32 / BLOCK)

    @property
    def error_bound(self) -> float:
        # A scale in 8 bits is off by up to 1/64 of the largest of its 256, and a block's own may be far below that:
        # the bound holds if scales are within a factor of four of each other.
        return self.levels_bound + (4 / 64 if self.double_quantization else 0)

    def packed_layout(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        weights = shape[0] * shape[1]
        blocks = -(-weights // BLOCK)
        layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"codes": ((-(-weights // 2),), torch.uint8)}
        if not self.double_quantization:
            return {**layout, "scales": ((blocks,), torch.float32)}
        return {
            **layout,
            "scales": ((blocks,), torch.uint8),
            "scale_scales": ((-(-blocks // NESTED_BLOCK),), torch.float32),
            "scale_offset": ((), torch.float32),
        }

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        load_kernels()
        check_finite(weight)
        flat = weight.contiguous().view(-1)
        layout = self.packed_layout((weight.shape[0], weight.shape[1]))
        codes = torch.empty(layout["codes"][0], dtype=torch.uint8, device=weight.device)
        scales = torch.empty(layout["scales"][0], dtype=torch.float32, device=weight.device)
        # On the CPU bitsandbytes stores the distance of each weight to each of the 16 levels.
        step = max(BLOCK, WEIGHTS_AT_ONCE // 4 // BLOCK * BLOCK)
        for first in range(0, len(flat), step):
            some, own = torch.ops.bitsandbytes.quantize_4bit(flat[first : first + step], BLOCK, self.name, torch.uint8)
            codes[first // 2 : first // 2 + some.numel()] = some.view(-1)
            scales[first // BLOCK : first // BLOCK + len(own)] = own
        if not self.double_quantization:
            return {"codes": codes, "scales": scales}
        offset = scales.mean()
        table = _dynamic_levels(weight.device)
        small, of_small = torch.ops.bitsandbytes.quantize_blockwise(scales - offset, table, NESTED_BLOCK)
        return {"codes": codes, "scales": small, "scale_scales": of_small.float(), "scale_offset": offset}

    def dequantize(self, packed: Packed, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        load_kernels()
        scales = packed["scales"]
        if self.double_quantization:
            levels = _dynamic_levels(scales.device)
            of_blocks = (scales, packed["scale_scales"], levels, NESTED_BLOCK, torch.float32)
            scales = torch.ops.bitsandbytes.dequantize_blockwise(*of_blocks) + packed["scale_offset"]
        codes, weights = packed["codes"], shape[0] * shape[1]
        # Blocks continue from row to row, but the CPU kernel starts a new one with each row of its output: it is
        # correct only for rows of whole blocks.
        rows = shape if shape[1] % BLOCK == 0 else (len(scales), BLOCK)
        if missing := rows[0] * rows[1] // 2 - len(codes):
            codes = functional.pad(codes, (0, missing))  # a copy, which whole blocks do not need
        flat: Tensor = torch.ops.bitsandbytes.dequantize_4bit(codes.view(-1, 1), scales, BLOCK, self.name, rows, dtype)
        return flat.view(-1)[:weights].view(shape)

    def multiply_few(self, x: Tensor, packed: Packed, shape: tuple[int, int]) -> Tensor | None:
        """By bitsandbytes' kernel for CUDA, which since 0.50 takes several rows and nested scales."""
        load_kernels()
        if not x.is_cuda or len(x) > MOST_ROWS or shape[1] % BLOCK or not hasattr(torch.ops.bitsandbytes, "gemm_4bit"):
            return None
        args = (x.contiguous(), packed["codes"].view(-1, 1), list(shape))
        if not self.double_quantization:
            found: Tensor = torch.ops.bitsandbytes.gemm_4bit(*args, packed["scales"], BLOCK, self.name)
            return found
        nested = (packed["scales"], _dynamic_levels(x.device), packed["scale_offset"])
        found = torch.ops.bitsandbytes.gemm_4bit(*args, packed["scale_scales"], BLOCK, self.name, None, *nested)
        return found

    def checkpoint_config(self, skipped: list[str]) -> dict[str, Any]:
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": self.name,
            "bnb_4bit_use_double_quant": self.double_quantization,
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": skipped,
        }

    def to_checkpoint(self, packed: Packed, shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Tensor]:
        facts: dict[str, Any] = {
            "quant_type": self.name,
            "blocksize": BLOCK,
            "dtype": str(dtype).removeprefix("torch."),
            "shape": list(shape),
        }
        tensors = {
            "weight": packed["codes"].view(-1, 1),
            "weight.absmax": packed["scales"],
            "weight.quant_map": _levels(self.name, packed["codes"].device),
        }
        if self.double_quantization:
            facts |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32"}
            facts["nested_offset"] = float(packed["scale_offset"])
            tensors["weight.nested_absmax"] = packed["scale_scales"]
            tensors["weight.nested_quant_map"] = _dynamic_levels(packed["codes"].device).clone()
        text = json.dumps(facts).encode()
        tensors[f"weight.quant_state.bitsandbytes__{self.name}"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return tensors

    def from_checkpoint(self, tensors: Packed, shape: tuple[int, int]) -> dict[str, Tensor]:
        stored = tensors.get(f"weight.quant_state.bitsandbytes__{self.name}")
        if stored is None:
            raise ModelError(
                f"no quantization state of {self.name} next to the weight",
                f"set precision to the checkpoint's format; found: {', '.join(sorted(tensors))}",
            )
        facts = json.loads(bytes(stored.cpu().tolist()))
        expected = {"blocksize": BLOCK, "shape": list(shape)}
        if self.double_quantization:
            expected["nested_blocksize"] = NESTED_BLOCK
        for name, value in expected.items():
            if facts.get(name) != value:
                raise ModelError(f"a weight in {self.name}: {name} is {facts.get(name)}, expected {value}")
        packed = {"codes": tensors["weight"].reshape(-1), "scales": tensors["weight.absmax"]}
        if self.double_quantization:
            device = packed["codes"].device
            packed["scale_scales"] = tensors["weight.nested_absmax"]
            packed["scale_offset"] = torch.tensor(facts["nested_offset"], dtype=torch.float32, device=device)
        check_layout(self, packed, shape)
        return packed


@cache
def load_kernels() -> None:
    """Import bitsandbytes, which registers torch.ops.bitsandbytes.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UsageError("the 4-bit formats need bitsandbytes", "pip install bitsandbytes") from error


_tables: dict[torch.device, Tensor] = {}


def _dynamic_levels(device: torch.device) -> Tensor:
    """bitsandbytes' 256 levels of a signed dynamic 8-bit number (Dettmers 2015): [256] float32."""
    from bitsandbytes.functional import create_dynamic_map

    if device not in _tables:
        _tables[device] = create_dynamic_map().to(device)
    return _tables[device]


def _levels(name: str, device: torch.device) -> Tensor:
    """The 16 levels: [16] float32."""
    from bitsandbytes.functional import get_4bit_type

    levels: Tensor = get_4bit_type(name, device=str(device))
    return levels
