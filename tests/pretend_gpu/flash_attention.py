"""FlashAttention over rows of different lengths, for the CPU: what torch's CUDA kernel computes, and what it refuses.

torch.nn.attention.varlen.varlen_attn calls aten::_flash_attention_forward and _backward, which exist for CUDA alone.
Here they get CPU kernels that compute in float32, head by head of each row, and raise the same errors as
aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp of torch 2.13 for the same arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

#: Of the GPU that is pretended; FlashAttention needs 8.0.
CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Call:
    """One call of a kernel: "forward" or "backward", with the dtype and shape of its queries."""

    way: str
    dtype: torch.dtype
    shape: tuple[int, ...]


CALLS: list[Call] = []


def refuse(wrong: bool, said: str) -> None:
    if wrong:
        raise RuntimeError(said)


def check(capability: tuple[int, int], query: Tensor, key: Tensor, value: Tensor, borders: tuple[Tensor, Tensor],
          longest: tuple[int, int]) -> None:  # fmt: skip
    """The kernel's own refusals, and three things that it would do wrong without a word."""
    refuse(capability < (8, 0), "FlashAttention only supports Ampere GPUs or newer.")
    refuse(query.dtype not in (torch.float16, torch.bfloat16), "FlashAttention only support fp16 and bf16 data type")
    refuse(key.dtype != query.dtype or value.dtype != query.dtype, "query and key must have the same dtype")
    refuse(any(one.dtype != torch.int32 for one in borders), "cu_seqlens_q must have dtype int32")
    refuse(any(not one.is_contiguous() for one in borders), "cu_seqlens_q must be contiguous")
    last = [one.stride(-1) for one in (query, key, value)]
    refuse(any(step != 1 for step in last), "Input tensor must have contiguous last dimension")
    size = query.shape[-1]
    refuse(size > 256, "FlashAttention forward only supports head dimension at most 256")
    refuse(size % 8 != 0, "head_size must be a multiple of 8, this is ensured by padding!")
    refuse(query.shape[1] % key.shape[1] != 0, "Number of heads in key/value must divide number of heads in query")
    for states, own, most in ((query, borders[0], longest[0]), (key, borders[1], longest[1])):
        rows = own.tolist()
        refuse(rows[0] != 0 or rows[-1] != len(states), "tokens outside the rows: the real kernel gives NaN gradients")
        refuse(any(end - start > most for start, end in pairwise(rows)), "a row is longer than max_seqlen")
    padded = (len(query) + 128 * (len(borders[0]) - 1)) * query.shape[1] * (-(-size // 32) * 32)
    refuse(padded >= 2**31, "the real kernel's backward counts elements of dq in 32 bits")


def rows_of(query: Tensor, key: Tensor, borders: tuple[Tensor, Tensor]) -> Iterator[tuple[slice, slice]]:
    """Places of each row in the queries and in the keys."""
    for of_query, of_key in zip(*(pairwise(one.tolist()) for one in borders), strict=True):
        yield slice(*of_query), slice(*of_key)


def weights(query: Tensor, key: Tensor, scale: float, left: int, right: int) -> Tensor:
    """softmax(query key^T scale) of one row, masked: [heads, queries, keys]. The last query is at the last key."""
    queries, keys = len(query), len(key)
    place = torch.arange(queries)[:, None] + keys - queries
    other = torch.arange(keys)[None]
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if left >= 0:
        seen &= other >= place - left
    if right >= 0:
        seen &= other <= place + right
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    return torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1)


def bounds(causal: bool, left: int | None, right: int | None) -> tuple[int, int]:
    """How many keys before and after its own place a query sees; -1 = all."""
    return -1 if left is None else left, 0 if causal else -1 if right is None else right


def forward(query: Tensor, key: Tensor, value: Tensor, rows_q: Tensor, rows_k: Tensor, longest_q: int, longest_k: int,
            dropout: float, causal: bool, debug: bool = False, *, scale: float | None = None,
            window_size_left: int | None = None, window_size_right: int | None = None,
            **others: Any) -> Any:  # fmt: skip
    borders = (rows_q, rows_k)
    check(CAPABILITY, query, key, value, borders, (longest_q, longest_k))
    CALLS.append(Call("forward", query.dtype, tuple(query.shape)))
    shared = query.shape[1] // key.shape[1]
    sees = bounds(causal, window_size_left, window_size_right)
    found = torch.empty(query.shape)
    for mine, theirs in rows_of(query, key, borders):
        keys, values = (one[theirs].float().repeat_interleave(shared, dim=1) for one in (key, value))
        weight = weights(query[mine].float(), keys, scale or query.shape[-1] ** -0.5, *sees)
        found[mine] = torch.einsum("hqk,khd->qhd", weight, values)
    sums = torch.zeros(query.shape[1], query.shape[0])
    return (
        found.to(query.dtype),
        sums,
        torch.zeros(2, dtype=torch.uint64),
        torch.zeros((), dtype=torch.uint64),
        sums[:0],
    )


def backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, rows_q: Tensor,
             rows_k: Tensor, longest_q: int, longest_k: int, dropout: float, causal: bool, seed: Tensor, offset: Tensor,
             *, scale: float | None = None, window_size_left: int | None = None,
             window_size_right: int | None = None) -> Any:  # fmt: skip
    borders = (rows_q, rows_k)
    check(CAPABILITY, query, key, value, borders, (longest_q, longest_k))
    refuse(grad.dtype != query.dtype, "query and dout must have the same dtype")
    CALLS.append(Call("backward", query.dtype, tuple(query.shape)))
    shared = query.shape[1] // key.shape[1]
    factor = scale or query.shape[-1] ** -0.5
    sees = bounds(causal, window_size_left, window_size_right)
    of_query, of_key, of_value = (torch.zeros(one.shape) for one in (query, key, value))
    for mine, theirs in rows_of(query, key, borders):
        asked, upstream = query[mine].float(), grad[mine].float()
        keys, values = (one[theirs].float().repeat_interleave(shared, dim=1) for one in (key, value))
        weight = weights(asked, keys, factor, *sees)
        of_weight = torch.einsum("qhd,khd->hqk", upstream, values)
        of_scores = factor * weight * (of_weight - (weight * of_weight).sum(-1, keepdim=True))
        of_query[mine] = torch.einsum("hqk,khd->qhd", of_scores, keys)
        for into, found in (
            (of_key, torch.einsum("hqk,qhd->khd", of_scores, asked)),
            (of_value, torch.einsum("hqk,qhd->khd", weight, upstream)),
        ):
            into[theirs] = found.unflatten(1, (-1, shared)).sum(2)
    return tuple(found.to(query.dtype) for found in (of_query, of_key, of_value))


def register() -> torch.library.Library:
    """Give both operations CPU kernels, until what is returned is destroyed."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CPU")
    library.impl("_flash_attention_backward", backward, "CPU")
    return library
