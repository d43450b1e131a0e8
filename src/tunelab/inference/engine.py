"""Answers to tokenised prompts: many rows at once, each with its own end, new rows admitted as others finish.

A model's own `generation_config` (temperature, maximum length, forced tokens, ...) plays no part: what is asked for
here is all that decides. A row's answer does not depend on the rows beside it, up to the rounding of the dtype.

Prompts are run without padding, end to end (models/key_value_cache.py). After that each step runs one token of every
row; a row that ends leaves at once, and the next prompt takes its slot.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary, WeakSet

from tunelab.errors import ModelError
from tunelab.inference.sampling import Decoding, next_tokens, row_randomness
from tunelab.inference.text import GrowingText, decoded

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from tunelab.models.key_value_cache import KeyValueCache
    from tunelab.models.onednn_weights import OneDnnWeights

StopReason = Literal["stop", "length", "context"]

#: Rows in a group, in batches: rows are exchanged within a group only, so that a group can be computed again alone.
BATCHES_PER_GROUP = 8

#: Slots grow in steps of this many tokens: fewer widths, fewer times that the cache is laid out anew.
WIDTH_STEP = 64

_checked: WeakSet[nn.Module] = WeakSet()
_packed: WeakKeyDictionary[nn.Module, OneDnnWeights] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one prompt.

    Attributes:
        index: the prompt's place in the sequence that was given.
        token_ids: the answer, without the stop token that ended it; with all tokens of a stop string that did.
        text: the answer decoded, special tokens left out, cut before a stop string.
        stop_reason: "stop" = a stop token or stop string came; "length" = max_new_tokens were made; "context" = the
            model's context was full before either, so that the answer is shorter than was asked for.
        prompt_tokens: length of the prompt.
    """

    index: int
    token_ids: tuple[int, ...]
    text: str
    stop_reason: StopReason
    prompt_tokens: int


@dataclass(slots=True)
class _Row:
    """A row that is being continued."""

    index: int
    prompt: Sequence[int]
    room: int
    randomness: list[float]
    text: GrowingText | None
    answer: list[int] = field(default_factory=list)
    ended: StopReason | None = None

    @property
    def need(self) -> int:
        return len(self.prompt) + self.room


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
    """The continuation of each prompt, each with its index, in the order in which they end; longest rows first.

    Rows are computed in groups that depend on all prompts and on micro_batch_tokens, never on `skip`: a run that was
    stopped and goes on with what is missing computes its answers just as an uninterrupted run does.

    Args:
        model: a causal language model of transformers, or PEFT's wrapper of one; in evaluation mode meanwhile.
        tokenizer: decodes the answers; its padding settings are not used.
        prompts: token ids of each prompt, at least one token each.
        stop_token_ids: an answer ends before the first of these; none = only length and stop strings end it.
        micro_batch_tokens: tokens that the cache holds at most, prompts and room for the answers; a prompt that alone
            needs more is run alone.
        skip: indices that are not wanted; a group is not run when all of it is skipped.

    Raises:
        ModelError: a prompt is empty, or fills the model's context and leaves no room for an answer; or the
            architecture cannot be run this way.
    """
    from tunelab.models.onednn_weights import OneDnnWeights

    packed: OneDnnWeights | None = None
    context = context_length(model)
    room = _room(prompts, decoding.max_new_tokens, context)
    border = longrope_border(model)
    needs = [len(prompt) + more for prompt, more in zip(prompts, room, strict=True)]
    for group in _groups(needs, micro_batch_tokens, alone_above=border):
        if all(index in skip for index in group):
            continue
        waiting = [_new_row(index, prompts[index], room[index], decoding, tokenizer, False) for index in group]
        packed = packed or OneDnnWeights(model)
        batch = _Batch(model, packed, waiting, decoding, stop_token_ids, micro_batch_tokens, border)
        while not batch.is_done:
            for row in _advance(batch, until_one_ends=True):
                if row.ended and row.index not in skip:
                    yield _generation(row, tokenizer, decoding)


