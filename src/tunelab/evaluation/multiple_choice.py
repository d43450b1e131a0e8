"""Grading, accuracies with their errors, and warnings for benchmarks that compare the likelihoods of choices.

A response is graded by the index of its likeliest choice; the text of the choices (" A", or "A" after a chat
template) does not matter. The accuracy is reported with two errors: one for independent items, and one for
items clustered by subject.

Source of the clustered error: Miller 2024, Adding Error Bars to Evals, section 2.2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Graded, Response, Score
from tunelab.evaluation.probabilities import probability_values
from tunelab.statistics.proportions import binomial_p
from tunelab.statistics.standard_errors import Estimate, clustered_mean_with_error, mean_with_error
from tunelab.units import LEVEL, format_number, format_p, format_share, format_significant, format_with_error

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

#: Above this share of one letter among the answers, the model may choose by letter rather than by content.
LETTER_SHARE = 0.6


def grade_choice(response: Response) -> dict[str, float]:
    """Values of a response whose target is the index of the right choice, from 0.

    Returns:
        accuracy: 1.0 if the likeliest choice is the right one, else 0.0.
        chosen: the index of the likeliest choice, the first one in a tie.
        tied: 1.0 for a tie, else 0.0.
        log_probability, brier, confidence: see probabilities.py; absent if a log-probability is not finite.

    Raises:
        DataError: the numbers of log-probabilities and choices differ, a value is not a number, or the target is not
            an index of a choice.
    """
    values, choices, target = response.log_probabilities, response.choices, response.target
    if not values or len(values) != len(choices):
        raise DataError(
            f"item {response.item}: {len(values)} log-probabilities for {len(choices)} choices: expected one of each",
            "this benchmark compares likelihoods of choices; a generated answer cannot be graded here",
        )
    if any(math.isnan(value) for value in values):
        raise DataError(f"item {response.item}: log-probabilities {list(values)} are not all numbers")
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < len(values):
        raise DataError(f"item {response.item}: target is {target!r}, expected an integer from 0 to {len(values) - 1}")
    best = max(values)
    chosen = values.index(best)
    return {
        "accuracy": float(chosen == target),
        "chosen": float(chosen),
        "tied": float(values.count(best) > 1),
        **probability_values(values, target),
    }


def accuracy(graded: Sequence[Graded], protocol: Mapping[str, Any], name: str = "accuracy") -> Score:
    """Share of right answers; its error assumes independent items.

    Raises:
        DataError: there are no responses.
    """
    return _score(name, mean_with_error(_values(graded)), {**protocol, "error": "items independent"})


def clustered_accuracy(graded: Sequence[Graded], protocol: Mapping[str, Any], cluster: str) -> Score:
    """Share of right answers; its error is clustered, and unknown for a single cluster.

    Args:
        graded: graded responses, each with its cluster.
        protocol: what must be equal for the value to be comparable.
        cluster: what a cluster is called ("subject").

    Raises:
        DataError: there are no responses.
    """
    estimate = clustered_mean_with_error(_values(graded), [one.response.cluster for one in graded])
    return _score("accuracy_clustered", estimate, {**protocol, "error": f"clustered by {cluster}"})


def macro_accuracy(graded: Sequence[Graded], protocol: Mapping[str, Any], cluster: str) -> Score:
    """Mean of the clusters' accuracies, all with the same weight.

    Its error is for resampling items within the same clusters: error² = sum(error_c²) / clusters²; unknown if
    a cluster has only one item.

    Raises:
        DataError: there are no responses.
    """
    parts = [mean_with_error(_values(part)) for part in by_cluster(graded).values()]
    if not parts:
        raise DataError("accuracy_macro: there are no responses to score")
    errors = [part.error for part in parts]
    known = [error for error in errors if error is not None]
    error = math.sqrt(math.fsum(one**2 for one in known)) / len(parts) if len(known) == len(errors) else None
    value = math.fsum(part.value for part in parts) / len(parts)
    protocol = {**protocol, "average": f"over {cluster}s", "error": f"within {cluster}s"}
    return _score("accuracy_macro", Estimate(value, error, len(graded)), protocol)


def by_cluster(graded: Sequence[Graded]) -> dict[str, list[Graded]]:
    """Responses by their cluster, clusters in the order of their first item."""
    parts: dict[str, list[Graded]] = {}
    for one in graded:
        parts.setdefault(one.response.cluster, []).append(one)
    return parts


def choice_facts(graded: Sequence[Graded]) -> dict[str, Any]:
    """Counts that explain accuracies: letters chosen, right letters, ties, truncated prompts and their tokens."""
    places = range(max((len(one.response.choices) for one in graded), default=0))
    chosen = Counter(int(one.values["chosen"]) for one in graded)
    right = Counter(int(one.response.target) for one in graded)
    return {
        "letters_chosen": {LETTERS[place]: chosen[place] for place in places},
        "letters_right": {LETTERS[place]: right[place] for place in places},
        "ties": sum(int(one.values["tied"]) for one in graded),
        "truncated_prompts": sum(one.response.truncated_tokens > 0 for one in graded),
        "truncated_tokens": sum(one.response.truncated_tokens for one in graded),
        "longest_prompt_tokens": max((one.response.prompt_tokens for one in graded), default=0),
    }


def near_chance(score: Score, right: int, chance: float) -> list[str]:
    """A doubt if a model that guesses could have this accuracy, or if it is below chance.

    Few items have a standard error of 0 where all are wrong or all right, so the exact binomial test must agree.

    Args:
        right: how many of the score's items are right.
        chance: the mean over the items, if their numbers of choices differ: right guesses then vary less than the
            binomial test assumes (Hoeffding 1956), which makes its p an upper bound.
    """
    error, p = score.error or 0.0, binomial_p(right, score.n, chance)
    shown = format_with_error(score.value, error) if error else format_significant(score.value)
    exact = f"chance ({format_number(chance, 2)}, exact binomial {format_p(p)})"
    if chance - score.value > 2 * error and p < LEVEL:
        return [f"{score.name} {shown} is below {exact}: wrong answers are preferred, or choices are mixed up"]
    if score.value - chance <= 2 * error or p >= LEVEL:
        return [f"{score.name} {shown} of {score.n:,} items cannot be told from {exact}: the model may be guessing"]
    return []


def doubts(graded: Sequence[Graded], scores: Sequence[Score], chance: float) -> list[str]:
    """Reasons to read the accuracies with caution, one sentence each; empty if there are none.

    Args:
        graded: the scored responses.
        scores: their accuracies; the one with the largest error decides whether guessing is ruled out.
        chance: accuracy of a model that guesses, 0 to 1.
    """
    found = []
    known = [score for score in scores if score.error is not None]
    widest = max(known, key=lambda score: score.error or 0.0, default=None)
    if widest is not None and widest.error is not None:
        found += near_chance(widest, round(widest.value * widest.n), chance)
    counts = Counter(int(one.values["chosen"]) for one in graded)
    for place, count in counts.most_common(1):
        if len(graded) > 1 and count > LETTER_SHARE * len(graded):
            found.append(
                f"{format_share(count / len(graded), 0)} of the answers are {LETTERS[place]}: the model may be choosing"
                " by letter and not by content"
            )
    if cut := sum(one.response.truncated_tokens > 0 for one in graded):
        found.append(
            f"{cut} of {len(graded)} prompts exceed the model's context: their beginning was truncated"
            " (header and first examples): use fewer shots"
        )
    return found


def _values(graded: Sequence[Graded]) -> list[float]:
    return [float(one.values["accuracy"]) for one in graded]


def _score(name: str, estimate: Estimate, protocol: Mapping[str, Any]) -> Score:
    return Score(name, estimate.value, estimate.error, estimate.n, "0-1", True, protocol)
