"""Causal attention over packed sequences on the CPU: block by block, forward and backward, in the input's dtype.

torch's own CPU kernel runs bfloat16 at half the speed of float32 in backward, and one call per row gives every slice a
full-length gradient. Here one autograd function covers all rows. It computes scores of a block of queries against the
keys that they can see, so that most masked scores are never computed. Nothing of size rows x length squared is kept for
backward, which computes a block's scores again (as FlashAttention does, Dao et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Queries per block; twice as many waste more on masked keys than they gain in larger products.
QUERY_BLOCK = 256

#: Blocks are widened to a multiple of this many tokens. oneDNN compiles a kernel for every shape and caches the last
#: 1,024: compiling one takes longer than running it, and rows have hundreds of lengths.
SHAPE_STEP = 32


def row_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_starts: list[int],
    *,
    scale: float,
    window: int | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention of each token to itself and the earlier tokens of its row: [tokens, heads, value head].

    Tokens after the last row (padding) give zeros.

    Args:
        query: [heads, tokens, head].
        key: [key heads, tokens, head]; heads is a multiple of key heads (grouped queries).
        value: [key heads, tokens, value head]; its heads may have another size (latent attention).
        row_starts: the rows + 1 offsets where rows begin.
        scale: scores are multiplied by it.
        window: a token sees itself and the window - 1 before it; None = all before it.
        dropout: share of the attention weights dropped, the rest scaled up.
        softcap, sinks: as in plain_attention().
    """
    seed = int(torch.randint(2**31, ())) if dropout else 0
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    states = (query.to(dtype), key.to(dtype), value.to(dtype))
    # Everything inside is in this dtype already; autocast would cast the softmax to float32 and back.
    with torch.autocast("cpu", enabled=False):
        return _RowAttention.apply(*states, sinks, row_starts, scale, window, dropout, seed, softcap)  # type: ignore[no-any-return, no-untyped-call]


class _RowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        row_starts: list[int],
        scale: float,
        window: int | None,
        dropout: float,
        seed: int,
        softcap: float | None,
    ) -> Tensor:
        (heads, tokens, _), size = query.shape, value.shape[2]
        key_heads, group = key.shape[0], heads // key.shape[0]
        output = query.new_zeros(tokens, heads, size)
        generator = torch.Generator().manual_seed(seed) if dropout else None
        for block in _blocks(row_starts, tokens, window):
            asked = _grouped(query, block.queries, key_heads)
            weights, _ = _weights(asked, key[:, block.keys], scale, window, group, softcap, sinks)
            if generator is not None:
                weights *= _kept(weights, dropout, generator)
            attended = torch.bmm(weights, value[:, block.keys]).view(heads, -1, size)
            output[block.own] = attended[:, block.part].transpose(0, 1)
        ctx.save_for_backward(query, key, value, sinks)
        ctx.settings = (row_starts, scale, window, dropout, seed, softcap)
        return output

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks = ctx.saved_tensors
        row_starts, scale, window, dropout, seed, softcap = ctx.settings
        gradient = upstream[0].to(query.dtype).transpose(0, 1)  # [heads, tokens, head]
        (heads, tokens, _), size = query.shape, value.shape[2]
        key_heads, group = key.shape[0], heads // key.shape[0]
        # In a long row many blocks add to one key's gradient: accumulated in float32, since bfloat16 would lose them.
        several = max(end - start for start, end in pairwise(row_starts)) > QUERY_BLOCK
        sums = torch.float32 if several else query.dtype
        query_gradient = torch.zeros_like(query)
        key_gradient, value_gradient = (torch.zeros_like(states, dtype=sums) for states in (key, value))
        sink_gradient = None if sinks is None else torch.zeros(heads, dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed) if dropout else None
        for block in _blocks(row_starts, tokens, window):
            asked = _grouped(query, block.queries, key_heads)
            weights, slope = _weights(asked, key[:, block.keys], scale, window, group, softcap, sinks)
            kept = _kept(weights, dropout, generator) if generator is not None else None
            # The queries that widen the block have no gradient, so they add nothing to any key or value.
            given = gradient.new_zeros(heads, block.queries.stop - block.queries.start, size)
            given[:, block.part] = gradient[:, block.own]
            given = given.view(key_heads, -1, size)
            passed_on = weights if kept is None else weights * kept
            value_gradient[:, block.keys] += torch.bmm(passed_on.transpose(1, 2), given)
            weight_gradient = torch.bmm(given, value[:, block.keys].transpose(1, 2))
            if kept is not None:
                weight_gradient *= kept
            score_gradient = torch._softmax_backward_data(weight_gradient, weights, -1, weights.dtype)
            if sink_gradient is not None:  # a sink has no value: what it takes from the others is its gradient
                of_sink = (weights.sum(-1) - 1) * (weights * weight_gradient).sum(-1)
                sink_gradient += of_sink.float().view(heads, -1).sum(-1)
            if slope is not None:
                score_gradient *= slope
            score_gradient *= scale
            found = torch.bmm(score_gradient, key[:, block.keys]).view(heads, -1, query.shape[2])
            query_gradient[:, block.own] = found[:, block.part]
            key_gradient[:, block.keys] += torch.bmm(score_gradient.transpose(1, 2), asked)
        of_sinks = None if sinks is None or sink_gradient is None else sink_gradient.to(sinks.dtype)
        return query_gradient, key_gradient.to(key.dtype), value_gradient.to(value.dtype), of_sinks, *[None] * 6


