"""Grades and scores of benchmarks that compare whole continuations, as lm-evaluation-harness does; shared by several.

accuracy is the harness's acc: the choice with the largest log-probability. accuracy_norm is its acc_norm: the largest
log-probability per character of the choice, the space before it not counted (lm_eval/api/task.py, process_results).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.evaluation.benchmark import Graded, Item, Response, Scored
from tunelab.evaluation.benchmarks._scores import mean_score
from tunelab.evaluation.multiple_choice import accuracy, choice_facts, doubts, grade_choice
from tunelab.evaluation.probabilities import probability_scores


def grade_endings(response: Response) -> dict[str, float]:
    """grade_choice's values, and `accuracy_norm`: 1.0 if the likeliest choice per character is the right one.

    Raises:
        DataError: as grade_choice().
    """
    values = grade_choice(response)
    per_character = [
        value / length if (length := len(choice.removeprefix(" "))) else -math.inf
        for value, choice in zip(response.log_probabilities, response.choices, strict=True)
    ]
    chosen = per_character.index(max(per_character))
    return {**values, "accuracy_norm": float(chosen == response.target)}


def summarise_endings(graded: Sequence[Graded], follows: str) -> Scored:
    """Accuracy, accuracy_norm where responses were graded by it, and the scores of probabilities.py.

    Args:
        graded: at least one.
        follows: the harness's task whose prompts these are.

    Raises:
        DataError: there are no responses.
    """
    protocol: dict[str, Any] = {"follows": f"lm-evaluation-harness {follows}"}
    scores = [accuracy(graded, protocol)]
    if all("accuracy_norm" in one.values for one in graded):
        by = {**protocol, "error": "items independent", "normalized": "log-probability per character of the choice"}
        scores.append(mean_score("accuracy_norm", [one.values["accuracy_norm"] for one in graded], by))
    chance = math.fsum(1 / len(one.response.choices) for one in graded) / len(graded)
    return Scored(
        scores=[*scores, *probability_scores(graded, protocol)],
        warnings=doubts(graded, scores[:1], chance),
        facts={"chance": chance, **choice_facts(graded)},
    )


def example_responses(item: Item, right: Sequence[float], wrong: Sequence[float]) -> tuple[Response, Response]:
    """A right and a wrong response to an example item, from the log-probabilities of its choices."""

    def response(values: Sequence[float]) -> Response:
        lengths = tuple(3 for _ in values)
        same: Mapping[str, Any] = {"question": item.question, "target": item.target, "choices": item.choices}
        return Response(item.id, "", log_probabilities=tuple(values), choice_tokens=lengths, **same)

    return response(right), response(wrong)
