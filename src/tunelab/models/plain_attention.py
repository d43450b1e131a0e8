"""Attention written out, for what torch's kernels lack: a soft cap on scores (Gemma 2), attention sinks (gpt-oss)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hidden: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scores) times value: [rows, heads, queries, value head].

    Args:
        query: [rows, heads, queries, head].
        key, value: [rows, key heads, keys, head]; heads is a multiple of key heads (grouped queries).
        hidden: -inf where a query must not see a key, else 0: broadcasts to [rows, heads, queries, keys].
        scale: scores are multiplied by it.
        softcap: scores are then softcap x tanh(score / softcap); Gemma team 2024.
        sinks: [heads], a score to which each head attends without a value: weights sum to less than 1.
        dropout: share of the weights dropped, the rest scaled up.
    """
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = (states.repeat_interleave(group, dim=1) for states in (key, value))
    scores = query @ key.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + hidden
    if sinks is None:
        weights = torch.softmax(scores, dim=-1)
    else:
        extra = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:-1], 1)
        weights = torch.softmax(torch.cat([scores, extra], dim=-1), dim=-1)[..., :-1]
    return functional.dropout(weights, dropout) @ value


def as_scores(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask, true where a query sees a key, as what is added to scores: 0, else -inf."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
