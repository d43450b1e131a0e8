"""A report says which arms answer with one letter, or no better than chance: they can lose nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunelab.comparison.evaluated import Evaluated
from tunelab.evaluation.benchmark import Graded, Score
from tunelab.evaluation.benchmarks import mmlu
from tunelab.studies.guessing import guessing


def on_mmlu(arm: str, chosen: list[int]) -> Evaluated:
    """An arm's evaluation on as many of MMLU's questions; A is right in the first quarter of them, then B, C, D."""
    graded = []
    for place, choice in enumerate(chosen):
        item = mmlu._ITEM
        response = mmlu.example_response(item, *(-1.0 if choice == other else -2.0 for other in range(4)))
        target = place * 4 // len(chosen)
        graded.append(Graded(response, {**mmlu.grade(response, mmlu.Options()), "accuracy": float(choice == target)}))
    return Evaluated(Path("here"), "mmlu", arm, mmlu.summarise(graded, mmlu.Options()).to_json())


def test_arms_that_answer_with_one_letter_are_named_with_the_share_of_it() -> None:
    always = on_mmlu("base", [0] * 40)
    nearly = on_mmlu("tuned", [1] * 4 + [0] * 36)
    knows = on_mmlu("better", [place * 4 // 40 for place in range(40)])
    found = list(guessing([("base", always), ("tuned", nearly), ("tuned", always), ("better", knows)]))
    assert found == [
        "mmlu: base and tuned chose one letter (A) for 90 to 100 % of the items: they may choose by letter and not by "
        "content, so a difference between arms, or none, says little.",
        "mmlu: the accuracy of base and tuned cannot be told from chance (0.25): arms that guess are as good as each "
        "other whatever they know.",
    ]


def test_an_arm_counts_only_with_all_its_seeds() -> None:
    knows = [place * 4 // 40 for place in range(40)]
    assert not list(guessing([("lora", on_mmlu("lora", [2] * 40)), ("lora", on_mmlu("lora", knows))]))


@pytest.mark.parametrize("content", [{}, {"facts": None}, {"facts": {"letters_chosen": {"A": 3, "B": 3}}}])
def test_other_benchmarks_and_older_evaluations_say_nothing(content: dict[str, Any]) -> None:
    score = Score("accuracy", 0.5, 0.1, 6, "0-1", True)
    one = Evaluated(Path("here"), "other", "base", {"scores": [score.to_json()], **content})
    assert not list(guessing([("base", one)]))
