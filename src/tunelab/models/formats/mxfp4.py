"""4-bit floats E2M1 in blocks of 32 with a power of two as their scale (OCP Microscaling).

Levels are 0, 0.5, 1, 1.5, 2, 3, 4 and 6, with sign, times 2^exponent of the block. Blocks run along the input
dimension; if it is not a multiple of 32 the last block of a row is padded with zeros.
Source: OCP Microscaling Formats (MX) Specification v1.0, sections 5.3.3 (E2M1), 5.4.1 (E8M0) and 6.3 (conversion).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from tunelab.errors import ModelError, UsageError
from tunelab.models.formats import _mxfp4_triton
from tunelab.models.formats._format import WEIGHTS_AT_ONCE, Packed, check_finite, check_layout

ScaleRule = Literal["even", "floor", "mse"]

BLOCK = 32

#: Levels by code, without sign (bit 3).
LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

#: Exponent of the largest level: 6 = 1.5 x 2^2.
LARGEST_EXPONENT = 2

#: E8M0 stores exponent + 127; 255 would be NaN.
BIAS, LARGEST_SCALE = 127, 254


@dataclass(frozen=True)
class Format:
    """Codes [out, in / 2] uint8, the weight of even index in the low nibble, and scales [out, in / 32] E8M0.

    Args:
        scale_rule: how a block's exponent follows from its largest absolute value m. `floor`: that of m, minus 2 (the
            specification's; m up to 8 levels is clipped to 6). `even`: of m rounded to two significant bits, ties to
            even, so that nothing above 7 is clipped (compressed-tensors, torchao). `mse`: that of floor, one less or
            one more, whichever has the smallest squared error.
    """

    scale_rule: ScaleRule = "even"

    name: ClassVar[str] = "mxfp4"
    bits_per_weight: ClassVar[float] = 4 + 8 / BLOCK
    block: ClassVar[int] = BLOCK

    def __post_init__(self) -> None:
        if self.scale_rule not in get_args(ScaleRule):
            raise UsageError(
                f"precision.options.scale_rule is {self.scale_rule!r}, expected {', '.join(get_args(ScaleRule))}"
            )

    @property
    def error_bound(self) -> float:
        # In units of the scale: even, 5 is between 4 and 6; floor, 8 is clipped to 6; mse may clip 16 to 6.
        return {"even": 1 / 5, "floor": 2 / 8, "mse": 10 / 16}[self.scale_rule]

    def packed_layout(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        blocks = -(-shape[1] // BLOCK)
        return {
            "codes": ((shape[0], blocks * BLOCK // 2), torch.uint8),
            "scales": ((shape[0], blocks), torch.uint8),
        }

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        check_finite(weight)
        layout = self.packed_layout((weight.shape[0], weight.shape[1]))
        packed = {key: torch.empty(size, dtype=dtype, device=weight.device) for key, (size, dtype) in layout.items()}
        rows = max(1, WEIGHTS_AT_ONCE // weight.shape[1])
        for start in range(0, len(weight), rows):
            part = weight[start : start + rows].float()
            blocks = functional.pad(part, (0, -part.shape[1] % BLOCK)).view(len(part), -1, BLOCK)  # [rows, blocks, 32]
            exponents = block_exponents(blocks, self.scale_rule)
            codes = element_codes(scaled(blocks, exponents)).flatten(1)  # [rows, in]
            packed["codes"][start : start + rows] = codes[:, ::2] | (codes[:, 1::2] << 4)
            packed["scales"][start : start + rows] = (exponents + BIAS).to(torch.uint8)
        return packed

    def dequantize(self, packed: Packed, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        codes = packed["codes"]
        if codes.is_cuda and _mxfp4_triton.is_available(codes.device):
            return _mxfp4_triton.dequantize(codes, packed["scales"], shape, dtype)
        exact = torch.bfloat16 if dtype == torch.float16 else dtype  # float16 lacks the small scales
        fours = codes.view(torch.uint16).to(torch.int64)  # [out, in / 4], four codes each
        table = _four_levels(exact, fours.device)
        # gather is the one lookup that torch parallelizes, over rows.
        found = [part.expand(shape[0], -1).gather(1, fours) for part in table]
        blocks = (
            (found[0] if len(found) == 1 else torch.stack(found, dim=-1)).view(exact).view(shape[0], -1, BLOCK)
        )  # [out, blocks, 32]
        weight = blocks.mul_(_scales(packed["scales"], exact)[..., None])
        return weight.flatten(1)[:, : shape[1]].to(dtype)

    def multiply_few(self, x: Tensor, packed: Packed, shape: tuple[int, int]) -> Tensor | None:
        few = len(x) <= _mxfp4_triton.MOST_ROWS and x.dtype in (torch.bfloat16, torch.float16)
        if not (few and x.is_cuda and _mxfp4_triton.is_available(x.device)):
            return None
        return _mxfp4_triton.multiply_few(x, packed["codes"], packed["scales"], shape)

    def checkpoint_config(self, skipped: list[str]) -> dict[str, Any]:
        """compressed-tensors' own: weights only, in groups of 32."""
        weights = {
            "num_bits": 4,
            "type": "float",
            "symmetric": True,
            "group_size": BLOCK,
            "strategy": "group",
            "dynamic": False,
            "scale_dtype": "torch.uint8",
            "zp_dtype": None,
            "observer": "memoryless_minmax",
            "observer_kwargs": {},
            "actorder": None,
            "block_structure": None,
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "mxfp4-pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": weights,
                    "input_activations": None,
                    "output_activations": None,
                    "format": "mxfp4-pack-quantized",
                }
            },
            "ignore": skipped,
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }

    def to_checkpoint(self, packed: Packed, shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Tensor]:
        return {"weight_packed": packed["codes"], "weight_scale": packed["scales"]}

    def from_checkpoint(self, tensors: Packed, shape: tuple[int, int]) -> dict[str, Tensor]:
        missing = [name for name in ("weight_packed", "weight_scale") if name not in tensors]
        if missing:
            raise ModelError(
                f"no {missing[0]} for a weight in mxfp4",
                f"set precision to the checkpoint's format; found: {', '.join(sorted(tensors))}",
            )
        packed = {"codes": tensors["weight_packed"], "scales": tensors["weight_scale"]}
        check_layout(self, packed, shape)
        if bool((packed["scales"] > LARGEST_SCALE).any()):
            raise ModelError("a scale in mxfp4 is NaN (255)", "the checkpoint is damaged: use another")
        return packed


