"""Records go to JSON and back unchanged; a score without meaning cannot be made."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tunelab.errors import DataError, RunError
from tunelab.evaluation.benchmark import Score, check_pairs
from tunelab.evaluation.held_out import HeldOutAnswer, LikelihoodRecord

RESPONSE = HeldOutAnswer("7", "ab", "Zwölf.", (4, 5), "stop", 11, "Twelve.")
LIKELIHOOD = LikelihoodRecord("7", "ab", 0.1 + 0.2, 3, 12, 1 / 3, 9, 40)
SCORE = Score("bleu", 12.5, None, 1, "0-100", True, {"signature": "nrefs:1"})


@pytest.mark.parametrize("record", [RESPONSE, LIKELIHOOD, SCORE])
def test_json_and_back_is_the_same_to_the_bit(record: HeldOutAnswer | LikelihoodRecord | Score) -> None:
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize("record", [RESPONSE, LIKELIHOOD, SCORE])
def test_records_of_another_version_are_refused(record: HeldOutAnswer | LikelihoodRecord | Score) -> None:
    value = record.to_json()
    with pytest.raises(RunError, match=f"{type(record).__name__} record has unknown colour, taste"):
        type(record).from_json({**value, "taste": 1, "colour": 2})
    first = next(iter(value))
    with pytest.raises(RunError, match=f"{type(record).__name__} record lacks {first}"):
        type(record).from_json({key: value[key] for key in value if key != first})


@pytest.mark.parametrize(
    ("record", "changes", "expected"),
    [
        (RESPONSE, {"text": None}, "HeldOutAnswer record: text is null, expected text"),
        (LIKELIHOOD, {"completion_nll": "1"}, "LikelihoodRecord record: completion_nll is '1', expected a number"),
        (LIKELIHOOD, {"completion_tokens": True}, "completion_tokens is true, expected an integer"),
        (SCORE, {"higher_is_better": 1}, "Score record: higher_is_better is 1, expected true or false"),
        (SCORE, {"error": []}, r"Score record: error is \[\], expected a number or null"),
    ],
)
def test_values_of_another_type_are_refused(
    record: HeldOutAnswer | LikelihoodRecord | Score, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RunError, match=expected):
        type(record).from_json({**record.to_json(), **changes})


def test_a_score_is_finite() -> None:
    with pytest.raises(DataError, match="bleu: nan ± None is not a score: expected finite numbers"):
        dataclasses.replace(SCORE, value=float("nan"))
    with pytest.raises(DataError, match=r"bleu: 1\.0 ± inf is not a score"):
        dataclasses.replace(SCORE, value=1.0, error=float("inf"))


def test_pairs_that_cannot_be_scored_are_refused() -> None:
    check_pairs("bleu", ["", "b"], ["a", "b"])
    with pytest.raises(DataError, match="bleu: 1 responses but 2 references"):
        check_pairs("bleu", ["a"], ["a", "b"])
    with pytest.raises(DataError, match="bleu: there are no responses to score"):
        check_pairs("bleu", [], [])
    with pytest.raises(DataError, match="bleu: the reference of item 1 is empty"):
        check_pairs("bleu", ["a", "b"], ["a", " \n"])