def stream(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    decoding: Decoding,
    *,
    stop_token_ids: Collection[int],
) -> Generator[str, None, Generation]:
    """The answer to one prompt in pieces of text, as it is made; the generator returns the finished Generation.

    A piece ends at a character's end and holds nothing of a stop string. Closing the generator ends the answer.

    Raises:
        ModelError: as generate() does.
    """
    room = _room([prompt_ids], decoding.max_new_tokens, context_length(model))[0]
    row = _new_row(0, prompt_ids, room, decoding, tokenizer, True)
    batch = _Batch(
        model, _kept_onednn_weights(model), [row], decoding, stop_token_ids, row.need, longrope_border(model)
    )
    assert row.text is not None
    while not batch.is_done:
        for _ in _advance(batch, until_one_ends=False):
            if row.ended:
                row.text.finish()
            if piece := row.text.new_piece(last=bool(row.ended)):
                yield piece
    return _generation(row, tokenizer, decoding)


def _advance(batch: _Batch, *, until_one_ends: bool) -> list[_Row]:
    """A step of a batch, or steps until a row ends; gives the rows of the last step.

    The model is set up for it meanwhile; afterwards it is as its owner left it.
    """
    import torch

    from tunelab.models.key_value_cache import cached_attention

    _check(batch.model)
    with evaluation_mode(batch.model), cached_attention(batch.model), batch.packed.used(), torch.no_grad():
        rows = batch.step()
        while until_one_ends and not any(row.ended for row in rows):
            rows = batch.step()
    return rows


def _check(model: nn.Module) -> None:
    """Once for each model: rows end to end must give what they give apart."""
    from tunelab.models.structure import check_packed_forward

    if model not in _checked:
        check_packed_forward(model)
        _checked.add(model)


def _kept_onednn_weights(model: nn.Module) -> OneDnnWeights:
    """For answers one at a time: laid out once for as long as the model lives, or until its weights change."""
    from tunelab.models.onednn_weights import OneDnnWeights

    packed = _packed.get(model)
    if packed is None or not packed.is_current:
        packed = _packed[model] = OneDnnWeights(model)
    return packed


class _Batch:
    """Rows that are continued together, and those that wait for a slot. Slot i holds active row i."""

    def __init__(
        self,
        model: nn.Module,
        packed: OneDnnWeights,
        waiting: list[_Row],
        decoding: Decoding,
        stop_token_ids: Collection[int],
        micro_batch_tokens: int,
        longrope_border: int | None,
    ) -> None:
        from tunelab.models.forward import output_head
        from tunelab.models.key_value_cache import KeyValueCache

        self.model, self.packed, self.decoding, self.stop_token_ids = model, packed, decoding, stop_token_ids
        self.micro_batch_tokens, self.longrope_border = micro_batch_tokens, longrope_border
        self.waiting = waiting[::-1]  # the next one last
        self.active: list[_Row] = []
        self.head = output_head(model)
        width = _rounded(waiting[0].need)
        self.cache: KeyValueCache = KeyValueCache(_slots(micro_batch_tokens, width, len(waiting)), width)

    @property
    def is_done(self) -> bool:
        return not (self.waiting or self.active)

    def step(self) -> list[_Row]:
        """A token for every row that is active, and for those that now become it; gives these rows."""
        going_on = len(self.active)
        self._admit()
        rows = list(self.active)
        logits = self.head(self._read(going_on)).float()  # [rows, vocabulary]
        drawn = [row.randomness[len(row.answer)] if row.randomness else 0.0 for row in rows]
        for row, token in zip(rows, next_tokens(logits, self.decoding, drawn, self._seen(rows, logits)), strict=True):
            self._add(row, token)
        self._remove_ended()
        return rows

    def _admit(self) -> None:
        """Give free slots to rows that wait. Where all rows left need half a slot or less, slots get narrower."""
        if not self.waiting:
            return
        width = _rounded(max(row.need for row in (*self.active, self.waiting[-1])))
        if width <= self.cache.width // 2:
            slots = _slots(self.micro_batch_tokens, width, len(self.active) + len(self.waiting))
            self.cache.reshape(max(slots, len(self.active)), width, len(self.active))
        count = min(self.cache.slots - len(self.active), len(self.waiting))
        self.active += [self.waiting.pop() for _ in range(count)]

    def _read(self, going_on: int) -> Tensor:
        """Last hidden states [active rows, hidden]: the first `going_on` read one token more, the others all theirs."""
        from tunelab.models.key_value_cache import read_tokens

        lengths = [len(row.prompt) + len(row.answer) for row in self.active]
        if self.longrope_border is not None and lengths[0] == self.longrope_border + 1:
            # Its frequencies change here, for the tokens before too: such a row is alone, and is read again.
            going_on = 0
        return read_tokens(
            self.model,
            self.cache,
            [row.answer[-1] for row in self.active[:going_on]],
            [length - 1 for length in lengths[:going_on]],
            [[*row.prompt, *row.answer] for row in self.active[going_on:]],
            range(going_on, len(self.active)),
        )

    def _seen(self, rows: Sequence[_Row], logits: Tensor) -> Tensor | None:
        if self.decoding.repetition_penalty == 1:
            return None
        import torch

        seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
        for place, row in enumerate(rows):
            seen[place, torch.tensor([*row.prompt, *row.answer], device=logits.device)] = True
        return seen

    def _add(self, row: _Row, token: int) -> None:
        if token in self.stop_token_ids:
            row.ended = "stop"
            return
        row.answer.append(token)
        if row.text is not None and row.text.add(token):
            row.ended = "stop"
        elif len(row.answer) == row.room:
            row.ended = "length" if row.room == self.decoding.max_new_tokens else "context"

    def _remove_ended(self) -> None:
        """The last active row moves into the slot of each row that ended."""
        for slot in range(len(self.active) - 1, -1, -1):
            if self.active[slot].ended:
                last = len(self.active) - 1
                if slot != last:
                    self.cache.move(last, slot)
                    self.active[slot] = self.active[last]
                self.active.pop()


