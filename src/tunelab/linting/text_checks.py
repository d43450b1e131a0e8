"""Checks of rows as texts: lengths, language, secrets, and signs of poor answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np

from tunelab.languages import detect, detect_at_once
from tunelab.linting.finding import Check, Flagged
from tunelab.linting.rows import LintedRows
from tunelab.linting.secrets import EMAIL_SHAPES, SECRET_SHAPES, Shapes, occurrences
from tunelab.linting.words import words_of
from tunelab.units import format_counted

#: Deviations from the median, in robust standard deviations of the logarithm, beyond which a length is an outlier.
OUTLYING = 5.0
#: Rows whose lengths say what is usual.
FEWEST_ROWS = 50

#: Letters from which a language can be told, rows that are sampled, and rows below which none are.
LETTERS, SAMPLE, FEWEST_TEXTS = 100, 400, 200

#: What stands for no answer.
NO_ANSWERS = {"nan", "none", "null", "n a", "na", "noinput", "no input", "no output", "todo", "tbd"}

PLACEHOLDERS = {"", "-", "--", "---", ".", "...", "…", "?", "???", "_"}

#: How a model speaks of itself, and how it refuses at the beginning of an answer.
_OF_ITSELF = re.compile(
    r"\bas an ai\b(?!-)|\bi(?:'| a)m (?:just )?an ai\b|\b(?:as|i am) a (?:large )?language model\b",
    re.IGNORECASE,
)
_CANNOT = r"(?:can ?not|can'?t|unable|not able|won'?t)"
_REFUSES = re.compile(
    rf"(?:i(?:'| a)m )?(?:sorry|i apologi[sz]e)\b.{{0,40}}\b{_CANNOT}\b"
    rf"|i (?:am )?{_CANNOT} (?:to )?(?:answer|assist|complete|comply|fulfil|generate|help|provide)",
    re.IGNORECASE | re.DOTALL,
)

#: A long answer ends in the middle of a sentence if it ends with such a word; one in capitals may be a note or code.
_UNFINISHED = re.compile(r"\b(?:a|an|and|as|at|because|from|is|of|or|that|the|to|was|were|which)$")
LONG_ANSWER = 20  # words
#: A repeated prompt shorter than this many words may well be the answer ("Translate: yes").
LONG_PROMPT = 4


def _matching(rows: LintedRows, holds: Callable[[str, str], bool], what: str) -> Flagged:
    """Rows of whose last prompt and answer something holds."""
    exchanges = rows.last_exchanges
    found = [row for row, (prompt, answer) in enumerate(exchanges) if holds(prompt, answer)]
    return Flagged(f"{format_counted(len(found), 'row')} {what}", found, lambda row: _exchange(*exchanges[row]))


def _exchange(prompt: str, answer: str) -> str:
    return f"{prompt[:120]} → {answer[:120]}"


def empty_answers(rows: LintedRows) -> Flagged:
    """Answers without a letter or a digit, or that say there is none."""
    return _matching(rows, lambda _, answer: _is_empty(answer), "with an answer that says nothing")


def _is_empty(answer: str) -> bool:
    words = " ".join(words_of(answer))
    return len(answer) < 40 and (words in NO_ANSWERS or answer.strip() in PLACEHOLDERS)


def refusals(rows: LintedRows) -> Flagged:
    """Answers that refuse, or speak of being a language model."""
    return _matching(rows, _is_refusal, "with an answer that refuses, or speaks of being an AI model")


def _is_refusal(prompt: str, answer: str) -> bool:
    return bool(_OF_ITSELF.search(answer) or _REFUSES.match(answer.lstrip()))


def repeated_prompts(rows: LintedRows) -> Flagged:
    """Answers that begin with the whole prompt."""
    return _matching(rows, _repeats, "with an answer that begins with the whole prompt")


def _repeats(prompt: str, answer: str) -> bool:
    asked = words_of(prompt)
    if len(asked) < LONG_PROMPT or not answer[:1].isalnum():  # it may be quoted, as in the docstring of a program
        return False
    return words_of(answer[: 2 * len(prompt) + 20])[: len(asked)] == asked


def unfinished_answers(rows: LintedRows) -> Flagged:
    """Long answers that end in the middle of a sentence."""
    return _matching(rows, _is_unfinished, "with an answer that ends in the middle of a sentence")


def _is_unfinished(prompt: str, answer: str) -> bool:
    end = answer.rstrip()[-20:]
    return bool(_UNFINISHED.search(end)) and answer.count(" ") >= LONG_ANSWER


def secrets(rows: LintedRows) -> Flagged:
    """Rows with what looks like a key or token."""
    return _counted(rows, SECRET_SHAPES, "with what looks like a secret")


def email_addresses(rows: LintedRows) -> Flagged:
    """Rows with e-mail addresses."""
    return _counted(rows, EMAIL_SHAPES, "with an e-mail address")


def _counted(rows: LintedRows, shapes: Shapes, what: str) -> Flagged:
    """Rows in which a shape occurs; only its name is ever shown."""
    kinds = {}
    for row in range(len(rows)):
        if counts := occurrences((rows.prompts[row], rows.answers[row]), shapes):
            kinds[row] = ", ".join(format_counted(count, name) for name, count in counts.items())
    said = f"{format_counted(len(kinds), 'row')} {what}"
    return Flagged(said, list(kinds), lambda row: f"{kinds[row]} (not shown)", shows_text=False)


def outlying_lengths(rows: LintedRows) -> Flagged | None:
    """Rows far shorter or longer than the others."""
    if len(rows) < FEWEST_ROWS:
        return None
    lengths = lengths_of(rows)
    logs = np.log(np.maximum(lengths, 1))
    center = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - center))
    if spread == 0:
        return None
    found = np.flatnonzero(np.abs(logs - center) > OUTLYING * spread)
    found = found[np.argsort(-np.abs(logs[found] - center), kind="stable")]
    unit = "tokens" if rows.table is not None else "characters"
    what = (
        f"{format_counted(len(found), 'row')} of unusual length ({lengths.min():,} to {lengths.max():,} {unit}; "
        f"half have {np.median(lengths):,.0f} or fewer)"
    )
    return Flagged(what, found.tolist(), lambda row: f"{lengths[row]:,} {unit}: {_exchange(*rows.last_exchange(row))}")


def lengths_of(rows: LintedRows) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """[rows] tokens of each row; characters where there are no tokens."""
    if rows.table is not None:
        return np.asarray(rows.table.lengths, dtype=np.int64)
    return np.asarray([len(a) + len(b) for a, b in zip(rows.prompts, rows.answers, strict=True)], dtype=np.int64)


def other_languages(rows: LintedRows) -> Flagged | None:
    """Rows of a sample whose answer is in another language than most."""
    texts = [row for row, answer in enumerate(rows.answers) if sum(map(str.isalpha, answer)) >= LETTERS]
    if len(texts) < FEWEST_TEXTS:
        return None
    sample = [texts[place * len(texts) // SAMPLE] for place in range(SAMPLE)] if len(texts) > SAMPLE else texts
    languages = {row: detect_at_once(rows.answers[row][:1000]) for row in sample}
    usual = Counter(languages.values()).most_common(1)[0][0]
    # Few are of another language: these are looked at with care.
    languages = {row: detect(rows.answers[row][:1000]) for row, one in languages.items() if one != usual}
    found = [row for row, language in languages.items() if language not in (usual, None, "unknown")]
    what = f"{len(found):,} of a sample of {len(sample):,} answers are not in the language of most ({usual})"
    return Flagged(what, found, lambda row: f"{languages[row]}: {rows.answers[row][:160]}")


CHECKS = (
    Check(
        "empty-answers",
        "warning",
        "the model learns to answer with nothing",
        "remove the rows, or write the answers",
        empty_answers,
    ),
    Check(
        "outlying-lengths",
        "warning",
        "they are often logs, tables or cut texts; the longest one decides how much memory a step needs",
        "look at them; data.max_length leaves the longest out",
        outlying_lengths,
    ),
    Check(
        "other-languages",
        "warning",
        "the model may answer in another language than its users write",
        "remove them, unless the data are meant to be in several languages",
        other_languages,
    ),
    Check(
        "secrets",
        "warning",
        "a tuned model can repeat them to anyone",
        "remove them from the file, and revoke them where they are real",
        secrets,
    ),
    Check(
        "email-addresses",
        "warning",
        "a tuned model can repeat them to anyone",
        "replace them, for instance by addresses at example.com",
        email_addresses,
    ),
    Check(
        "refusals",
        "warning",
        "the model learns to refuse, and to speak of itself as the model that wrote the data",
        "remove the rows, unless they are wanted",
        refusals,
    ),
    Check(
        "repeated-prompts",
        "warning",
        "the model learns to repeat the question",
        "remove the prompt from the answers",
        repeated_prompts,
    ),
    Check(
        "unfinished-answers",
        "warning",
        "the model learns to stop in the middle of a sentence",
        "complete the answers, or remove the rows",
        unfinished_answers,
    ),
)