class _Block(NamedTuple):
    """Queries and the keys they see, both ending at the same token; results of `own`, `part` of the queries, are used.

    A widened block has other tokens' queries after its own, whose results are discarded; the keys there are in the
    future of the block's own queries and are masked.
    """

    queries: slice
    keys: slice
    own: slice
    part: slice


def _blocks(row_starts: list[int], tokens: int, window: int | None) -> Iterator[_Block]:
    """The blocks of each row: queries with all keys back to the row's start, or to the start of the window."""
    for start, end in pairwise(row_starts):
        for first in range(start, end, QUERY_BLOCK):
            last = min(first + QUERY_BLOCK, end)
            oldest = start if window is None else max(start, first - window + 1)
            wide = min(first + _rounded_up(last - first), tokens)
            yield _Block(slice(first, wide), slice(oldest, wide), slice(first, last), slice(0, last - first))


def _rounded_up(length: int) -> int:
    return -(-length // SHAPE_STEP) * SHAPE_STEP


def _grouped(states: Tensor, queries: slice, key_heads: int) -> Tensor:
    """[heads, tokens, head] -> [key heads, group x queries, head]: the queries that share a key head, side by side."""
    return states[:, queries].reshape(key_heads, -1, states.shape[-1])


def _weights(
    query: Tensor,
    key: Tensor,
    scale: float,
    window: int | None,
    group: int,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Softmax over the visible keys, and the slope of the soft cap, if any: [key heads, group x queries, keys]."""
    queries, keys = query.shape[1] // group, key.shape[1]
    older = keys - queries  # the queries are the last of the keys
    kept = 1 << max(older - 1, 0).bit_length()
    hidden = _hidden(kept, window, query.dtype)[:queries, kept - older : kept + queries]
    scores = torch.bmm(query, key.transpose(1, 2)).mul_(scale)
    slope = None
    if softcap is not None:
        share = scores.div_(softcap).tanh_()
        slope, scores = 1 - share * share, share * softcap
    scores.view(-1, group, queries, keys).add_(hidden)
    if sinks is None:
        return torch.softmax(scores, dim=-1), slope
    of_head = sinks.to(scores.dtype).view(-1, group, 1, 1).expand(-1, -1, queries, 1).reshape(len(scores), -1, 1)
    return torch.softmax(torch.cat([scores, of_head], dim=-1), dim=-1)[..., :-1].contiguous(), slope


@lru_cache(maxsize=8)
def _hidden(older: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """-inf where a query must not see a key, else 0: [QUERY_BLOCK, older + QUERY_BLOCK].

    Query i is at key `older` + i; a block with fewer queries or keys uses a part of it.
    """
    distance = torch.arange(QUERY_BLOCK)[:, None] + older - torch.arange(older + QUERY_BLOCK)
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)


def _kept(weights: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """1 / (1 - dropout) where a weight is kept, 0 where it is dropped."""
    return torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)
