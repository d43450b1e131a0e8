"""Log-likelihoods of whole texts, in windows where a text is longer than the model's context."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunelab.answering.responder import Responder
from tunelab.data.tokenize import leading_special_ids
from tunelab.errors import DataError, ModelError
from tunelab.evaluation.benchmark import Item
from tunelab.evaluation.likelihood import Row, row_likelihoods

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text as rows of tokens; in every row the text's own tokens are marked.

    Attributes:
        rows: (token ids, is it to be predicted?) of each window.
        tokens: number of the text's tokens; each is predicted in exactly one row.
    """

    rows: tuple[Row, ...]
    tokens: int


def encoded_texts(responder: Responder, benchmark: str, items: Sequence[Item]) -> list[EncodedText]:
    """The items' texts after what the tokenizer puts before a text, or else after its BOS or EOS token.

    Special tokens that a text spells out are ordinary text.

    Raises:
        ModelError: the tokenizer puts nothing before a text, and has neither a BOS nor an EOS token; or the context is
            too short to predict a token.
        DataError: a text has no tokens.
    """
    tokenizer = responder.tokenizer
    ends = [one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if one is not None]
    leading = leading_special_ids(tokenizer) or ends[:1]
    if not leading:
        raise ModelError(
            f"{responder.weights.name}: its tokenizer has neither a BOS nor an EOS token, so that nothing predicts the "
            f"first token of {benchmark}'s texts",
            "set bos_token in its tokenizer_config.json",
        )
    found = []
    for item in items:
        responder.note_prompt(item.question)
        ids = tokenizer(item.question, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        if not ids:
            raise DataError(f"{benchmark} item {item.id!r}: the tokenizer makes no tokens of this text", "omit it")
        found.append(EncodedText(tuple(windows(leading, ids, responder.context)), len(ids)))
    return found


def windows(leading: Sequence[int], ids: Sequence[int], context: int | None) -> Iterator[Row]:
    """Rows of at most `context` tokens; each after the first begins with the last token of the one before.

    Raises:
        ModelError: the context has no room for a token after the leading ones.
    """
    room = len(ids) if context is None else context - len(leading)
    if room < 1:
        raise ModelError(f"the model's context of {context} tokens has no room for a text", "use another model")
    yield [*leading, *ids[:room]], [False] * len(leading) + [True] * len(ids[:room])
    step = len(ids) if context is None else context - 1
    for start in range(room, len(ids), step):
        part = ids[start - 1 : start + step]
        yield part, [False] + [True] * (len(part) - 1)


def text_likelihoods(
    model: nn.Module, texts: Sequence[EncodedText], *, micro_batch_tokens: int, skip: Collection[int] = ()
) -> Iterator[tuple[int, float]]:
    """(index, log-likelihood in nats) of each text, in order, without those in `skip`.

    Raises:
        ModelError: a likelihood is not finite.
    """
    of_text = [index for index, text in enumerate(texts) for _ in text.rows]
    rows = [row for text in texts for row in text.rows]
    skipped = frozenset(place for place, index in enumerate(of_text) if index in skip)
    parts: dict[int, list[float]] = {}
    for one in row_likelihoods(model, rows, micro_batch_tokens=micro_batch_tokens, skip=skipped):
        index = of_text[one.index]
        parts.setdefault(index, []).append(one.completion_nll)
        if len(parts[index]) == len(texts[index].rows):
            yield index, -math.fsum(parts[index])
