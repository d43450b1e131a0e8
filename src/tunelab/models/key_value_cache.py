"""Running a causal language model with a KV cache: prompts as packed sequences, then one token per row and step.

The cache is allocated once: a row owns a slot, [key heads, width, head] in every layer, from its first token to its
last. All active rows go through the model together, one token each, as one packed sequence.
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
from tunelab.models.flash_attention import RowBorders
from tunelab.models.forward import (
    attention_set_to,
    backbone,
    packed_positions,
    packed_sequence_attention,
    padded_tokens,
    underlying,
)
from tunelab.models.page_locked import copied
from tunelab.models.plain_attention import plain_attention

CACHED_ATTENTION = "tunelab_cached"

#: The number of keys read is rounded up to a multiple of this: fewer shapes, since a kernel may be compiled for each.
KEYS_STEP = 32


class KeyValueCache:
    """Keys and values of `slots` rows of at most `width` tokens."""

    def __init__(self, slots: int, width: int) -> None:
        self.slots, self.width = slots, width
        self.keys: dict[int, Tensor] = {}  # layer -> [slots, key heads, width, head]
        self.values: dict[int, Tensor] = {}

    def layer(self, number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer, allocated on first use; key and value are [1, key heads, tokens, head]."""
        if number not in self.keys:
            # torch's attention over single tokens is several times slower in bfloat16 than in float32 on a CPU.
            dtype = torch.float32 if key.device.type == "cpu" else key.dtype
            self.keys[number], self.values[number] = (
                _zeros((self.slots, like.shape[1], self.width, like.shape[3]), dtype, like.device)
                for like in (key, value)
            )
        return self.keys[number], self.values[number]

    def move(self, source: int, target: int) -> None:
        """Copy the contents of a slot to another."""
        for states in (*self.keys.values(), *self.values.values()):
            states[target] = states[source]

    def reshape(self, slots: int, width: int, used: int) -> None:
        """More, narrower slots. The first `used` slots keep their contents, which must fit into `width` tokens."""
        for layers in (self.keys, self.values):
            for number, states in layers.items():
                fresh = _zeros((slots, states.shape[1], width, states.shape[3]), states.dtype, states.device)
                fresh[:used] = states[:used, :, :width]
                layers[number] = fresh
        self.slots, self.width = slots, width


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros: values after a row's end are multiplied by weights of 0, so they must be finite.

    On the CPU numpy allocates them: fresh memory is zero without being written, and most of a wide slot is never used.
    """
    if device.type == "cpu" and dtype == torch.float32:
        return torch.from_numpy(np.zeros(shape, dtype=np.float32))
    return torch.zeros(shape, dtype=dtype, device=device)


@dataclass(frozen=True)
class _Rows:
    """One packed sequence: the next token of each of the rows in slots 0, 1, ..., then new rows in full.

    Args:
        positions: [active rows], the positions of their next tokens.
        slots: [active rows]: 0, 1, ...
        parts: slots that attend in one call, and how many keys that call reads.
        prompts: where the new rows begin and end, counted from the first token of the first of them.
        prompt_slots: the slot of each new row.
    """

    cache: KeyValueCache
    positions: Tensor
    slots: Tensor
    parts: list[tuple[slice, int]]
    prompts: RowBorders
    prompt_slots: Sequence[int]
    masks: dict[tuple[int | None, torch.dtype], list[Tensor]] = field(default_factory=dict)

    def part_masks(self, window: int | None, dtype: torch.dtype) -> list[Tensor]:
        """For each part a mask, 0 for keys that a row sees, -inf for others: [rows, 1, 1, keys].

        In floating point: attention would convert a boolean mask again in every layer.
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

    Attention over several rows reads as many keys for each as the longest row has. Rows are admitted longest first, so
    the few long ones tend to be in the first slots.
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
    """Within the block, the model's attention reads and writes a KeyValueCache; on exit its own is restored."""
    return attention_set_to(model, CACHED_ATTENTION)


