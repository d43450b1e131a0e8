"""Findings of a check: the numbers, and what not to trust and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tunelab.units import format_scientific, format_significant

LogProbabilities = Sequence[tuple[float, ...]]

#: In fp32 log-probabilities that should be equal may differ by this much, from the order of sums alone (nats).
FP32_TOLERANCE = 1e-3

#: In 16 bits they may differ by this multiple of the difference between two computations that are both correct: by the
#: model's own two attention implementations, or, if it has one, with results that are rounded at random.
FLOOR_MULTIPLE = 4.0


@dataclass(frozen=True)
class InSixteenBits:
    """What it takes to judge a difference in 16 bits: the same comparison in fp32, and the effect of rounding alone.

    Args:
        expected, made: log-probabilities of a small fp32 model of the same class and configuration, computed both ways.
        floor: largest difference in log-probability between two computations of it that are both correct, nats.
    """

    expected: LogProbabilities
    made: LogProbabilities
    floor: float


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        what: what was checked.
        found: the numbers.
        distrust: what not to trust, in one sentence; "" = no problem found.
    """

    what: str
    found: str
    distrust: str = ""


def batch_finding(
    alone: LogProbabilities, together: LogProbabilities, rounding: InSixteenBits | None = None
) -> Finding:
    """Log-probabilities of questions run one at a time and in batches; `rounding` is required except in fp32."""
    return _same_likelihoods(
        "batch size (choices)", alone, together, rounding, "scores depend on which items are batched together"
    )


def prefix_finding(whole: LogProbabilities, shared: LogProbabilities, rounding: InSixteenBits | None = None) -> Finding:
    """Log-probabilities with few-shot examples computed once for all questions, and with every prompt run whole."""
    return _same_likelihoods(
        "shared few-shot prefix", whole, shared, rounding, "sharing the few-shot examples changes the scores"
    )


def largest_difference(expected: LogProbabilities, made: LogProbabilities) -> float:
    """Largest difference in log-probability over all choices, nats."""
    return max(abs(a - b) for one, other in zip(expected, made, strict=True) for a, b in zip(one, other, strict=True))


def _same_likelihoods(
    what: str, expected: LogProbabilities, made: LogProbabilities, rounding: InSixteenBits | None, distrust: str
) -> Finding:
    largest = largest_difference(expected, made)
    changed = sum(a.index(max(a)) != b.index(max(b)) for a, b in zip(expected, made, strict=True))
    found = f"largest difference {format_scientific(largest)} nats, {changed} of {len(made)} answers changed"
    exact, most = largest, FP32_TOLERANCE
    if rounding is not None:
        exact = largest_difference(rounding.expected, rounding.made)
        found += f"; rounding alone {format_scientific(rounding.floor)} nats; in fp32 {format_scientific(exact)}"
        most += FLOOR_MULTIPLE * rounding.floor
    if exact > FP32_TOLERANCE:
        return Finding(what, found, f"{distrust}: this architecture is computed incorrectly")
    if largest > most:
        return Finding(
            what,
            found,
            f"{distrust} by more than {format_significant(FLOOR_MULTIPLE)} times the rounding error of this model",
        )
    if changed:
        return Finding(what, found, f"{distrust} if two choices are almost equally likely; train.dtype=fp32 is exact")
    return Finding(what, found)


def letter_finding(chosen: Sequence[int], targets: Sequence[int]) -> Finding:
    """Which letters a model chooses, and whether it beats guessing on easy questions."""
    n = len(chosen)
    letters = Counter(chosen)
    right = sum(a == b for a, b in zip(chosen, targets, strict=True))
    share, most = right / n, letters.most_common(1)[0]
    shown = " ".join(f"{letter} {letters[number]}" for number, letter in enumerate("ABCD"))
    found = f"{right} of {n} easy questions right; letters: {shown}"
    if share - 0.25 < 2 * math.sqrt(0.25 * 0.75 / n):
        return Finding(
            "letters (A to D)",
            found,
            "no better than guessing on easy questions: multiple-choice benchmarks (MMLU) say nothing about this model",
        )
    if most[1] > 0.6 * n:
        letter = "ABCD"[most[0]]
        return Finding("letters (A to D)", found, f"it answers {letter} most of the time: MMLU measures that bias too")
    return Finding("letters (A to D)", found)


def template_finding(raw: Sequence[int], in_template: Sequence[int], targets: Sequence[int]) -> Finding:
    """Choices in raw text and in the template."""
    n = len(raw)
    same = sum(a == b for a, b in zip(raw, in_template, strict=True))
    right = [sum(a == b for a, b in zip(chosen, targets, strict=True)) for chosen in (raw, in_template)]
    found = f"{same} of {n} answers are the same; correct: {right[0]} raw, {right[1]} in the template"
    if same < 0.8 * n:
        return Finding(
            "template on or off",
            found,
            "scores of choices depend on the template: compare only models that are prompted in the same way",
        )
    return Finding("template on or off", found)


def same_texts_finding(same: int, n: int, *, exact: bool) -> Finding:
    """Greedy answers generated one at a time and in batches."""
    found = f"{same} of {n} greedy answers are the same with batch size 1"
    if same == n:
        return Finding("batch size (answers)", found)
    if exact:
        why = "greedy answers depend on which items are batched together, which must not happen in fp32"
    else:
        why = "in 16 bits greedy answers depend on which items are batched together; train.dtype=fp32 is exact"
    return Finding("batch size (answers)", found, why)


def ending_finding(ended: int, n: int, most: int, *, in_template: bool) -> Finding:
    """How many answers end with a stop token."""
    prompts = "in the template" if in_template else "in raw text (no template is known)"
    found = f"{ended} of {n} answers ended by themselves within {most} tokens, {prompts}"
    if not ended:
        why = "no answer ended by itself: generative benchmarks measure where answers are cut off"
        return Finding("end of answers", found, why)
    if ended < 0.8 * n:
        why = "many answers do not end by themselves: report the number of cut answers with each generative score"
        return Finding("end of answers", found, why)
    return Finding("end of answers", found)
