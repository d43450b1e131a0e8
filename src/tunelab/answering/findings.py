"""What a check found, in numbers and in words: what to distrust, and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

LogProbabilities = Sequence[tuple[float, ...]]

#: Log-probabilities that should be equal may differ by this much in fp32, where only the order of sums differs (nats).
FP32_TOLERANCE = 1e-3

#: In 16 bits they may differ by this many times what the model's own two kinds of attention differ by: two right ways
#: of computing it, as ours and its own are.
FLOOR_MULTIPLE = 4.0


@dataclass(frozen=True)
class InSixteenBits:
    """What it takes to judge a difference in 16 bits: the same two ways in fp32, and what rounding alone does.

    Args:
        expected, made: log-probabilities of a small fp32 model of the same class and configuration, both ways.
        floor: largest difference of the model's own log-probabilities under its two kinds of attention, nats.
    """

    expected: LogProbabilities
    made: LogProbabilities
    floor: float


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: what was looked at.
        found: the numbers.
        distrust: what should not be believed, in a sentence; "" = nothing to distrust here.
    """

    what: str
    found: str
    distrust: str = ""


def batch_finding(
    alone: LogProbabilities, together: LogProbabilities, rounding: InSixteenBits | None = None
) -> Finding:
    """Log-probabilities of questions that are run alone, and together with others; `rounding` unless in fp32."""
    return _same_likelihoods(
        "batch size (choices)", alone, together, rounding, "scores depend on which items are run together"
    )


def prefix_finding(whole: LogProbabilities, shared: LogProbabilities, rounding: InSixteenBits | None = None) -> Finding:
    """Log-probabilities with worked examples run once for all questions, and with every prompt run whole."""
    return _same_likelihoods(
        "shared few-shot prefix", whole, shared, rounding, "sharing the few-shot examples changes the scores"
    )


def largest_difference(expected: LogProbabilities, made: LogProbabilities) -> float:
    """Of the log-probabilities of all choices, nats."""
    return max(abs(a - b) for one, other in zip(expected, made, strict=True) for a, b in zip(one, other, strict=True))


def _same_likelihoods(
    what: str, expected: LogProbabilities, made: LogProbabilities, rounding: InSixteenBits | None, distrust: str
) -> Finding:
    largest = largest_difference(expected, made)
    changed = sum(a.index(max(a)) != b.index(max(b)) for a, b in zip(expected, made, strict=True))
    found = f"largest difference {largest:.1e} nats, {changed} of {len(made)} answers changed"
    exact, most = largest, FP32_TOLERANCE
    if rounding is not None:
        exact = largest_difference(rounding.expected, rounding.made)
        found += f"; rounding alone {rounding.floor:.1e} nats; in fp32 {exact:.1e}"
        most += FLOOR_MULTIPLE * rounding.floor
    if exact > FP32_TOLERANCE:
        return Finding(what, found, f"{distrust}: this architecture is not computed as it should be")
    if largest > most:
        return Finding(
            what, found, f"{distrust} by more than {FLOOR_MULTIPLE:g} times what rounding does to this model"
        )
    if changed:
        return Finding(what, found, f"{distrust}, where two choices are nearly as likely; train.dtype=fp32 is exact")
    return Finding(what, found)


def letter_finding(chosen: Sequence[int], targets: Sequence[int]) -> Finding:
    """Which letters a model chooses, and whether it answers easy questions better than a guesser."""
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
            "no better than a guesser on easy questions: benchmarks of letters (MMLU) say nothing about this model",
        )
    if most[1] > 0.6 * n:
        letter = "ABCD"[most[0]]
        return Finding("letters (A to D)", found, f"it says {letter} most of the time: MMLU measures that too")
    return Finding("letters (A to D)", found)


def template_finding(raw: Sequence[int], in_template: Sequence[int], targets: Sequence[int]) -> Finding:
    """Choices in raw text and in the template."""
    n = len(raw)
    same = sum(a == b for a, b in zip(raw, in_template, strict=True))
    right = [sum(a == b for a, b in zip(chosen, targets, strict=True)) for chosen in (raw, in_template)]
    found = f"{same} of {n} answers are the same; right: {right[0]} raw, {right[1]} in the template"
    if same < 0.8 * n:
        return Finding(
            "template on or off",
            found,
            "scores of choices depend on the template: compare models only where all are asked in the same way",
        )
    return Finding("template on or off", found)


def same_texts_finding(same: int, n: int, *, exact: bool) -> Finding:
    """Greedy answers made alone, and together with others."""
    found = f"{same} of {n} greedy answers are the same alone"
    if same == n:
        return Finding("batch size (answers)", found)
    if exact:
        why = "greedy answers depend on which items are run together, which should not be in fp32"
    else:
        why = "in 16 bits greedy answers depend on which items are run together; train.dtype=fp32 is exact"
    return Finding("batch size (answers)", found, why)


def ending_finding(ended: int, n: int, most: int, *, in_template: bool) -> Finding:
    """How many answers end by themselves."""
    wording = "in the template" if in_template else "in raw text (no template is known)"
    found = f"{ended} of {n} answers ended by themselves within {most} tokens, {wording}"
    if not ended:
        why = "no answer ended by itself: generated benchmarks measure where answers are cut"
        return Finding("end of answers", found, why)
    if ended < 0.8 * n:
        why = "many answers do not end by themselves: count the cut answers beside each generated score"
        return Finding("end of answers", found, why)
    return Finding("end of answers", found)