def read_tokens(
    model: nn.Module,
    cache: KeyValueCache,
    tokens: Sequence[int],
    positions: Sequence[int],
    prompts: Sequence[Sequence[int]] = (),
    slots: Sequence[int] = (),
) -> Tensor:
    """Run the next token of each of the rows in slots 0, 1, ..., and new rows in full, in one pass.

    Call it inside `with cached_attention(model)`.

    Args:
        tokens, positions: of the active rows, in the order of their slots.
        prompts: all tokens of each new row.
        slots: the slot of each new row.

    Returns:
        The hidden state of each row's last token, active rows first: [rows, hidden].
    """
    device = underlying(model).device
    starts = [0]
    for prompt in prompts:
        starts.append(starts[-1] + len(prompt))
    flat = [*tokens, *(token for prompt in prompts for token in prompt)]
    padding = padded_tokens(len(flat), device) - len(flat) if prompts else 0
    own, prompt_starts = torch.tensor(positions, dtype=torch.long), torch.tensor(starts)
    places = torch.cat([own, packed_positions(prompt_starts, starts[-1])])
    last = torch.cat([torch.arange(len(tokens)), len(tokens) + prompt_starts[1:] - 1])
    # Made on the host and copied at once.
    together = [functional.pad(torch.tensor(flat), (0, padding)), functional.pad(places, (0, padding)), own, last]
    input_ids, places, own, last = torch.split(copied(torch.cat(together), device), [len(part) for part in together])
    slots_of_own = torch.arange(len(positions), device=device)
    hidden = backbone(model)(
        input_ids=input_ids[None],
        position_ids=places[None],
        use_cache=False,
        cached_rows=_Rows(cache, own, slots_of_own, _parts(positions, cache.width), RowBorders(starts), slots),
    ).last_hidden_state[0]
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
            f"{type(module).__name__} does not pass its rows to its attention, or does not number its layers",
            "tunelab cannot generate with this architecture: it supports attention-only decoders",
        )
    keys, values = cached_rows.cache.layer(number, key, value)
    active, starts = len(cached_rows.positions), cached_rows.prompts.starts
    parts = []
    if active:
        states = (query[0, :, :active], key[0, :, :active], value[0, :, :active])
        special = (kwargs.get("softcap"), kwargs.get("s_aux"))
        parts.append(_attention_of_next_tokens(cached_rows, *states, keys, values, scaling, sliding_window, *special))
    if len(starts) > 1:
        new_query, new_key, new_value = (states[:, :, active:] for states in (query, key, value))
        for slot, (start, end) in zip(cached_rows.prompt_slots, pairwise(starts), strict=True):
            keys[slot, :, : end - start] = new_key[0, :, start:end]
            values[slot, :, : end - start] = new_value[0, :, start:end]
        parts.append(
            packed_sequence_attention(
                module,
                new_query,
                new_key,
                new_value,
                cached_rows.prompts,
                scaling=scaling,
                sliding_window=sliding_window,
                **kwargs,
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
    softcap: float | None = None,
    s_aux: Tensor | None = None,
) -> Tensor:
    """Write one token per row to the cache, and let it attend to its row.

    Args:
        query: [heads, rows, head].
        key, value: [key heads, rows, head].
        keys, values: the layer's cache, [slots, key heads, width, head].
        softcap, s_aux: the soft cap of scores and the sinks [heads], see plain_attention().

    Returns:
        [1, rows, heads, value head].
    """
    key_heads, count, size = key.shape
    keys[rows.slots, :, rows.positions] = key.transpose(0, 1).to(keys.dtype)
    values[rows.slots, :, rows.positions] = value.transpose(0, 1).to(values.dtype)
    # The queries of a key head take the length dimension: grouped-query attention then needs no copies of keys.
    queries = query.transpose(0, 1).reshape(count, key_heads, -1, size).to(keys.dtype)
    sinks = None if s_aux is None else s_aux.to(keys.dtype)
    with torch.autocast(query.device.type, enabled=False):
        if softcap is not None or sinks is not None:
            parts = [
                _plainly(queries[part], keys[part, :, :seen], values[part, :, :seen], mask, scaling, softcap, sinks)
                for (part, seen), mask in zip(rows.parts, rows.part_masks(window, keys.dtype), strict=True)
            ]
            return torch.cat(parts).reshape(1, count, -1, value.shape[2]).to(value.dtype)
        attended = [
            functional.scaled_dot_product_attention(
                queries[part], keys[part, :, :seen], values[part, :, :seen], attn_mask=mask, scale=scaling
            )  # [rows, key heads, group, head]
            for (part, seen), mask in zip(rows.parts, rows.part_masks(window, keys.dtype), strict=True)
        ]
    together = attended[0] if len(attended) == 1 else torch.cat(attended)
    return together.reshape(1, count, -1, value.shape[2]).to(value.dtype)


def _plainly(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """plain_attention() of queries [rows, key heads, group, head], each of its own head: the same shape."""
    scale = scaling if scaling is not None else queries.shape[-1] ** -0.5
    each = queries.flatten(1, 2)[:, :, None]  # [rows, heads, 1, head]
    found = plain_attention(each, keys, values, mask, scale=scale, softcap=softcap, sinks=sinks)
    return found.view(*queries.shape[:3], values.shape[-1])


AttentionInterface.register(CACHED_ATTENTION, _cached_attention_forward)
