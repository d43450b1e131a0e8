"""Running a causal language model with a cache: prompts as flat rows, then one token a row and step.

The cache is allocated once: a row owns a slot, [key heads, width, head] in every layer, from its first token to its
last. All rows that are being continued go through the model together, one token each, as one flat sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from tunelab.errors import ModelError
from tunelab.models.forward import (
    attention_set_to,
    packed_positions,
    packed_sequence_attention,
    padded_tokens,
    underlying,
)

CACHED_ATTENTION = "tunelab_cached"

#: Keys that are read are rounded up to a multiple of this many: fewer shapes, each of which a kernel may be made for.
KEYS_STEP = 32


class KeyValueCache:
    """Keys and values of `slots` rows of at most `width` tokens."""

    def __init__(self, slots: int, width: int) -> None:
        self.slots, self.width = slots, width
        self.keys: dict[int, Tensor] = {}  # layer -> [slots, key heads, width, head]
        self.values: dict[int, Tensor] = {}

    def layer(self, number: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer, made at their first use; `like` is [1, key heads, tokens, head]."""
        if number not in self.keys:
            shape = (self.slots, like.shape[1], self.width, like.shape[3])
            # torch's attention over single tokens is several times slower in bfloat16 than in float32 on a CPU.
            dtype = torch.float32 if like.device.type == "cpu" else like.dtype
            self.keys[number], self.values[number] = (_zeros(shape, dtype, like.device) for _ in range(2))
        return self.keys[number], self.values[number]

    def move(self, source: int, target: int) -> None:
        """Copy what a slot holds to another."""
        for states in (*self.keys.values(), *self.values.values()):
            states[target] = states[source]

    def reshape(self, slots: int, width: int, used: int) -> None:
        """More, narrower slots, keeping what the first `used` hold; none of these may hold more than `width` tokens."""
        for layers in (self.keys, self.values):
            for number, states in layers.items():
                fresh = _zeros((slots, states.shape[1], width, states.shape[3]), states.dtype, states.device)
                fresh[:used] = states[:used, :, :width]
                layers[number] = fresh
        self.slots, self.width = slots, width


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros: what lies behind a row's end is multiplied with weights of 0, and must be a number.

    On the CPU from the C library, whose fresh memory is zero without being written: most of a wide slot is never used.
    """
    if device.type == "cpu" and dtype == torch.float32:
        return torch.from_numpy(np.zeros(shape, dtype=np.float32))
    return torch.zeros(shape, dtype=dtype, device=device)


@dataclass(frozen=True)
class _Rows:
    """What one flat sequence holds: a next token for each of the rows in slots 0, 1, ..., then new rows, whole.

    Args:
        positions: [rows that go on], where their next tokens stand.
        slots: [rows that go on]: 0, 1, ...
        parts: slots that attend in one call, and how many keys that call reads.
        prompt_starts: where the new rows begin and end, counted from the first token of the first of them.
        prompt_slots: where each of the new rows goes.
    """

    cache: KeyValueCache
    positions: Tensor
    slots: Tensor
    parts: list[tuple[slice, int]]
    prompt_starts: list[int]
    prompt_slots: Sequence[int]
    masks: dict[tuple[int | None, torch.dtype], list[Tensor]] = field(default_factory=dict)

    def part_masks(self, window: int | None, dtype: torch.dtype) -> list[Tensor]:
        """For each part 0 for keys that a row sees, -inf for others: [rows, 1, 1, keys].

        As numbers, which attention would make of truth values in every layer anew.
        """
        if (window, dtype) not in self.masks:
            self.masks[window, dtype] = [
                self._mask(self.positions[part], keys, window, dtype) for part, keys in self.parts
            ]
        return self.masks[window, dtype]

    @staticmethod
    def _mask(positions: Tensor, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
        distance = positions[:, None] - torch.arange(keys, device=positions.device)
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)[
            :, None, None
        ]


def _parts(positions: Sequence[int], width: int) -> list[tuple[slice, int]]:
    """Slots in one part, or in two where that saves reading an eighth of the keys.

    Attention over several rows reads as many keys of each as the longest has. Rows are admitted longest first, so
    that a few long ones tend to stand in the first slots.
    """

    def keys(longest: int) -> int:
        return min(-(-(longest + 1) // KEYS_STEP) * KEYS_STEP, width)

    count = len(positions)
    if not count:
        return []
    first = [keys(longest) for longest in accumulate(positions, max)]
    rest = [keys(longest) for longest in accumulate(reversed(positions), max)][::-1]
    border = min(range(1, count + 1), key=lambda i: i * first[i - 1] + (count - i) * (rest[i] if i < count else 0))
    if border == count or border * first[border - 1] + (count - border) * rest[border] > 7 / 8 * count * rest[0]:
        return [(slice(0, count), rest[0])]
    return [(slice(0, border), first[border - 1]), (slice(border, count), rest[border])]


def cached_attention(model: nn.Module) -> AbstractContextManager[None]:
    """While the block runs, the model's attention reads and writes a KeyValueCache; afterwards it is what it was."""
    return attention_set_to(model, CACHED_ATTENTION)


