"""HellaSwag, ARC, WinoGrande: prompts to the byte, the files of hub and release alike, bad rows refused by place.

tests/evaluation/test_harness_agreement.py compares prompts, likelihoods and verdicts with lm-evaluation-harness itself.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tunelab import plugins
from tunelab.errors import BadRow, DataError
from tunelab.evaluation.benchmark import Graded, Item, Response

ARC = {"question": "Why?", "choices": {"text": ["so", "no"], "label": ["1", "2"]}, "answerKey": "2"}
ARC_RELEASE = {
    "question": {"stem": "Why?", "choices": [{"text": "so", "label": "1"}, {"text": "no", "label": "2"}]},
    "answerKey": "2",
}
SWAG: dict[str, Any] = {
    "activity_label": "Making tea",
    "ctx_a": "[header] How to make tea [title] Boil water. [step] She waits.",
    "ctx_b": "the Kettle",
    "endings": ["[substeps] It is hot.", "sings.", "a  b", "c"],
    "label": "1",
}
GRANDE = {"sentence": "Ann met Bo_ and _ smiled. ", "option1": "a", "option2": "b", "answer": "2"}
FILES = {
    "hellaswag": ("hellaswag_val.jsonl", SWAG),
    "arc_easy": ("ARC-Easy-Test.jsonl", ARC),
    "arc_challenge": ("ARC-Challenge-Test.jsonl", ARC_RELEASE),
    "winogrande": ("dev.jsonl", GRANDE),
}


def items(folder: Path, name: str, **changes: Any) -> list[Item]:
    file, row = FILES[name]
    (folder / file).write_text(json.dumps({**row, **changes}) + "\n", encoding="utf-8")
    module = plugins.load("evaluation/benchmarks", name)
    found: list[Item] = module.items(folder, module.Options())
    return found


def test_hellaswag_removes_markup_and_keeps_what_is_left_of_it(tmp_path: Path) -> None:
    """The harness leaves the space before a removed bracket: the ending begins with two."""
    (item,) = items(tmp_path, "hellaswag")
    assert item.question == "Making tea:  How to make tea. Boil water. She waits. The kettle".replace("  ", " ")
    assert item.choices == ("  It is hot.", " sings.", " a b", " c") and item.target == 1


@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge"])
def test_arc_of_hub_and_release(name: str, tmp_path: Path) -> None:
    (item,) = items(tmp_path, name)
    assert item == Item("0", "Question: Why?\nAnswer:", 1, choices=(" so", " no"))


def test_winogrande_scores_what_follows_the_first_blank(tmp_path: Path) -> None:
    (item,) = items(tmp_path, "winogrande")
    assert item == Item("0", "Ann met Bo", 1, choices=("a", "b"), ending=" and _ smiled.")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("hellaswag", {"endings": ["a"]}, "row 1: 'endings' has 1 entries, expected four texts"),
        ("hellaswag", {"label": ""}, "row 1: 'label' is '', expected 0 to 3"),
        ("arc_easy", {"choices": ["a"]}, "row 1: column 'choices' is a list, expected an object"),
        ("arc_easy", {"choices": {"text": ["a"], "label": ["A", "B"]}}, "1 choices with 2 labels"),
        ("arc_easy", {"answerKey": "C"}, "row 1: 'answerKey' is 'C', expected one of 1, 2"),
        ("winogrande", {"sentence": "No blank."}, "row 1: 'sentence' has no blank"),
        ("winogrande", {"answer": ""}, "row 1: 'answer' is '', expected 1 or 2"),
    ],
)
def test_bad_rows_are_refused(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadRow, match=message):
        items(tmp_path, name, **changes)


def test_arc_needs_the_files_of_its_set(tmp_path: Path) -> None:
    items(tmp_path, "arc_easy")
    module = plugins.load("evaluation/benchmarks", "arc_challenge")
    with pytest.raises(DataError, match="contains no ARC-Challenge-Test"):
        module.items(tmp_path, module.Options())


def test_accuracy_norm_divides_by_characters_without_the_delimiter() -> None:
    """Lengths 2, 10 and none: -3 / 2 = -1.5 loses to -10 / 10, though -3 is the largest."""
    module = plugins.load("evaluation/benchmarks", "hellaswag")
    one = Response("0", "", "q", 1, choices=(" ab", " abcdefghij", " "), log_probabilities=(-3.0, -10.0, -0.1))
    grades = module.grade(one, module.Options())
    assert (grades["accuracy"], grades["accuracy_norm"]) == (0.0, 1.0)
    spaced = dataclasses.replace(one, choices=("  b", " abc", " "), log_probabilities=(-3.0, -4.2, -0.1))
    assert module.grade(spaced, module.Options())["accuracy_norm"] == 1.0


def test_the_summary_names_the_chance_of_these_items() -> None:
    module = plugins.load("evaluation/benchmarks", "arc_easy")
    rows = [
        Response(
            str(number), "", "q", 0, choices=(" a", " b", " c")[:size], log_probabilities=(-1.0, -2.0, -3.0)[:size]
        )
        for number, size in enumerate((2, 3))
    ]
    scored = module.summarise([Graded(one, module.grade(one, module.Options())) for one in rows], module.Options())
    assert [one.name for one in scored.scores] == [
        *("accuracy", "accuracy_norm"),
        *("log_probability", "brier", "calibration_error"),
    ]
    assert scored.facts["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert scored.scores[0].value == 1 and math.isfinite(scored.scores[-1].value)
