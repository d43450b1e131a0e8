"""The words of evaluation: items that are asked, responses and likelihoods that are stored, scores that are told.

All are plain data and go to JSON and back; nothing here needs a model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tunelab.errors import DataError, RunError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a model is asked.

    Attributes:
        id: unique among the items asked together.
        prompt_ids: token ids of the prompt, up to where the answer begins.
        reference: the answer that the response is measured against.
    """

    id: str
    prompt_ids: tuple[int, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """One row whose likelihood is measured.

    Attributes:
        id: unique among the rows measured together.
        input_ids: the whole row's token ids; its first token is predicted from nothing and counted nowhere.
        answer_mask: which tokens belong to an answer, as long as input_ids.
        answer_bytes: UTF-8 bytes of the answers' text.
        text_bytes: UTF-8 bytes of the text after the first token. See metrics/perplexity.py: predicted_bytes.
    """

    id: str
    input_ids: tuple[int, ...]
    answer_mask: tuple[bool, ...]
    answer_bytes: int
    text_bytes: int


@dataclass(frozen=True, slots=True)
class Response:
    """What a model gave for one item, as it is stored: scoring needs no more than this.

    Attributes:
        item: the item's id.
        prompt_hash: hash of model, prompt and decoding (responses.py).
        text: the answer; token_ids: its tokens, without the stop token.
        stop_reason: "stop", "length" (max_new_tokens were made) or "context" (the model's context was full).
        prompt_tokens: length of the prompt.
        reference: the item's reference.
    """

    item: str
    prompt_hash: str
    text: str
    token_ids: tuple[int, ...]
    stop_reason: str
    prompt_tokens: int
    reference: str

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Response:
        """Raises RunError where a key is missing or unknown."""
        response = _from_json(cls, value)
        return dataclasses.replace(response, token_ids=tuple(response.token_ids))


@dataclass(frozen=True, slots=True)
class LikelihoodRecord:
    """What a model gave to one held-out row, as it is stored. Negative log-likelihoods are sums in nats."""

    item: str
    prompt_hash: str
    answer_nll: float
    answer_tokens: int
    answer_bytes: int
    text_nll: float
    text_tokens: int
    text_bytes: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LikelihoodRecord:
        """Raises RunError where a key is missing or unknown."""
        return _from_json(cls, value)


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of one model, with its error.

    Attributes:
        name: "response_perplexity", "bleu", ...
        value: the figure; always finite.
        error: its standard error in the same unit; None = unknown (one item), which is not zero.
        n: items that it was computed from.
        unit: what the value counts: "per token", "bits/byte", "0-100".
        higher_is_better: which way is good.
        protocol: everything that produced the figure and without which it cannot be compared ("signature": ...).
    """

    name: str
    value: float
    error: float | None
    n: int
    unit: str
    higher_is_better: bool
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or not (self.error is None or math.isfinite(self.error)):
            raise DataError(f"{self.name}: {self.value} ± {self.error} is no score: expected finite numbers")

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "protocol": dict(self.protocol)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Score:
        """Raises RunError where a key is missing or unknown."""
        return _from_json(cls, value)


def check_pairs(metric: str, responses: Sequence[str], references: Sequence[str]) -> None:
    """Raises DataError where there is nothing to measure, counts differ or a reference has no text.

    An empty response is a bad answer and gets its low score; an empty reference measures nothing.
    """
    if len(responses) != len(references):
        raise DataError(f"{metric}: {len(responses)} responses but {len(references)} references")
    if not responses:
        raise DataError(f"{metric}: there are no responses to score")
    for place, reference in enumerate(references):
        if not reference.strip():
            raise DataError(
                f"{metric}: the reference of item {place} is empty: no answer can be measured against it",
                "leave the item out",
            )


def _from_json(kind: type[T], value: Mapping[str, Any]) -> T:
    fields = {one.name for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if missing := sorted(fields - set(value)):
        raise RunError(f"{kind.__name__} record lacks {', '.join(missing)}", "it was written by another version")
    if unknown := sorted(set(value) - fields):
        raise RunError(f"{kind.__name__} record has unknown {', '.join(unknown)}", "it was written by another version")
    return kind(**value)
