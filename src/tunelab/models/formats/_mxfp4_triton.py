"""MXFP4 on CUDA: dequantization in one pass, and the product with few activations that never builds the weight.

Both read what the format stores and nothing else: codes [out, ceil(in / 32) * 16] uint8, the weight of even index in
the low nibble, and scales [out, ceil(in / 32)] uint8, E8M0. A row's blocks are contiguous, so that neighboring threads
read neighboring bytes; 16 of them are exactly the block that shares a scale.
Triton compiles the kernels; the first call imports it, not this module.
Source: OCP Microscaling Formats (MX) Specification v1.0, sections 5.3.3 (E2M1) and 5.4.1 (E8M0).

The kernels' sizes follow from the shape and the device, not from timing as with triton.autotune: a product gives the
same bits in every process. Whether multiply and add are fused is set explicitly: triton's default changes.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

from tunelab.errors import ModelError

BLOCK, BLOCK_BYTES = 32, 16

#: Most rows of x for multiply_few: those of one tensor core operation, to which x is padded.
MOST_ROWS = 16

#: bfloat16 and asynchronous copies came with compute capability 8.0 (Ampere).
LEAST_CAPABILITY = (8, 0)


@functools.cache
def is_available(device: torch.device) -> bool:
    """Whether the kernels run on this device: triton is installed, and the device is CUDA (Ampere or later).

    With TRITON_INTERPRET=1, which triton reads once, on import, they also run on the CPU, slowly.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    if _is_interpreted():
        return device.type in ("cpu", "cuda")
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def dequantize(codes: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The weight [out, in] in `dtype` (bfloat16, float16 or float32), bit-identical to Format.dequantize().

    Each thread reads four bytes and writes eight weights, 16 bytes in half precision: both are coalesced.

    Args:
        codes: [out, ceil(in / 32) * 16] uint8.
        scales: [out, ceil(in / 32)] uint8.
        shape: [out, in].
        dtype: of the weight.

    Raises:
        ModelError: codes or scales do not match this shape, or the dtype is not supported.
    """
    _check_packed(codes, scales, shape)
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ModelError(f"a weight in mxfp4 cannot be dequantized to {dtype}, expected bfloat16, float16 or float32")
    from tunelab.models.formats import _mxfp4_kernels as kernels

    weight = torch.empty(shape, dtype=dtype, device=codes.device)
    blocks, warps = 64, 8  # 1024 bytes for 256 threads
    with torch.cuda.device_of(codes):  # type: ignore[no-untyped-call]
        kernels.dequantize_kernel[(-(-scales.numel() // blocks),)](
            codes.contiguous(),
            scales.contiguous(),
            weight,
            scales.numel(),
            scales.shape[1],
            shape[1],
            WHOLE=shape[1] % BLOCK == 0,
            BLOCKS=blocks,
            num_warps=warps,
            enable_fp_fusion=True,
        )
    return weight


def multiply_few(x: Tensor, codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
    """x [n, in] times the transpose of the weight [out, in] -> [n, out] in x's dtype, summed in float32.

    For decoding, where reading the weight takes the time: 4.25 bits per weight here, 16 in the dense product. One row
    of x uses the ordinary cores, since tensor cores would waste 15 rows; two to sixteen use the tensor cores, with
    weights in x's dtype as dequantize() gives them. No gradient is recorded.

    Args:
        x: [n, in], bfloat16 or float16, n <= 16.
        codes: [out, ceil(in / 32) * 16] uint8.
        scales: [out, ceil(in / 32)] uint8.
        shape: [out, in].

    Raises:
        ModelError: codes or scales do not match this shape, or x has another shape or dtype.
    """
    _check_packed(codes, scales, shape)
    if x.dim() != 2 or x.shape[1] != shape[1] or len(x) > MOST_ROWS:
        raise ModelError(f"a product in mxfp4: x is {tuple(x.shape)}, expected ({MOST_ROWS} or fewer, {shape[1]})")
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise ModelError(f"a product in mxfp4: x is {x.dtype}, expected bfloat16 or float16")
    if x.numel() == 0:
        return x.new_empty((len(x), shape[0]))
    x, codes, scales = x.detach().contiguous(), codes.contiguous(), scales.contiguous()
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        return _multiply_one(x, codes, scales, shape) if len(x) == 1 else _multiply_more(x, codes, scales, shape)


def _multiply_one(x: Tensor, codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
    from tunelab.models.formats import _mxfp4_kernels as kernels

    # Four rows of 32 blocks per warp: a thread has four 16-byte reads in flight, and the activations that it reads
    # serve all four rows. Rows are few so that narrow layers have programs for every processor; no more than two warps
    # share a row, or the last step of a row whose length is not a power of two would leave most of them idle.
    rows, blocks = 4, min(64, _power_of_two(scales.shape[1]))
    output = torch.empty((1, shape[0]), dtype=x.dtype, device=x.device)
    kernels.multiply_one_kernel[(-(-shape[0] // rows),)](
        x,
        codes,
        scales,
        output,
        shape[0],
        scales.shape[1],
        shape[1],
        ROWS=rows,
        BLOCKS=blocks,
        num_warps=max(1, blocks // 32),
        enable_fp_fusion=True,
    )
    return output


def _multiply_more(x: Tensor, codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
    from tunelab.models.formats import _mxfp4_kernels as kernels

    # 128 bytes of a row, a cache line, at a time. A warp has the 16 rows of one tensor core operation: more warps would
    # dequantize the same weights again.
    rows, blocks, warps, stages = 32, 8, 2, 3
    programs = -(-shape[0] // rows)
    parts, part_blocks = _parts(programs, scales.shape[1], blocks, _processors(x.device))
    count = len(x)
    dtype = x.dtype if parts == 1 else torch.float32
    output = torch.empty((parts, count, shape[0]), dtype=dtype, device=x.device)
    kernels.multiply_few_kernel[(programs, parts)](
        x,
        codes,
        scales,
        output,
        count,
        shape[0],
        scales.shape[1],
        shape[1],
        part_blocks,
        ROWS=rows,
        BLOCKS=blocks,
        INTERPRETED=_is_interpreted(),
        num_warps=warps,
        num_stages=stages,
        enable_fp_fusion=True,
    )
    # Summed separately, not by atomic additions, whose order varies between calls.
    return output[0] if parts == 1 else output.sum(0).to(x.dtype)


def _parts(programs: int, row_blocks: int, step: int, processors: int) -> tuple[int, int]:
    """Into how many parts a row's sum is split so that every processor has four programs, and the blocks of a part.

    A part is never shorter than four steps of `step` blocks, or the pipeline would not fill.
    """
    steps = -(-row_blocks // step)
    parts = max(1, min(4 * processors // programs, steps // 4))
    part_steps = -(-steps // parts)
    return -(-steps // part_steps), part_steps * step


@functools.cache
def _processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; for the interpreter, those of a large one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


def _check_packed(codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> None:
    blocks = -(-shape[1] // BLOCK)
    for name, tensor, expected in (
        ("codes", codes, (shape[0], blocks * BLOCK_BYTES)),
        ("scales", scales, (shape[0], blocks)),
    ):
        if tuple(tensor.shape) != expected or tensor.dtype != torch.uint8:
            raise ModelError(
                f"a weight {shape} in mxfp4: {name} is {tuple(tensor.shape)}, {tensor.dtype}, "
                f"expected {expected}, torch.uint8"
            )
