"""Held-out rows: what is evaluated, and what is stored for each row. Plain data with JSON round trips, no model."""

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
    """The prompt of one held-out row.

    Attributes:
        id: unique among the items evaluated together.
        prompt_ids: token ids of the prompt, up to where the answer begins.
        reference: the answer that the response is scored against.
    """

    id: str
    prompt_ids: tuple[int, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """One row whose likelihood is measured.

    Attributes:
        id: unique among the rows evaluated together.
        input_ids: the whole row's token ids; the first token has no prediction and is not counted.
        answer_mask: which tokens belong to an answer; same length as input_ids.
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
    """A model's stored response to one held-out prompt; scoring needs nothing else.

    Attributes:
        item: the item's id.
        prompt_hash: hash of model, prompt and decoding (responses.py).
        text: the answer; token_ids: its tokens, without the stop token.
        stop_reason: "stop", "length" (max_new_tokens reached) or "context" (the model's context was full).
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
        """Raises RunError if a key is missing or unknown."""
        response = record_from_json(cls, value)
        return dataclasses.replace(response, token_ids=tuple(response.token_ids))


@dataclass(frozen=True, slots=True)
class LikelihoodRecord:
    """A model's stored likelihood of one held-out row. Negative log-likelihoods are sums in nats."""

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
        """Raises RunError if a key is missing or unknown."""
        return record_from_json(cls, value)


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """What one answer contributes to the metrics of a held-out evaluation, as stored with them.

    Attributes:
        item: the item's id.
        rouge1, rouge2, rougeL: F-measures, 0-100; the metric is their mean over items.
        bleu_counts: the answer's counts for BLEU (metrics/bleu.py: bleu_counts); the metric is BLEU of their sum.
        chrf_counts: likewise for chrF (metrics/chrf.py); () in files of before it was scored.
    """

    item: str
    rouge1: float
    rouge2: float
    rougeL: float
    bleu_counts: tuple[int, ...]
    chrf_counts: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AnswerScore:
        """Raises RunError if a key is missing or unknown, and TypeError or ValueError if a value is no number."""
        score = record_from_json(cls, {"chrf_counts": (), **value})
        bleu, chrf = (tuple(map(int, counts)) for counts in (score.bleu_counts, score.chrf_counts))
        return dataclasses.replace(score, bleu_counts=bleu, chrf_counts=chrf)


def write_answer_scores(folder: Path, scores: Sequence[AnswerScore]) -> None:
    """Write each answer's contribution to ROUGE, BLEU and chrF, one JSON line per answer; replaces the file."""
    lines = "".join(json.dumps(one.to_json()) + "\n" for one in scores)
    write_text_atomically(folder / ANSWER_SCORES, lines)