def _new_row(
    index: int,
    prompt: Sequence[int],
    room: int,
    decoding: Decoding,
    tokenizer: PreTrainedTokenizerBase,
    text_wanted: bool,
) -> _Row:
    randomness = row_randomness(decoding.seed, index, room) if decoding.temperature else []
    text = GrowingText(tokenizer, decoding.stop_strings) if decoding.stop_strings or text_wanted else None
    return _Row(index, prompt, room, randomness, text)


def _generation(row: _Row, tokenizer: PreTrainedTokenizerBase, decoding: Decoding) -> Generation:
    assert row.ended is not None
    if row.text is not None:
        row.text.finish()
    by_string = row.text is not None and row.text.stopped
    text = row.text.text if row.text is not None and by_string else decoded(tokenizer, row.answer)
    return Generation(row.index, tuple(row.answer), text, "stop" if by_string else row.ended, len(row.prompt))


def _rounded(tokens: int) -> int:
    return -(-tokens // WIDTH_STEP) * WIDTH_STEP


def _slots(micro_batch_tokens: int, width: int, rows: int) -> int:
    return max(1, min(micro_batch_tokens // width, rows))


def _groups(needs: Sequence[int], micro_batch_tokens: int, alone_above: int | None) -> Iterator[list[int]]:
    """Indices in groups, longest first (what does not fit into the memory shows at once), ties in the given order.

    A row that may grow longer than `alone_above` is a group of its own.
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
    """Positions that the model knows; None where its config does not say (then nothing is cut)."""
    from tunelab.models.forward import underlying

    length = getattr(underlying(model).config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def _room(prompts: Sequence[Sequence[int]], max_new_tokens: int, context: int | None) -> list[int]:
    """New tokens that each row may have: max_new_tokens, or what the context leaves after its prompt."""
    room = []
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise ModelError(f"prompt {index} is empty: a model needs at least one token to continue")
        if context is not None and len(prompt) >= context:
            raise ModelError(
                f"prompt {index} has {len(prompt)} tokens and the model's context {context}: no room for an answer",
                "leave the item out, or shorten its prompt",
            )
        room.append(max_new_tokens if context is None else min(max_new_tokens, context - len(prompt)))
    return room


def longrope_border(model: nn.Module) -> int | None:
    """Length above which LongRoPE (Phi-3 128k) changes its frequencies, for every row of a batch at once; else None.

    Rows that reach beyond it must be run alone, or their neighbours' answers depend on them.
    """
    from tunelab.models.forward import underlying

    config = underlying(model).config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    for values in (parameters, *(value for value in parameters.values() if isinstance(value, dict))):
        if values.get("rope_type") == "longrope":
            border = values.get("original_max_position_embeddings")
            return int(border or config.original_max_position_embeddings)
    return None


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout while the block runs; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
