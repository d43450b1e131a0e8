"""Running a causal language model with a cache: prompts as flat rows, then one token a row and step.

The cache is allocated once: a row owns a slot, [key heads, width, head] in every layer, from its first token to its
last. All rows that are being continued go through the model together, one token each, as one flat sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from tunelab.errors import ModelError
from tunelab.models.forward import attention_of_flat_rows, flat_positions, padded_tokens, underlying

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
            # Zeros: what lies behind a row's end is multiplied with weights of 0, and must be a number.
            self.keys[number], self.values[number] = (like.new_zeros(shape, dtype=dtype) for _ in range(2))
        return self.keys[number], self.values[number]

    def move(self, source: int, target: int) -> None:
        """Copy what a slot holds to another."""
        for states in (*self.keys.values(), *self.values.values()):
            states[target] = states[source]

    def reshape(self, slots: int, width: int, used: int) -> None:
        """More, narrower slots (or fewer, wider ones), keeping what the first `used` hold."""
        kept = min(width, self.width)
        for layers in (self.keys, self.values):
            for number, states in layers.items():
                fresh = states.new_zeros(slots, states.shape[1], width, states.shape[3])
                fresh[:used, :, :kept] = states[:used, :, :kept]
                layers[number] = fresh
        self.slots, self.width = slots, width


@dataclass(frozen=True)
class _Prompts:
    """New rows, whole: where they begin in the flat sequence, and the slots they go to."""

    cache: KeyValueCache
    row_starts: list[int]
    slots: Sequence[int]


@dataclass(frozen=True)
class _NextTokens:
    """One token of each row: the row in slot i has its token at position `positions[i]`."""

    cache: KeyValueCache
    positions: Tensor  # [rows]
    longest: int
    masks: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 for keys that a row sees, -inf for others: [rows, 1, 1, keys]. As numbers, which attention would make of
        truth values in every layer anew."""
        if (window, dtype) not in self.masks:
            keys = min(-(-(self.longest + 1) // KEYS_STEP) * KEYS_STEP, self.cache.width)
            distance = self.positions[:, None] - torch.arange(keys, device=self.positions.device)
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
            self.masks[window, dtype] = mask[:, None, None]
        return self.masks[window, dtype]


@contextmanager
def cached_attention(model: nn.Module) -> Iterator[None]:
    """While the block runs, the model's attention reads and writes a KeyValueCache; afterwards it is what it was."""
    base = underlying(model)
    before = base.config._attn_implementation
    base.set_attn_implementation(CACHED_ATTENTION)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


def read_prompts(
    model: nn.Module, cache: KeyValueCache, prompts: Sequence[Sequence[int]], slots: Sequence[int]
) -> Tensor:
    """Put prompts into slots; gives the hidden state of each prompt's last token, [prompts, hidden].

    Call it inside `with cached_attention(model)`.
    """
    device = underlying(model).get_input_embeddings().weight.device
    starts = [0]
    for prompt in prompts:
        starts.append(starts[-1] + len(prompt))
    row_starts = torch.tensor(starts, device=device)
    input_ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
    padding = padded_tokens(starts[-1], device) - starts[-1]
    hidden = _hidden_states(
        model,
        functional.pad(input_ids, (0, padding)),
        functional.pad(flat_positions(row_starts, starts[-1]), (0, padding)),
        _Prompts(cache, starts, slots),
    )
    return hidden[row_starts[1:] - 1]


def read_next_tokens(model: nn.Module, cache: KeyValueCache, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
    """Add a token to each of the rows in slots 0, 1, ...; gives their hidden states, [rows, hidden].

    Call it inside `with cached_attention(model)`.
    """
    device = underlying(model).get_input_embeddings().weight.device
    places = torch.tensor(positions, device=device)
    return _hidden_states(
        model, torch.tensor(tokens, device=device), places, _NextTokens(cache, places, max(positions))
    )


def _hidden_states(model: nn.Module, input_ids: Tensor, positions: Tensor, rows: _Prompts | _NextTokens) -> Tensor:
    output = underlying(model).base_model(
        input_ids=input_ids[None], position_ids=positions[None], use_cache=False, cached_rows=rows
    )
    return cast(Tensor, output.last_hidden_state[0])


def _cached_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cached_rows: _Prompts | _NextTokens | None = None,
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
    if isinstance(cached_rows, _Prompts):
        starts = cached_rows.row_starts
        for slot, start, end in zip(cached_rows.slots, starts, starts[1:], strict=False):
            keys[slot, :, : end - start] = key[0, :, start:end]
            values[slot, :, : end - start] = value[0, :, start:end]
        attended = attention_of_flat_rows(
            module, query, key, value, starts, scaling=scaling, sliding_window=sliding_window, **kwargs
        )
        return attended, None
    rows, key_heads, size = query.shape[2], key.shape[1], query.shape[3]
    slots = torch.arange(rows, device=query.device)
    keys[slots, :, cached_rows.positions] = key[0].transpose(0, 1).to(keys.dtype)
    values[slots, :, cached_rows.positions] = value[0].transpose(0, 1).to(values.dtype)
    mask = cached_rows.mask(sliding_window, keys.dtype)
    seen = mask.shape[-1]
    with torch.autocast(query.device.type, enabled=False):
        attended = functional.scaled_dot_product_attention(
            # The queries of one key head in place of a length: grouped queries need no copies of keys.
            query[0].transpose(0, 1).reshape(rows, key_heads, -1, size).to(keys.dtype),
            keys[:rows, :, :seen],
            values[:rows, :, :seen],
            attn_mask=mask,
            scale=scaling,
        )  # [rows, key heads, group, head]
    return attended.reshape(1, rows, -1, size).to(value.dtype), None


AttentionInterface.register(CACHED_ATTENTION, _cached_attention_forward)
