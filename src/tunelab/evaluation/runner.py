"""Evaluation on held-out rows: answers and likelihoods are stored as they are computed, then scored.

The two functions that need a model write JSON lines and can be killed and resumed; the scoring function reads
the records and needs neither model nor torch.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunelab.errors import DataError, RunError
from tunelab.evaluation.benchmark import Score
from tunelab.evaluation.held_out import AnswerScore, HeldOutAnswer, HeldOutPrompt, HeldOutRow, LikelihoodRecord
from tunelab.evaluation.likelihood import row_likelihoods
from tunelab.evaluation.metrics.bleu import bleu_counts, bleu_score
from tunelab.evaluation.metrics.chrf import chrf_counts, chrf_score
from tunelab.evaluation.metrics.exact_match import exact_match_score
from tunelab.evaluation.metrics.perplexity import perplexity_scores
from tunelab.evaluation.metrics.rouge import KINDS, rouge_by_item, rouge_scores
from tunelab.inference.engine import generate
from tunelab.inference.sampling import Decoding
from tunelab.progress import Progress, silent
from tunelab.records.responses import ResponseFile, prompt_hash, read_responses

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def held_out_responses(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[HeldOutPrompt],
    path: Path,
    header: Mapping[str, Any],
    *,
    max_new_tokens: int,
    stop_token_ids: Collection[int],
    micro_batch_tokens: int,
    progress: Progress = silent,
) -> list[HeldOutAnswer]:
    """Greedy answers to items, in the items' order; answers already in `path` are reused.

    Args:
        model: a transformers causal language model, optionally wrapped by PEFT.
        tokenizer: decodes the answers.
        items: the prompts.
        path: the response file; created or resumed.
        header: what produces the answers (model, revision, adapter, precision, template, version). The decoding is
            added as "decoding"; all of it must equal an existing file's header.
        max_new_tokens: maximum length of an answer.
        stop_token_ids: an answer ends before the first of them.
        micro_batch_tokens: maximum tokens per batch, including padding and room for the answers.

    Raises:
        DataError: two items have the same id.
        RunError: the file is of another model, decoding or version, or of other prompts or references.
        ModelError: a prompt is empty or leaves no room in the model's context.
    """
    _check_ids([item.id for item in items])
    decoding = {
        "method": "greedy",
        "max_new_tokens": max_new_tokens,
        "stop_token_ids": sorted(int(token) for token in stop_token_ids),
    }
    header = {**header, "decoding": decoding}
    made: dict[int, HeldOutAnswer] = {}
    with ResponseFile(path, header) as file:
        hashes = [prompt_hash(header, item.prompt_ids, decoding) for item in items]
        for index, item in enumerate(items):
            if (record := file.get(item.id, hashes[index])) is not None:
                made[index] = HeldOutAnswer.from_json(record)
                _check_unchanged(path, item.id, "reference", made[index].reference, item.reference)
        for answer in generate(
            model,
            tokenizer,
            [item.prompt_ids for item in items],
            Decoding(max_new_tokens=max_new_tokens),
            stop_token_ids=stop_token_ids,
            micro_batch_tokens=micro_batch_tokens,
            skip=frozenset(made),
        ):
            item = items[answer.index]
            record = {"item": item.id, "prompt_hash": hashes[answer.index], "reference": item.reference}
            record |= {key: value for key, value in dataclasses.asdict(answer).items() if key != "index"}
            made[answer.index] = HeldOutAnswer.from_json(file.append(record))
            progress("answering", len(made), len(items))
    return [made[index] for index in range(len(items))]


def held_out_likelihoods(
    model: nn.Module,
    rows: Sequence[HeldOutRow],
    path: Path,
    header: Mapping[str, Any],
    *,
    micro_batch_tokens: int,
    progress: Progress = silent,
) -> list[LikelihoodRecord]:
    """Likelihood of each row, in the rows' order; rows already in `path` are reused.

    Args:
        model: a transformers causal language model, optionally wrapped by PEFT.
        rows: the rows to evaluate.
        path: the record file, a header line and then one JSON line per row; created or resumed.
        header: what produces the likelihoods; must equal an existing file's header.
        micro_batch_tokens: maximum tokens per batch.

    Raises:
        DataError: two rows have the same id, or a row cannot be scored.
        RunError: the file is of another model or version, or of other rows.
        ModelError: a row is longer than the model's context, or a likelihood is not finite.
    """
    _check_ids([row.id for row in rows])
    header = {**header, "measured": "likelihood"}
    made: dict[int, LikelihoodRecord] = {}
    with ResponseFile(path, header) as file:
        masks = ["".join("1" if answer else "0" for answer in row.answer_mask) for row in rows]
        hashes = [
            prompt_hash(header, row.input_ids, {"answer_mask": mask}) for row, mask in zip(rows, masks, strict=True)
        ]
        for index, row in enumerate(rows):
            if (stored := file.get(row.id, hashes[index])) is not None:
                made[index] = LikelihoodRecord.from_json(stored)
                _check_unchanged(path, row.id, "completion_bytes", made[index].completion_bytes, row.completion_bytes)
                _check_unchanged(path, row.id, "sequence_bytes", made[index].sequence_bytes, row.sequence_bytes)
        pairs = [(row.input_ids, row.answer_mask) for row in rows]
        done = frozenset(made)
        for one in row_likelihoods(model, pairs, micro_batch_tokens=micro_batch_tokens, skip=done, progress=progress):
            row = rows[one.index]
            record = LikelihoodRecord(
                item=row.id,
                prompt_hash=hashes[one.index],
                completion_nll=one.completion_nll,
                completion_tokens=one.completion_tokens,
                completion_bytes=row.completion_bytes,
                sequence_nll=one.sequence_nll,
                sequence_tokens=one.sequence_tokens,
                sequence_bytes=row.sequence_bytes,
            )
            file.append(record.to_json())
            made[one.index] = record
    return [made[index] for index in range(len(rows))]


def read_held_out(
    responses: Path | None = None, likelihoods: Path | None = None
) -> tuple[list[HeldOutAnswer], list[LikelihoodRecord]]:
    """The stored records of an evaluation, for scoring without a model; None as a path gives no records.

    Raises:
        RunError: a file is missing, or has other records.
    """
    answers = [HeldOutAnswer.from_json(record) for record in read_responses(responses)[1]] if responses else []
    rows = [LikelihoodRecord.from_json(record) for record in read_responses(likelihoods)[1]] if likelihoods else []
    return answers, rows


def answer_scores(responses: Sequence[HeldOutAnswer]) -> list[AnswerScore]:
    """Each answer's contribution to the metrics: its ROUGE values, BLEU and chrF counts, ordered by item id.

    They suffice to compare two models, without sacrebleu, rouge-score or the texts.

    Raises:
        DataError: a reference is empty.
    """
    if not responses:
        return []
    ordered = sorted(responses, key=lambda response: response.item)
    texts, references = [one.text for one in ordered], [one.reference for one in ordered]
    rouge = rouge_by_item(texts, references)
    bleu, chrf = (made(texts, references).tolist() for made in (bleu_counts, chrf_counts))
    return [
        AnswerScore(
            one.item,
            **{kind: rouge[kind][place] for kind in KINDS},
            bleu_counts=tuple(bleu[place]),
            chrf_counts=tuple(chrf[place]),
        )
        for place, one in enumerate(ordered)
    ]


def score_held_out(
    responses: Sequence[HeldOutAnswer],
    likelihoods: Sequence[LikelihoodRecord],
    protocol: Mapping[str, Any] | None = None,
    *,
    by_answer: Sequence[AnswerScore] | None = None,
) -> list[Score]:
    """All scores that the records allow: perplexities and bits per byte, then BLEU, ROUGE-1/2/L, chrF and exact match.

    Args:
        responses: scored against their references; may be empty.
        likelihoods: scored by perplexity and bits per byte; may be empty.
        protocol: added to every score's protocol (template, decoding, number of rows left out, ...).
        by_answer: the result of answer_scores for the responses, if already computed.

    Raises:
        DataError: both are empty, a reference is empty, or `by_answer` does not match the responses.
    """
    if not responses and not likelihoods:
        raise DataError("there are neither responses nor likelihoods to score", "evaluate at least one held-out row")
    scores = perplexity_scores(likelihoods) if likelihoods else []
    if responses:
        # A fixed order: the bootstrap must not depend on the order in which the answers were generated.
        ordered = sorted(responses, key=lambda response: response.item)
        texts, references = [one.text for one in ordered], [one.reference for one in ordered]
        reasons = {"stop_reasons": dict(sorted(Counter(one.stop_reason for one in ordered).items()))}
        parts = answer_scores(ordered) if by_answer is None else by_answer
        if [one.item for one in parts] != [one.item for one in ordered]:
            raise DataError(f"{len(parts)} answer scores do not match the {len(ordered)} responses")
        counts = np.array([one.bleu_counts for one in parts], dtype=np.int64)
        rouge = {kind: [getattr(one, kind) for one in parts] for kind in KINDS}
        of_characters = np.array([one.chrf_counts for one in parts], dtype=np.int64)
        made = [bleu_score(texts, references, counts=counts), *rouge_scores(texts, references, by_item=rouge)]
        made += [chrf_score(texts, references, counts=of_characters), exact_match_score(texts, references)]
        for score in made:
            scores.append(dataclasses.replace(score, protocol={**score.protocol, **reasons}))
    return [dataclasses.replace(score, protocol={**score.protocol, **(protocol or {})}) for score in scores]


def _check_ids(ids: Iterable[str]) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"{len(repeated)} ids occur more than once, first {repeated[0]!r}: item ids must be unique")


def _check_unchanged(path: Path, item: str, what: str, stored: object, now: object) -> None:
    if stored != now:
        raise RunError(
            f"{path}: item {item!r} has {what} {stored!r} in the file, {now!r} now",
            "the data changed; remove the file to answer every item again",
        )
