"""A study's answers, from evaluations alone: one family of questions, their margins, reasons where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_files import write_evaluation

from tunelab.comparison.evaluated import Evaluated, evaluated_in
from tunelab.config.study import Study, parse_study
from tunelab.studies.budget_curves import Curves
from tunelab.studies.study_answers import LATE, StudyAnswers, study_answers

#: Share of right answers of each arm; "base" is not tuned.
RIGHT = {"base": 0.3, "lora": 0.7, "nf4": 0.69, "poor": 0.4}
ITEMS = 400


def study_of(*asked: dict[str, Any]) -> Study:
    return parse_study(
        {
            "title": "t",
            "recipe": {"model": "gpt2", "data": {"sources": ["alpaca"]}},
            "arms": {name: {"tuned": name != "base"} for name in RIGHT},
            "seeds": [0, 1, 2],
            "benchmarks": {"mmlu": {}},
            "budgets": {"train.steps": [3, 6]} if any("match" in one for one in asked) else None,
            "questions": [{"ask": "?", "on": "mmlu", **one} for one in asked],
        }
    )


#: Curves of arms that no budget has been trained at.
NOTHING_TRAINED = Curves({arm: [] for arm in RIGHT}, lambda arm, benchmark, budget: {})

Answer = Callable[..., StudyAnswers]


@pytest.fixture
def answer(tmp_path: Path) -> Answer:
    """Answers to questions about arms that were evaluated on right-or-wrong items; without some of them, or in another
    unit."""

    def answered(*asked: dict[str, Any], unit: str = "0-1", without: str = "", late: int = 0) -> StudyAnswers:
        study = study_of(*asked)
        luck = np.random.default_rng(0).random(ITEMS)

        def evaluated(arm: str, _: str) -> list[Evaluated]:
            seeds = 3 if study.arms[arm].tuned else 1
            folders = [tmp_path / f"{arm}-{seed}" for seed in range(seeds)] if arm != without else []
            for seed, folder in enumerate(folders):
                own = np.random.default_rng([len(arm), seed]).random(ITEMS)
                redrawn = np.random.default_rng([seed, len(arm)]).random(ITEMS) < 0.05
                right = np.where(redrawn, own, luck) < RIGHT[arm]
                write_evaluation(folder, right.astype(float).tolist(), arm, unit)
            return [evaluated_in(folder)[0] for folder in folders]

        return study_answers(study, evaluated, study.questions[:late], NOTHING_TRAINED)

    return answered


def test_questions_are_one_family_whatever_they_ask(answer: Answer) -> None:
    asked = [
        {"is_better": "lora", "than": "base"},
        {"is_as_good": "nf4", "as": "lora"},
        {"is_as_good": "poor", "as": "lora"},
        {"is_like": "nf4", "to": "lora", "within": 0.2},
    ]
    found = answer(*asked)
    assert [one.verdict for one in found.questions] == ["better", "as good", "worse beyond margin", "alike"]
    first, kept, lost, alike = (one.answer for one in found.questions)
    assert "after Holm over 4 comparisons" in first and "400" not in first
    assert (
        kept.startswith("Yes, within the margin: nf4 keeps 102 %")
        and "of what lora gained over base (at least 9" in kept
    )
    assert all(
        "; over items and 3 trainings, p" in one and "after Holm over 4 questions)" in one for one in (kept, lost)
    )
    assert "asked: at least 90 %" in lost and "margin 20 points" in alike
    # Each arm against the first is compared too; nothing asks for two of these.
    exploratory = {(one.a_name, one.b_name): one.exploratory for one in found.comparisons}
    assert exploratory == {
        **{("base", "lora"): False, ("base", "nf4"): True, ("base", "poor"): True},
        **{("lora", "nf4"): False, ("lora", "poor"): False},
    }
    families = {(one.a_name, one.b_name): one.family for one in found.comparisons}
    assert families["base", "lora"] == 4 and families["base", "nf4"] == 2
    assert found.refused == []


def test_why_an_answer_is_not_known(answer: Answer) -> None:
    (no_base,) = answer({"is_as_good": "nf4", "as": "lora"}, without="base").questions
    assert no_base.answer == (
        "Not known: base, which the gain of lora is measured from, was not evaluated on mmlu; run the study again."
    )
    (no_unit,) = answer({"is_as_good": "lora", "as": "base"}, unit="seconds").questions
    assert no_unit.answer == (
        "Not known: exact is in seconds, which has no default margin; write `within` in the study."
    )
    for within, unit, said in (
        (0.01, "0-100", "within: 0.01 of a metric from 0 to 100 is 0.01 points; write 1 if you mean 1 points."),
        (1, "0-1", "within: 1 is no margin of a metric from 0 to 1: every difference is within it; a point of it is 0"),
    ):
        (wrong,) = answer({"is_as_good": "lora", "as": "base", "within": within}, unit=unit).questions
        assert wrong.answer.startswith(f"Not known: {said}")
    (unmeasured,) = answer({"is_as_good": "nf4", "as": "lora"}, without="nf4").questions
    assert (unmeasured.answer, unmeasured.verdict) == ("Unknown: the two arms were not both measured.", "unknown")


def test_a_gain_is_not_needed_against_a_model_that_is_not_tuned(answer: Answer) -> None:
    (found,) = answer({"is_as_good": "lora", "as": "base"}).questions
    assert found.verdict == "as good" and "margin 1 point; " in found.answer, "better is as good"


def test_what_was_asked_after_results_were_there_is_marked(answer: Answer) -> None:
    late, early = answer({"is_better": "lora", "than": "base"}, {"is_as_good": "nf4", "as": "lora"}, late=1).questions
    assert late.answer.endswith(f"). {LATE}") and LATE not in early.answer
    (unread,) = answer({"is_better": "lora", "than": "nf4", "match": "time"}, late=1).questions
    assert unread.answer.startswith("Not measured: ") and unread.answer.endswith(f" {LATE}")
    (unmeasured,) = answer({"is_as_good": "nf4", "as": "lora"}, without="nf4", late=1).questions
    assert unmeasured.answer == f"Unknown: the two arms were not both measured. {LATE}"