def read_tokens(
    model: nn.Module,
    cache: KeyValueCache,
    tokens: Sequence[int],
    positions: Sequence[int],
    prompts: Sequence[Sequence[int]] = (),
    slots: Sequence[int] = (),
) -> Tensor:
    """Run the next token of each of the rows in slots 0, 1, ..., and new rows, in one pass.

    Call it inside `with cached_attention(model)`.

    Args:
        tokens, positions: of the rows that go on, in the order of their slots.
        prompts: all tokens of each new row.
        slots: where they go.

    Returns:
        The hidden state of each row's last token, those that go on first: [rows, hidden].
    """
    device = underlying(model).get_input_embeddings().weight.device
    starts = [0]
    for prompt in prompts:
        starts.append(starts[-1] + len(prompt))
    next_positions = torch.tensor(positions, dtype=torch.long, device=device)
    next_slots = torch.arange(len(positions), device=device)
    prompt_starts = torch.tensor(starts, device=device)
    flat = [*tokens, *(token for prompt in prompts for token in prompt)]
    padding = padded_tokens(len(flat), device) - len(flat) if prompts else 0
    places = torch.cat([next_positions, packed_positions(prompt_starts, starts[-1])])
    hidden = (
        underlying(model)
        .base_model(
            input_ids=functional.pad(torch.tensor(flat, device=device), (0, padding))[None],
            position_ids=functional.pad(places, (0, padding))[None],
            use_cache=False,
            cached_rows=_Rows(cache, next_positions, next_slots, _parts(positions, cache.width), starts, slots),
        )
        .last_hidden_state[0]
    )
    last = torch.cat([next_slots, len(tokens) + prompt_starts[1:] - 1])
    return cast(Tensor, hidden[last])


def _cached_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cached_rows: _Rows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, tokens, head], key and value [1, key heads, tokens, head] -> [1, tokens, heads, head]."""
    number = getattr(module, "layer_idx", None)
    if cached_rows is None or number is None:
        raise ModelError(
            f"{type(module).__name__} does not pass its rows on to its attention, or does not number its layers",
            "this architecture cannot generate here; tunelab supports attention-only decoders",
        )
    keys, values = cached_rows.cache.layer(number, key)
    going_on, starts = len(cached_rows.positions), cached_rows.prompt_starts
    parts = []
    if going_on:
        states = (query[0, :, :going_on], key[0, :, :going_on], value[0, :, :going_on])
        parts.append(_attention_of_next_tokens(cached_rows, *states, keys, values, scaling, sliding_window))
    if len(starts) > 1:
        new_query, new_key, new_value = (states[:, :, going_on:] for states in (query, key, value))
        for slot, (start, end) in zip(cached_rows.prompt_slots, pairwise(starts), strict=True):
            keys[slot, :, : end - start] = new_key[0, :, start:end]
            values[slot, :, : end - start] = new_value[0, :, start:end]
        parts.append(
            packed_sequence_attention(
                module, new_query, new_key, new_value, starts, scaling=scaling, sliding_window=sliding_window, **kwargs
            )
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), None


def _attention_of_next_tokens(
    rows: _Rows,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Write a token of each row to the cache, and let it attend to its row.

    Args:
        query: [heads, rows, head].
        key, value: [key heads, rows, head].
        keys, values: the layer's cache, [slots, key heads, width, head].

    Returns:
        [1, rows, heads, head].
    """
    key_heads, count, size = key.shape
    keys[rows.slots, :, rows.positions] = key.transpose(0, 1).to(keys.dtype)
    values[rows.slots, :, rows.positions] = value.transpose(0, 1).to(values.dtype)
    # The queries of one key head in place of a length: grouped queries need no copies of keys.
    queries = query.transpose(0, 1).reshape(count, key_heads, -1, size).to(keys.dtype)
    with torch.autocast(query.device.type, enabled=False):
        attended = [
            functional.scaled_dot_product_attention(
                queries[part], keys[part, :, :seen], values[part, :, :seen], attn_mask=mask, scale=scaling
            )  # [rows, key heads, group, head]
            for (part, seen), mask in zip(rows.parts, rows.part_masks(window, keys.dtype), strict=True)
        ]
    together = attended[0] if len(attended) == 1 else torch.cat(attended)
    return together.reshape(1, count, -1, size).to(value.dtype)


AttentionInterface.register(CACHED_ATTENTION, _cached_attention_forward)
