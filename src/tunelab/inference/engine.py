"""Answers to tokenized prompts by continuous batching: many rows at once, new ones admitted as others finish.

A model's own `generation_config` (temperature, maximum length, forced tokens, ...) is ignored: only the arguments here
decide. A row's answer does not depend on the other rows of its batch, up to the rounding of the dtype.

Prompts run without padding, end to end (models/key_value_cache.py). After that each step runs one token of every row; a
row that ends leaves at once, and the next prompt takes its slot.

Architectures that cannot be run this way (recurrent states, learned positions, ...) answer by transformers' own
`generate` (own_generation.py).
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from tunelab.errors import ModelError
from tunelab.inference.row import Generation, Row, finished, new_row, seen_tokens
from tunelab.inference.sampling import Decoding, next_tokens
from tunelab.models.modes import evaluation_mode, one_at_a_time

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from tunelab.inference.own_generation import AtOnce
    from tunelab.models.key_value_cache import KeyValueCache
    from tunelab.models.onednn_weights import OneDnnWeights
    from tunelab.models.structure import Structure

#: Size of a group, in batches: rows share slots only within a group, so that a group can be computed again alone.
BATCHES_PER_GROUP = 8

#: Slots grow in steps of this many tokens: fewer widths, so that the cache is laid out again less often.
WIDTH_STEP = 64

_onednn_weights: WeakKeyDictionary[nn.Module, OneDnnWeights] = WeakKeyDictionary()


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    stop_token_ids: Collection[int],
    micro_batch_tokens: int = 4096,
    skip: Collection[int] = (),
) -> Iterator[Generation]:
    """The continuation of each prompt, with its index, in the order in which they end; longest rows first.

    Rows are computed in groups that depend on all prompts and on micro_batch_tokens, never on `skip`: a stopped run
    that resumes with what is missing computes its answers exactly as an uninterrupted run does.

    Args:
        model: a causal language model of transformers, or PEFT's wrapper of one; in evaluation mode meanwhile.
        tokenizer: decodes the answers; its padding settings are not used.
        prompts: token ids of each prompt, at least one token each.
        stop_token_ids: an answer ends before the first of these; none = only length and stop strings end it.
        micro_batch_tokens: maximum tokens in the cache, prompts and room for the answers; a prompt that alone needs
            more runs alone.
        skip: indices to skip; a group is not run if all of it is skipped.

    Raises:
        ModelError: a prompt is empty, or fills the model's context and leaves no room for an answer.
    """
    from tunelab.inference.own_generation import answered_by_model
    from tunelab.models.forward import longrope_border, underlying
    from tunelab.models.onednn_weights import OneDnnWeights
    from tunelab.models.structure import check_own_logits, structure_of

    check_own_logits(model)
    structure = structure_of(underlying(model))
    weights: OneDnnWeights | None = None
    context = context_length(model)
    room = _room(prompts, decoding.max_new_tokens, context)
    border = longrope_border(model)
    needs = [len(prompt) + more for prompt, more in zip(prompts, room, strict=True)]
    for group in _groups(needs, micro_batch_tokens, alone_above=border):
        if all(index in skip for index in group):
            continue
        waiting = [new_row(index, prompts[index], room[index], decoding, tokenizer, False) for index in group]
        if structure.cached:
            ended = answered_by_model(
                model, waiting, decoding, stop_token_ids, micro_batch_tokens, skip, at_once=_at_once(structure)
            )
            yield from (finished(row, tokenizer, decoding) for row in ended if row.index not in skip)
            continue
        with one_at_a_time(model):  # while another thread computes, the layers are not as they are
            weights = weights or OneDnnWeights(model)
        batch = _Batch(model, weights, waiting, decoding, stop_token_ids, micro_batch_tokens, border)
        while not batch.is_done:
            for row in _advance(batch, until_one_ends=True):
                if row.ended and row.index not in skip:
                    yield finished(row, tokenizer, decoding)


def _at_once(structure: Structure) -> AtOnce:
    """Which rows transformers' own `generate` answers at once."""
    if structure.side_by_side:
        return "one"
    return "equal" if structure.left_padded else "padded"


def stream(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    decoding: Decoding,
    *,
    stop_token_ids: Collection[int],
) -> Generator[str, None, Generation]:
    """The answer to one prompt in pieces of text, as they are generated; the generator returns the Generation.

    A piece ends at a character's end and has no part of a stop string. Closing the generator ends the answer.

    Raises:
        ModelError: as generate() does.
    """
    from tunelab.inference.own_generation import streamed_by_model
    from tunelab.models.forward import longrope_border, underlying
    from tunelab.models.structure import check_own_logits, structure_of

    check_own_logits(model)
    room = _room([prompt_ids], decoding.max_new_tokens, context_length(model))[0]
    row = new_row(0, prompt_ids, room, decoding, tokenizer, True)
    if structure_of(underlying(model)).cached:
        yield from streamed_by_model(model, row, decoding, stop_token_ids)
        return finished(row, tokenizer, decoding)
    batch = _Batch(model, _prepacked(model), [row], decoding, stop_token_ids, row.need, longrope_border(model))
    assert row.text is not None
    while not batch.is_done:
        for _ in _advance(batch, until_one_ends=False):
            if row.ended:
                row.text.finish()
            if piece := row.text.new_piece(last=bool(row.ended)):
                yield piece
    return finished(row, tokenizer, decoding)


def _advance(batch: _Batch, *, until_one_ends: bool) -> list[Row]:
    """One step of a batch, or steps until a row ends; returns the rows of the last step.

    The model is set up for it meanwhile; afterwards its own state is restored.
    """
    import torch

    from tunelab.models.key_value_cache import cached_attention

    with evaluation_mode(batch.model), cached_attention(batch.model), batch.weights.used(), torch.no_grad():
        rows = batch.step()
        while until_one_ends and not any(row.ended for row in rows):
            rows = batch.step()
    return rows


