"""A short protocol for any model, before its scores are believed: does anything decide them that should not?

The items are the package's own (assets/check_questions.json): four-choice questions that are easy, with four worked
examples before each, and short requests. They measure the measuring, not the model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunelab.answering.benchmark_prompts import choice_questions, generation_prompts
from tunelab.answering.benchmark_responses import BenchmarkSettings
from tunelab.answering.findings import (
    Finding,
    batch_finding,
    ending_finding,
    letter_finding,
    prefix_finding,
    same_texts_finding,
    template_finding,
)
from tunelab.answering.generate import open_responder, subject_of
from tunelab.answering.responder import Responder
from tunelab.evaluation.benchmark import Item
from tunelab.evaluation.choices import ChoiceQuestion, choice_likelihoods
from tunelab.inference.sampling import Decoding
from tunelab.preparation.model import compute_dtype
from tunelab.progress import Progress, silent

QUESTIONS = Path(__file__).parents[1] / "assets" / "check_questions.json"
EXAMPLES = 4
MAX_NEW_TOKENS = 128
LETTERS = "ABCD"

#: Tokens computed at once: so few that every question is run alone, and so many that all run together.
ALONE, TOGETHER = 1, 4096

LogProbabilities = list[tuple[float, ...]]


def check(
    subject: Path | str, settings: BenchmarkSettings | None = None, *, progress: Progress = silent
) -> list[Finding]:
    """Run the protocol on a finished run (its tuned arm, unless settings.arms says another) or on a model.

    Raises:
        As workflows.generate.open_responder() does.
    """
    settings = settings or BenchmarkSettings()
    run, model = subject_of(subject)
    arm = settings.arms[0] if settings.arms else None
    responder = open_responder(
        run, model=model, adapter=settings.adapter, arm=arm, template=settings.template, changes=settings.changes
    )
    items, requests = _items()
    exact = compute_dtype(responder.recipe) == "fp32"
    targets = [item.target for item in items]

    responder.raw = True
    questions = choice_questions(responder, "check", items)
    progress("choices in raw text", 0, 4)
    together = _likelihoods(responder, questions, micro_batch_tokens=TOGETHER)
    progress("choices one at a time", 1, 4)
    alone = _likelihoods(responder, questions, micro_batch_tokens=ALONE)
    whole = _likelihoods(responder, questions, micro_batch_tokens=TOGETHER, share_prefixes=False)
    findings = [
        batch_finding(alone, together, exact=exact),
        prefix_finding(whole, together, exact=exact),
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
    """Questions with choices, and requests to be answered."""
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
    scored = choice_likelihoods(responder.model, questions, **options)
    found = {one.index: one.log_probabilities for one in responder.computing(scored)}
    return [found[index] for index in range(len(questions))]


def _chosen(likelihoods: LogProbabilities) -> list[int]:
    return [one.index(max(one)) for one in likelihoods]


def _answers(responder: Responder, requests: Sequence[Item], *, exact: bool) -> list[Finding]:
    """Greedy answers, together and one at a time, in the template where there is one."""
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
