# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator, index"
"""Triton kernels for MXFP4; importing this needs triton. `_mxfp4_triton` chooses their sizes and launches them.

Sixteen bytes are a block: 32 weights, one scale. Tiles are therefore [.., blocks, 16] bytes: a scale is read once per
block and a row's bytes one after the other. The low nibbles are the weights of even index, the high nibbles those of
odd index: either the two are interleaved, in registers, or the other operand is split the same way.
Source: OCP Microscaling Formats (MX) Specification v1.0, sections 5.3.3 (E2M1) and 5.4.1 (E8M0).
"""

from __future__ import annotations

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]


@triton.jit
def _levels(codes):
    """The levels, float32, of the low and of the high nibbles of uint8 bytes.

    The four bits s e e m are put where a float32 has its sign, the end of its exponent and the start of its mantissa:
    that is the level times 2^-126, for 0.5 too, which is subnormal in both.
    """
    codes = codes.to(tl.int8, bitcast=True).to(tl.int32)
    low = ((codes << 28) >> 6) & -0x7E400000  # bits 31 and 24 to 22; the shift repeats the sign in between
    high = (codes << 18) & -0x7E400000
    return low.to(tl.float32, bitcast=True) * 2.0**126, high.to(tl.float32, bitcast=True) * 2.0**126


@triton.jit
def _powers(scales):
    """E8M0 as float32; 0 stands for 2^-127, which is subnormal."""
    return tl.where(scales == 0, 0x00400000, scales.to(tl.int32) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _rounded(weights, dtype: tl.constexpr):
    """float32 weights in `dtype`. bfloat16 is their upper half: a level times 2^n has at most two significant bits."""
    if dtype == tl.bfloat16:
        return (weights.to(tl.int32, bitcast=True) >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return weights.to(dtype)


@triton.jit
def dequantize_kernel(
    codes,
    scales,
    weight,
    all_blocks,
    row_blocks,
    in_features,
    WHOLE: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """BLOCKS of the blocks of all rows, one after the other. WHOLE: in_features is 32 row_blocks."""
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)  # in 32 bits, what is counted in bytes or weights in 64
    present = block < all_blocks
    read = tl.load(codes + block.to(tl.int64)[:, None] * 16 + tl.arange(0, 16)[None, :], mask=present[:, None], other=0)
    power = _powers(tl.load(scales + block, mask=present, other=0))[:, None]
    low, high = _levels(read)
    values = _rounded(tl.interleave(low * power, high * power), weight.dtype.element_ty)  # [BLOCKS, 32]
    within = tl.arange(0, 32)[None, :]
    if WHOLE:
        tl.store(weight + block.to(tl.int64)[:, None] * 32 + within, values, mask=present[:, None])
    else:
        column = (block % row_blocks)[:, None] * 32 + within
        place = (block // row_blocks).to(tl.int64)[:, None] * in_features + column
        tl.store(weight + place, values, mask=present[:, None] & (column < in_features))


@triton.jit
def multiply_one_kernel(
    x,
    codes,
    scales,
    output,
    out_features,
    row_blocks,
    in_features,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """ROWS numbers of the output for one x [in]. A block's products are summed before they are scaled."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS, BLOCKS], dtype=tl.float32)
    for first in range(0, row_blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        present = (row < out_features)[:, None] & (block < row_blocks)[None, :]
        place = row.to(tl.int64)[:, None] * row_blocks + block[None, :]  # [ROWS, BLOCKS]
        byte = place[:, :, None] * 16 + tl.arange(0, 16)[None, None, :]
        low, high = _levels(tl.load(codes + byte, mask=present[:, :, None], other=0))
        power = _powers(tl.load(scales + place, mask=present, other=0))
        column = block[:, None] * 32 + tl.arange(0, 32)[None, :]
        values = tl.load(x + column, mask=column < in_features, other=0.0).to(tl.float32)
        even, odd = tl.split(tl.reshape(values, [BLOCKS, 16, 2]))
        total += tl.sum(low * even[None, :, :] + high * odd[None, :, :], axis=2) * power
    tl.store(output + row, tl.sum(total, axis=1), mask=row < out_features)


@triton.jit
def multiply_few_kernel(
    x,
    codes,
    scales,
    output,
    count,
    out_features,
    row_blocks,
    in_features,
    part_blocks,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """ROWS numbers of each of `count` <= 16 outputs, over part_blocks of a row's blocks: output [parts, count, out].

    x [count, in] is padded to 16 rows, the minimum for tensor cores.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    which = tl.arange(0, 16)
    total = tl.zeros([ROWS, 16], dtype=tl.float32)
    end = tl.minimum((part + 1) * part_blocks, row_blocks)
    for first in range(part * part_blocks, end, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        present = (row < out_features)[:, None] & (block < end)[None, :]
        place = row.to(tl.int64)[:, None] * row_blocks + block[None, :]  # [ROWS, BLOCKS]
        byte = place[:, :, None] * 16 + tl.arange(0, 16)[None, None, :]
        low, high = _levels(tl.load(codes + byte, mask=present[:, :, None], other=0))
        power = _powers(tl.load(scales + place, mask=present, other=0))[:, :, None]
        weights = _rounded(tl.interleave(low * power, high * power), x.dtype.element_ty)  # [ROWS, BLOCKS, 32]
        weights = tl.reshape(weights, [ROWS, BLOCKS * 32])
        column = first * 32 + tl.arange(0, BLOCKS * 32)[None, :]
        read = (which < count)[:, None] & (column < tl.minimum(in_features, end * 32))
        values = tl.load(x + which[:, None] * in_features + column, mask=read, other=0.0)
        if INTERPRETED:  # triton's interpreter multiplies the bits of bfloat16 as integers
            weights, values = weights.to(tl.float32), values.to(tl.float32)
        total = tl.dot(weights, tl.trans(values), total)
    place = (part * count + which)[None, :] * out_features + row[:, None]
    tl.store(output + place, total, mask=(row < out_features)[:, None] & (which < count)[None, :])