def _prepacked(model: nn.Module) -> OneDnnWeights:
    """For answers one at a time: prepacked once for as long as the model lives, or until its weights change."""
    from tunelab.models.onednn_weights import OneDnnWeights

    with one_at_a_time(model):
        weights = _onednn_weights.get(model)
        if weights is None or not weights.is_current:
            weights = _onednn_weights[model] = OneDnnWeights(model)
        return weights


class _Batch:
    """Rows that are generated together, and those that wait for a slot. Slot i has active row i."""

    def __init__(
        self,
        model: nn.Module,
        weights: OneDnnWeights,
        waiting: list[Row],
        decoding: Decoding,
        stop_token_ids: Collection[int],
        micro_batch_tokens: int,
        longrope_border: int | None,
    ) -> None:
        from tunelab.models.head import output_head
        from tunelab.models.key_value_cache import KeyValueCache

        self.model, self.weights, self.decoding, self.stop_token_ids = model, weights, decoding, stop_token_ids
        self.micro_batch_tokens, self.longrope_border = micro_batch_tokens, longrope_border
        self.waiting = waiting[::-1]  # the next one last
        self.active: list[Row] = []
        self.head = output_head(model)
        width = _rounded(waiting[0].need)
        self.cache: KeyValueCache = KeyValueCache(_slots(micro_batch_tokens, width, len(waiting)), width)

    @property
    def is_done(self) -> bool:
        return not (self.waiting or self.active)

    def step(self) -> list[Row]:
        """A token for every active row, those just admitted included; returns these rows."""
        continued = len(self.active)
        self._admit()
        rows = list(self.active)
        logits = self.head(self._read(continued)).float()  # [rows, vocabulary]
        drawn = [row.randomness[len(row.answer)] if row.randomness else 0.0 for row in rows]
        tokens = next_tokens(logits, self.decoding, drawn, seen_tokens(rows, logits, self.decoding))
        for row, token in zip(rows, tokens, strict=True):
            row.add(token, self.decoding, self.stop_token_ids)
        self._remove_ended()
        return rows

    def _admit(self) -> None:
        """Give free slots to waiting rows. If all rows left need half a slot or less, slots get narrower."""
        if not self.waiting:
            return
        width = _rounded(max(row.need for row in (*self.active, self.waiting[-1])))
        if width <= self.cache.width // 2:
            slots = _slots(self.micro_batch_tokens, width, len(self.active) + len(self.waiting))
            self.cache.reshape(max(slots, len(self.active)), width, len(self.active))
        count = min(self.cache.slots - len(self.active), len(self.waiting))
        self.active += [self.waiting.pop() for _ in range(count)]

    def _read(self, continued: int) -> Tensor:
        """Last hidden states [active rows, hidden]: the first `continued` read one token, the others all theirs."""
        from tunelab.models.key_value_cache import read_tokens

        lengths = [len(row.prompt) + len(row.answer) for row in self.active]
        if self.longrope_border is not None and lengths[0] == self.longrope_border + 1:
            # Its frequencies change here, for earlier tokens too: such a row is alone, and is read again.
            continued = 0
        return read_tokens(
            self.model,
            self.cache,
            [row.answer[-1] for row in self.active[:continued]],
            [length - 1 for length in lengths[:continued]],
            [[*row.prompt, *row.answer] for row in self.active[continued:]],
            range(continued, len(self.active)),
        )

    def _remove_ended(self) -> None:
        """Move the last active row into the slot of each row that ended."""
        for slot in range(len(self.active) - 1, -1, -1):
            if self.active[slot].ended:
                last = len(self.active) - 1
                if slot != last:
                    self.cache.move(last, slot)
                    self.active[slot] = self.active[last]
                self.active.pop()


def _rounded(tokens: int) -> int:
    return -(-tokens // WIDTH_STEP) * WIDTH_STEP


def _slots(micro_batch_tokens: int, width: int, rows: int) -> int:
    return max(1, min(micro_batch_tokens // width, rows))


def _groups(needs: Sequence[int], micro_batch_tokens: int, alone_above: int | None) -> Iterator[list[int]]:
    """Indices in groups, longest first (so that a lack of memory shows at once), ties in the given order.

    A row that may grow longer than `alone_above` is its own group.
    """
    group: list[int] = []
    for index in sorted(range(len(needs)), key=lambda i: -needs[i]):
        if group:
            widest = needs[group[0]]
            alone = alone_above is not None and widest > alone_above
            slots = max(1, micro_batch_tokens // _rounded(widest))
            if alone or len(group) >= slots * BATCHES_PER_GROUP:
                yield group
                group = []
        group.append(index)
    if group:
        yield group


def context_length(model: nn.Module) -> int | None:
    """The model's number of positions; None if its config does not say (then nothing is cut)."""
    from tunelab.models.forward import underlying

    length = getattr(underlying(model).config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def _room(prompts: Sequence[Sequence[int]], max_new_tokens: int, context: int | None) -> list[int]:
    """Maximum new tokens of each row: max_new_tokens, or what the context leaves after its prompt."""
    room = []
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise ModelError(f"prompt {index} is empty: a model needs at least one token to continue")
        if context is not None and len(prompt) >= context:
            raise ModelError(
                f"prompt {index} has {len(prompt)} tokens and the model's context {context}: no room for an answer",
                "skip the item, or shorten its prompt",
            )
        room.append(max_new_tokens if context is None else min(max_new_tokens, context - len(prompt)))
    return room
