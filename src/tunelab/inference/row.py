"""A row that is being generated, and what becomes of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tunelab.inference.sampling import Decoding, row_randomness
from tunelab.inference.text import GrowingText, decoded

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

StopReason = Literal["stop", "length", "context"]


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one prompt.

    Attributes:
        index: the prompt's place in the given sequence.
        token_ids: the answer, without the stop token that ended it; with all tokens of a stop string that ended it.
        text: the answer decoded, without special tokens, cut before a stop string.
        stop_reason: "stop" = a stop token or stop string; "length" = max_new_tokens were generated; "context" = the
            model's context was full before either, so that the answer is shorter than requested.
        prompt_tokens: length of the prompt.
    """

    index: int
    token_ids: tuple[int, ...]
    text: str
    stop_reason: StopReason
    prompt_tokens: int


@dataclass(slots=True)
class Row:
    """A row that is being generated."""

    index: int
    prompt: Sequence[int]
    room: int
    randomness: list[float]
    text: GrowingText | None
    answer: list[int] = field(default_factory=list)
    ended: StopReason | None = None

    @property
    def need(self) -> int:
        """Tokens of prompt and longest answer."""
        return len(self.prompt) + self.room

    def add(self, token: int, decoding: Decoding, stop_token_ids: Collection[int]) -> None:
        """Add the next token, or end the row."""
        if token in stop_token_ids:
            self.ended = "stop"
            return
        self.answer.append(token)
        if self.text is not None and self.text.add(token):
            self.ended = "stop"
        elif len(self.answer) == self.room:
            self.ended = "length" if self.room == decoding.max_new_tokens else "context"


def new_row(
    index: int,
    prompt: Sequence[int],
    room: int,
    decoding: Decoding,
    tokenizer: PreTrainedTokenizerBase,
    text_wanted: bool,
) -> Row:
    """A row before its first step.

    Args:
        room: maximum tokens of its answer.
        text_wanted: its text is needed while it grows; stop strings need it in any case.
    """
    randomness = row_randomness(decoding.seed, index, room) if decoding.temperature else []
    text = GrowingText(tokenizer, decoding.stop_strings) if decoding.stop_strings or text_wanted else None
    return Row(index, prompt, room, randomness, text)


def finished(row: Row, tokenizer: PreTrainedTokenizerBase, decoding: Decoding) -> Generation:
    """The answer of a row that has ended."""
    assert row.ended is not None
    if row.text is not None:
        row.text.finish()
    by_string = row.text is not None and row.text.stopped
    text = row.text.text if row.text is not None and by_string else decoded(tokenizer, row.answer)
    return Generation(row.index, tuple(row.answer), text, "stop" if by_string else row.ended, len(row.prompt))


def seen_tokens(rows: Sequence[Row], logits: Tensor, decoding: Decoding) -> Tensor | None:
    """The tokens that each row already has, [rows, vocabulary] bool; None where no repetition penalty needs them."""
    if decoding.repetition_penalty == 1:
        return None
    import torch

    from tunelab.models.page_locked import copied

    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    places = [(place, token) for place, row in enumerate(rows) for token in (*row.prompt, *row.answer)]
    where = copied(torch.tensor(places).T.contiguous(), logits.device)  # of all rows at once: [2, tokens]
    seen[where[0], where[1]] = True
    return seen