def block_exponents(blocks: Tensor, rule: ScaleRule) -> Tensor:
    """The power of two of each block: [..., blocks, 32] float32 -> [..., blocks] int32, from -127 to 127."""
    largest = blocks.abs().amax(dim=-1)
    floor = _exponents(largest, rounded=False)
    if rule == "floor":
        return floor
    even = _exponents(largest, rounded=True)
    if rule == "even":
        return even
    best, least = even, _squared_error(blocks, even)
    for candidate in (floor, floor + 1, floor - 1):
        candidate = candidate.clamp(-BIAS, LARGEST_SCALE - BIAS)
        error = _squared_error(blocks, candidate)
        best = torch.where(error < least, candidate, best)
        least = torch.minimum(error, least)
    return best


def _exponents(largest: Tensor, *, rounded: bool) -> Tensor:
    """floor(log2) of float32 numbers, less that of the largest level; rounded to two significant bits before."""
    bits = largest.view(torch.int32)
    if rounded:
        bits = bits + (1 << 21)  # half of the last of the two bits: 1.75 and more becomes 2
    return ((bits >> 23) - 127 - LARGEST_EXPONENT).clamp(-BIAS, LARGEST_SCALE - BIAS)


def scaled(blocks: Tensor, exponents: Tensor) -> Tensor:
    """Blocks [..., blocks, 32] divided by 2^exponent of each, without rounding."""
    return torch.ldexp(blocks, -exponents[..., None])


def element_codes(values: Tensor) -> Tensor:
    """The codes (uint8, 0 to 15) of the nearest levels, ties to the even code; values above 6 become 6."""
    magnitude = values.abs()
    codes = torch.zeros_like(values, dtype=torch.uint8)
    # Halfway between neighboring levels. At a tie the even code wins: the boundary belongs to the code above it if that
    # one is even.
    for code, border in enumerate((0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0), start=1):
        codes += (magnitude >= border) if code % 2 == 0 else (magnitude > border)
    return codes | (torch.signbit(values).to(torch.uint8) << 3)


def _squared_error(blocks: Tensor, exponents: Tensor) -> Tensor:
    """Sum over a block of the squared rounding errors of its elements: [..., blocks] float64."""
    levels = torch.tensor([*LEVELS, *(-level for level in LEVELS)], device=blocks.device)
    values = scaled(blocks, exponents)
    rounded = levels[element_codes(values).int()]
    return (rounded - values).double().square().sum(-1) * torch.exp2(2.0 * exponents.double())


_tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}


def _four_levels(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The four numbers of `dtype` that 16 bits of codes stand for, as int64: [1, 65536], or [2, 65536] for float32."""
    if (dtype, device) not in _tables:
        levels = torch.tensor([*LEVELS, *(-level for level in LEVELS)], dtype=dtype)
        codes = torch.arange(1 << 16)
        fours = torch.stack([levels[(codes >> shift) & 15] for shift in (0, 4, 8, 12)], dim=1)
        _tables[dtype, device] = fours.view(torch.int64).T.contiguous().to(device)
    return _tables[dtype, device]


def _scales(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """E8M0 as powers of two in bfloat16 or float32; 2^-127 is subnormal in both."""
    bits = torch.where(scales == 0, 0x40, scales.to(torch.int16) << 7)
    return bits.view(torch.bfloat16).to(dtype)
