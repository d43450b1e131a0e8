"""Held-out rows: what is asked of them, and what is stored of each. Plain data, to JSON and back without a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab.evaluation.benchmark import record_from_json
from tunelab.files import write_text_atomically
from tunelab.records.evaluation_files import ANSWER_SCORES


@dataclass(frozen=True, slots=True)
class HeldOutPrompt:
    """The prompt of one held-out row, which a model answers.

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
        completion_bytes: UTF-8 bytes of the answers' text.
        sequence_bytes: UTF-8 bytes of the text after the first token. See metrics/perplexity.py: predicted_bytes.
    """

    id: str
    input_ids: tuple[int, ...]
    answer_mask: tuple[bool, ...]
    completion_bytes: int
    sequence_bytes: int


@dataclass(frozen=True, slots=True)
class HeldOutAnswer:
    """What a model gave for one held-out prompt, as it is stored: scoring needs no more than this.

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
    def from_json(cls, value: Mapping[str, Any]) -> HeldOutAnswer:
        """Raises RunError where a key is missing or unknown."""
        response = record_from_json(cls, value)
        return dataclasses.replace(response, token_ids=tuple(response.token_ids))


@dataclass(frozen=True, slots=True)
class LikelihoodRecord:
    """What a model gave to one held-out row, as it is stored. Negative log-likelihoods are sums in nats."""

    item: str
    prompt_hash: str
    completion_nll: float
    completion_tokens: int
    completion_bytes: int
    sequence_nll: float
    sequence_tokens: int
    sequence_bytes: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LikelihoodRecord:
        """Raises RunError where a key is missing or unknown."""
        return record_from_json(cls, value)


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """What one answer adds to the figures of a held-out evaluation, as it is stored beside them.

    Attributes:
        item: the item's id.
        rouge1, rouge2, rougeL: F-measures, 0-100; the mean over items is the figure.
        bleu_counts: what BLEU needs of the answer (metrics/bleu.py: bleu_counts); BLEU of their sum is the figure.
    """

    item: str
    rouge1: float
    rouge2: float
    rougeL: float
    bleu_counts: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AnswerScore:
        """Raises RunError where a key is missing or unknown."""
        score = record_from_json(cls, value)
        return dataclasses.replace(score, bleu_counts=tuple(score.bleu_counts))


def write_answer_scores(folder: Path, scores: Sequence[AnswerScore]) -> None:
    """What each answer to held-out rows adds to ROUGE and BLEU, one JSON line an answer, replaced as a whole."""
    lines = "".join(json.dumps(one.to_json()) + "\n" for one in scores)
    write_text_atomically(folder / ANSWER_SCORES, lines)
