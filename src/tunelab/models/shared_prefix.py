"""Running rows that share a prefix: its keys and values are computed once, and each row only adds its own.

The rows are end to end in one packed sequence, as in forward.py; their positions continue after the prefix. A token
attends to the whole prefix and to the earlier tokens of its own row.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from tunelab.errors import ModelError
from tunelab.models.flash_attention import RowBorders, flash_attention, masked_attention, takes_flash
from tunelab.models.forward import (
    attention_set_to,
    backbone,
    packed_positions,
    packed_sequence_attention,
    padded_tokens,
    underlying,
)
from tunelab.models.page_locked import copied
from tunelab.models.plain_attention import as_scores, plain_attention

PREFIX_ATTENTION = "tunelab_shared_prefix"

#: Rows per attention call on a CPU, padded to the longest of them.
LINES_AT_ONCE = 8


@dataclass
class SharedPrefix:
    """Keys and values of a prefix of `length` tokens, layer by layer: [key heads, length, head] each."""

    length: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pass:
    """One pass through the model: over the prefix itself (`prefix` is still empty), or over rows that follow it."""

    prefix: SharedPrefix
    #: The rows' own tokens, and these behind the prefix: what FlashAttention is asked, and what it sees.
    rows: RowBorders
    with_prefix: RowBorders
    is_prefix: bool
    #: Places of the rows' tokens in the packed sequence, one row per line, the last place repeated to the longest row;
    #: LINES_AT_ONCE rows each, so that a long row does not widen all others.
    lines: list[Tensor]
    #: The inverse: the place of each token of these rows in a part of `lines`, flattened.
    back: list[Tensor]


def prefix_attention(model: nn.Module) -> AbstractContextManager[None]:
    """Within the block, the model's attention supports shared prefixes; on exit its own is restored."""
    return attention_set_to(model, PREFIX_ATTENTION)


def read_prefix(model: nn.Module, tokens: Sequence[int]) -> SharedPrefix:
    """Keys and values of these tokens in every layer. Call it inside `with prefix_attention(model)`."""
    prefix = SharedPrefix(len(tokens))
    if tokens:
        _run(model, prefix, [tokens], is_prefix=True)
    return prefix


def read_after_prefix(model: nn.Module, prefix: SharedPrefix, rows: Sequence[Sequence[int]]) -> Tensor:
    """Last hidden states of rows that follow the prefix, end to end: [tokens of all rows, hidden].

    Call it inside `with prefix_attention(model)`, for rows of at least one token.

    Args:
        prefix: from read_prefix(); length 0 means no prefix.
        rows: the tokens of each row after the prefix.
    """
    return _run(model, prefix, rows, is_prefix=False)


def _run(model: nn.Module, prefix: SharedPrefix, rows: Sequence[Sequence[int]], *, is_prefix: bool) -> Tensor:
    device = underlying(model).device
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    tokens = starts[-1]
    flat = torch.tensor([token for row in rows for token in row])
    row_starts = torch.tensor(starts)
    positions = packed_positions(row_starts, tokens)
    if not is_prefix:
        positions = positions + prefix.length
    padding = padded_tokens(tokens, device) - tokens
    lines, back = _lines(row_starts) if device.type == "cpu" else ([], [])
    with_prefix = RowBorders([start + number * prefix.length for number, start in enumerate(starts)])
    hidden = backbone(model)(
        input_ids=copied(functional.pad(flat, (0, padding))[None], device),
        position_ids=copied(functional.pad(positions, (0, padding))[None], device),
        use_cache=False,
        prefix_pass=_Pass(prefix, RowBorders(starts), with_prefix, is_prefix, lines, back),
    ).last_hidden_state[0]
    return cast(Tensor, hidden[:tokens])


