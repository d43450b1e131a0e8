"""FlashAttention over rows of different lengths, as torch ships it for CUDA, and what it does not take.

One function decides for packed sequences and for rows behind a shared prefix alike. What it does not take is computed
row by row with torch's attention.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from tunelab.models.page_locked import copied

#: What the kernels were built for (aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp of torch 2.13).
LEAST_CAPABILITY = (8, 0)
HEAD_STEP, LARGEST_HEAD = 8, 256

#: Heads above this size have no backward in the shared memory of compute capability 8.6 to 8.9 and 12.x (torch's
#: sdp_utils.cpp has the same rule).
LARGEST_HEAD_IN_SMALL_MEMORY = 192

#: Its backward pass counts the elements of its sums in 32 bits: rows padded by 128 tokens, heads to a multiple of 32.
MOST_ELEMENTS, PADDED_TOKENS, PADDED_HEAD = 2**31, 128, 32


@dataclass(frozen=True)
class RowBorders:
    """Where the rows of a packed sequence begin: rows + 1 offsets, the last one the number of tokens.

    Each layer needs them; they are copied to the GPU once a batch.
    """

    starts: list[int]
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(end - start for start, end in pairwise(self.starts))

    def on(self, device: torch.device) -> Tensor:
        """The offsets on a device: [rows + 1], int32."""
        if device not in self._copies:
            self._copies[device] = copied(torch.tensor(self.starts, dtype=torch.int32), device)
        return self._copies[device]


def takes_flash(query: Tensor, key: Tensor, value: Tensor, rows: int, **special: Any) -> bool:
    """Whether FlashAttention computes this: the GPU, the dtype, the size of heads, and nothing that it lacks.

    Args:
        query, key, value: [..., heads, tokens, head].
        rows: of the packed sequence.
        special: what attention may be asked for besides (dropout, a soft cap, sinks); None and 0 = not.
    """
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    if any(value is not None and (isinstance(value, Tensor) or value != 0) for value in special.values()):
        return False
    heads, tokens, size = query.shape[-3:]
    if key.dtype != query.dtype or value.dtype != query.dtype or value.shape[-1] != size:
        return False
    padded = (tokens + PADDED_TOKENS * rows) * heads * (-(-size // PADDED_HEAD) * PADDED_HEAD)
    return padded < MOST_ELEMENTS and _takes_heads_of(size, query.device) and has_varlen()


def _takes_heads_of(size: int, device: torch.device) -> bool:
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY or size > LARGEST_HEAD or size % HEAD_STEP:
        return False
    small = (8, 6) <= capability <= (8, 9) or capability[0] == 12
    return not (small and size > LARGEST_HEAD_IN_SMALL_MEMORY and torch.is_grad_enabled())


@cache
def has_varlen() -> bool:
    """Whether this torch has the function with windows and grouped queries: 2.12 and later."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    asked: RowBorders,
    seen: RowBorders,
    *,
    window: int | None,
    scale: float | None,
) -> Tensor:
    """Causal attention of each row's queries to its keys, the last query at the last key: [tokens, heads, head].

    Args:
        query: [heads, tokens, head].
        key, value: [key heads, keys, head].
        asked, seen: the rows in the queries and in the keys.
        window: a token sees itself and the window - 1 before it; None = all before it.
    """
    from torch.nn.attention.varlen import varlen_attn

    queries, keys, values = (states.transpose(0, 1).contiguous() for states in (query, key, value))
    attended = varlen_attn(
        queries,  # [tokens, heads, head]
        keys,
        values,
        asked.on(query.device),
        seen.on(query.device),
        asked.longest,
        seen.longest,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[0] != key.shape[0],
    )
    return cast(Tensor, attended)


def masked_attention(query: Tensor, keys: Sequence[Tensor], mask: Tensor | None, **options: Any) -> Tensor:
    """torch's attention with the keys and values of grouped queries repeated.

    Its kernels that keep no matrix of scores take no groups in float32 or with dropout; it would use the one that does.

    Args:
        query: [1, heads, tokens, head].
        keys: keys and values, [1, key heads, keys, head] each.
        mask: of booleans, True = visible; None = causal.
    """
    group = query.shape[1] // keys[0].shape[1]
    key, value = keys if group == 1 else (states.repeat_interleave(group, dim=1) for states in keys)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, **options)
