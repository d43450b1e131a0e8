"""A short check of any model before its scores are trusted: does anything affect them that should not?

The items are tunelab's own (assets/check_questions.json): easy four-choice questions with four worked examples each,
and short requests. They test the evaluation, not the model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tunelab.answering.benchmark_prompts import choice_questions, generation_prompts
from tunelab.answering.benchmark_responses import open_arm
from tunelab.answering.benchmark_settings import BenchmarkSettings
from tunelab.answering.findings import (
    Finding,
    InSixteenBits,
    batch_finding,
    ending_finding,
    largest_difference,
    letter_finding,
    prefix_finding,
    same_texts_finding,
    template_finding,
)
from tunelab.answering.generate import subject_of
from tunelab.answering.responder import Responder
from tunelab.evaluation.benchmark import Item
from tunelab.evaluation.choice_question import ChoiceQuestion
from tunelab.evaluation.choices import ChoiceLikelihood, choice_likelihoods, plain_likelihoods
from tunelab.inference.sampling import Decoding
from tunelab.models.forward import attention_name, can_set_attention, underlying
from tunelab.models.miniature import miniature
from tunelab.preparation.model import compute_dtype
from tunelab.progress import Progress, silent

QUESTIONS = Path(__file__).parents[1] / "assets" / "check_questions.json"
EXAMPLES = 4
MAX_NEW_TOKENS = 128
LETTERS = "ABCD"

#: Tokens computed at once: few enough to run every question alone, and enough to run all together.
ALONE, TOGETHER = 1, 4096

#: How choices are computed, as arguments of choice_likelihoods().
TOGETHER_SHARED: dict[str, Any] = {"micro_batch_tokens": TOGETHER}
ALONE_SHARED: dict[str, Any] = {"micro_batch_tokens": ALONE}
TOGETHER_WHOLE: dict[str, Any] = {"micro_batch_tokens": TOGETHER, "share_prefixes": False}

LogProbabilities = list[tuple[float, ...]]


def check(
    subject: Path | str, settings: BenchmarkSettings | None = None, *, progress: Progress = silent
) -> list[Finding]:
    """Check a finished run (its tuned arm, unless settings.arms names another) or a model.

    Raises:
        As answering.generate.open_responder() does.
    """
    settings = settings or BenchmarkSettings()
    run, model = subject_of(subject)
    arm = settings.arms[0] if settings.arms else None
    responder = open_arm(run, model, arm, settings)
    items, requests = _items()
    exact = compute_dtype(responder.recipe) == "fp32"
    targets = [item.target for item in items]

    responder.raw = True
    questions = choice_questions(responder, "check", items)
    progress("choices in raw text", 0, 4)
    together = _likelihoods(responder, questions, **TOGETHER_SHARED)
    progress("choices one at a time", 1, 4)
    alone = _likelihoods(responder, questions, **ALONE_SHARED)
    whole = _likelihoods(responder, questions, **TOGETHER_WHOLE)
    by_batch, by_prefix = (None, None) if exact else _rounding(responder, questions)
    findings = [
        batch_finding(alone, together, by_batch),
        prefix_finding(whole, together, by_prefix),
        letter_finding(_chosen(together), targets),
    ]
    if responder.has_prompt_template:
        progress("choices in the template", 2, 4)
        responder.raw = False
        in_template = _likelihoods(responder, choice_questions(responder, "check", items), micro_batch_tokens=TOGETHER)
        findings.append(template_finding(_chosen(together), _chosen(in_template), targets))
    progress("answering", 3, 4)
    findings += _answers(responder, requests, exact=exact)
    progress("answering", 4, 4)
    return findings


def _items() -> tuple[list[Item], list[Item]]:
    """Questions with choices, and requests to answer."""
    content = json.loads(QUESTIONS.read_text(encoding="utf-8"))

    def text(row: dict[str, Any]) -> str:
        choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, row["choices"], strict=True))
        return f"{row['question']}\n{choices}Answer:"

    rows = content["choices"]
    examples = "".join(f"{text(row)} {LETTERS[row['answer']]}\n\n" for row in rows[:EXAMPLES])
    letters = tuple(f" {letter}" for letter in LETTERS)
    asked = [
        Item(f"question {number}", text(row), row["answer"], examples=examples, choices=letters)
        for number, row in enumerate(rows[EXAMPLES:], 1)
    ]
    return asked, [Item(f"request {number}", one, None) for number, one in enumerate(content["prompts"], 1)]


def _likelihoods(responder: Responder, questions: Sequence[ChoiceQuestion], **options: Any) -> LogProbabilities:
    return _in_order(responder.computing(choice_likelihoods(responder.model, questions, **options)))


def _in_order(likelihoods: Iterable[ChoiceLikelihood]) -> LogProbabilities:
    return [one.log_probabilities for one in sorted(likelihoods, key=lambda one: one.index)]


def _rounding(responder: Responder, questions: Sequence[ChoiceQuestion]) -> tuple[InSixteenBits, InSixteenBits]:
    """Effect of batches and shared prefixes on a small fp32 model of this structure, and of rounding on this model."""
    base = underlying(responder.model)
    has_two = attention_name(base) != "eager" and can_set_attention(base)
    other: dict[str, Any] = {"attention": "eager"} if has_two else {"rounds_anew": True}
    own, made_otherwise = (
        _in_order(responder.computing(plain_likelihoods(responder.model, questions, **how))) for how in ({}, other)
    )
    floor = largest_difference(own, made_otherwise)
    small = miniature(base)
    size = small.get_input_embeddings().weight.shape[0]

    def cut(tokens: Sequence[int]) -> tuple[int, ...]:
        return tuple(token % size for token in tokens)

    asked = [ChoiceQuestion(cut(one.prompt_ids), tuple(map(cut, one.continuations))) for one in questions]
    together, alone, whole = (
        _in_order(choice_likelihoods(small, asked, **options))
        for options in (TOGETHER_SHARED, ALONE_SHARED, TOGETHER_WHOLE)
    )
    return InSixteenBits(alone, together, floor), InSixteenBits(whole, together, floor)


def _chosen(likelihoods: LogProbabilities) -> list[int]:
    return [one.index(max(one)) for one in likelihoods]


def _answers(responder: Responder, requests: Sequence[Item], *, exact: bool) -> list[Finding]:
    """Greedy answers, batched and one at a time, in the template if there is one."""
    rows = [prompt.ids for prompt in generation_prompts(responder, "check", requests, MAX_NEW_TOKENS)]
    decoding = Decoding(max_new_tokens=MAX_NEW_TOKENS)
    together = {one.index: one for one in responder.generations(rows, decoding, TOGETHER, frozenset())}
    alone = {one.index: one for one in responder.generations(rows, decoding, ALONE, frozenset())}
    reasons = Counter(one.stop_reason for one in together.values())
    same = sum(together[index].token_ids == alone[index].token_ids for index in together)
    return [
        same_texts_finding(same, len(requests), exact=exact),
        ending_finding(reasons["stop"], len(requests), MAX_NEW_TOKENS, in_template=not responder.raw),
    ]