def _lines(row_starts: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Places of rows in lines of LINES_AT_ONCE, and the inverse, see _Pass: for the CPU's kernels."""
    lines, back = [], []
    for first in range(0, len(row_starts) - 1, LINES_AT_ONCE):
        borders = row_starts[first : first + LINES_AT_ONCE + 1]
        begins, lengths = borders[:-1, None], borders.diff()[:, None]
        steps = torch.arange(int(lengths.max()))[None]
        lines.append(begins + torch.minimum(steps, lengths - 1))
        back.append((torch.arange(len(begins))[:, None] * steps.shape[1] + steps)[steps < lengths])
    return lines, back


def _prefix_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    prefix_pass: _Pass | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, tokens, head], key and value [1, key heads, tokens, head] -> [1, tokens, heads, head]."""
    number = getattr(module, "layer_idx", None)
    if prefix_pass is None or number is None:
        raise ModelError(
            f"{type(module).__name__} does not pass its rows to its attention, or does not number its layers",
            "this architecture cannot share prefixes; tunelab supports attention-only decoders",
        )
    prefix, rows = prefix_pass.prefix, prefix_pass.rows
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast, rotary embeddings give float32
    if prefix_pass.is_prefix:
        prefix.keys[number], prefix.values[number] = (states[0, :, : prefix.length].clone() for states in (key, value))
    if prefix_pass.is_prefix or not prefix.length:
        return packed_sequence_attention(
            module, query, key, value, rows, scaling=scaling, sliding_window=sliding_window, **kwargs
        ), None
    seen = prefix_pass.with_prefix
    window = sliding_window if sliding_window is not None and sliding_window < seen.longest else None
    shared = (prefix.keys[number], prefix.values[number])
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    states = (query[0], key[0], value[0])
    softcap, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
    if takes_flash(query, key, value, len(rows.starts) - 1, softcap=softcap, sinks=sinks):
        return _flash(*states, *shared, rows, seen, scale, window)[None], None
    is_plain = softcap is None and sinks is None and query.shape[-1] == value.shape[-1]
    if query.is_cuda or window is not None or not is_plain:
        return _row_by_row(*states, *shared, rows.starts, scale, window, softcap, sinks)[None], None
    return _in_two_parts(*states, *shared, prefix_pass, scale)[None], None


def _in_two_parts(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor, rows: _Pass, scale: float
) -> Tensor:
    """Attention to the prefix and to the row itself, each by its own kernel, weighted by their sums of exponentials.

    With l = log sum exp(scores) of a part, the whole is out_own + (out_prefix - out_own) * sigmoid(l_prefix - l_own).
    (The same identity joins the blocks of FlashAttention: Dao et al. 2022, section 3.1.)

    Args:
        query: [heads, tokens, head]; tokens after the last row (padding) give zeros.
        key, value: [key heads, tokens, head].
        prefix_key, prefix_value: [key heads, prefix, head].

    Returns:
        [tokens, heads, head].
    """
    heads, tokens, size = query.shape
    key_heads, used = key.shape[0], rows.rows.starts[-1]
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with torch.autocast("cpu", enabled=False):
        # Every query sees the whole prefix: the queries that share a key head are one long list.
        asked = query[:, :used].reshape(1, key_heads, -1, size)
        to_prefix, weight_of_prefix = attend(asked, prefix_key[None], prefix_value[None], scale=scale)
        to_prefix = to_prefix.reshape(heads, used, size)
        weight_of_prefix = weight_of_prefix.reshape(heads, used, 1)
        # One row per line, padded at the end with tokens that no token sees and whose results are discarded.
        to_rows, weights = [], []
        for places, back in zip(rows.lines, rows.back, strict=True):
            asked, *seen = (states[:, places].transpose(0, 1) for states in (query, key, value))
            if heads != key_heads:
                seen = [states.repeat_interleave(heads // key_heads, dim=1) for states in seen]
            attended, weight = attend(asked, *seen, is_causal=True, scale=scale)  # [rows, heads, longest, head]
            to_rows.append(attended.transpose(0, 1).reshape(heads, -1, size)[:, back])
            weights.append(weight.transpose(0, 1).reshape(heads, -1, 1)[:, back])
        to_row, weight_of_row = torch.cat(to_rows, dim=1), torch.cat(weights, dim=1)
        share = torch.sigmoid(weight_of_prefix - weight_of_row).to(query.dtype)
        output = query.new_zeros(tokens, heads, size)
        output[:used] = torch.lerp(to_row, to_prefix, share).transpose(0, 1)
    return output


def _row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    row_starts: list[int],
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """For sliding windows, soft caps and sinks, and for what FlashAttention does not take: a call per row. Shapes as
    above."""
    length, outputs = prefix_key.shape[1], []
    for start, end in pairwise(row_starts):
        keys, values = (
            torch.cat([shared, states[:, start:end]], dim=1)[None]
            for shared, states in ((prefix_key, key), (prefix_value, value))
        )
        places = torch.arange(length + end - start, device=query.device)
        distance = places[length:, None] - places[None]
        visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        asked = query[None, :, start:end]
        if softcap is None and sinks is None:
            found = masked_attention(asked, (keys, values), visible, scale=scale)
        else:
            hidden = as_scores(visible, query.dtype)
            found = plain_attention(asked, keys, values, hidden, scale=scale, softcap=softcap, sinks=sinks)
        outputs.append(found[0])
    outputs.append(query.new_zeros(query.shape[0], query.shape[1] - row_starts[-1], value.shape[2]))
    return torch.cat(outputs, dim=1).transpose(0, 1)


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    rows: RowBorders,
    seen: RowBorders,
    scale: float,
    window: int | None,
) -> Tensor:
    """FlashAttention over rows whose keys begin with the prefix's. Shapes as above."""
    keys, values = (
        torch.cat([part for start, end in pairwise(rows.starts) for part in (shared, states[:, start:end])], dim=1)
        for shared, states in ((prefix_key, key), (prefix_value, value))
    )
    tokens = rows.starts[-1]
    attended = flash_attention(query[:, :tokens], keys, values, rows, seen, window=window, scale=scale)
    return functional.pad(attended, (0, 0, 0, 0, 0, query.shape[1] - tokens))


AttentionInterface.register(PREFIX_ATTENTION, _prefix_attention_forward)
