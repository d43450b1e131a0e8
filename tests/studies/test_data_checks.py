"""A report's caveats say what the data checks found in its rows, once for all trainings on the same ones."""

from __future__ import annotations

from typing import Any

from tunelab.studies.data_checks import data_check_sentences


def test_one_sentence_for_the_same_findings() -> None:
    found = {"errors": {"no-end-token": 1200}, "warnings": {"duplicates": 12}, "allowed": ["no-end-token"]}
    runs: dict[str, dict[str, Any] | None] = {"a": found, "b": found}
    said = "no-end-token (1,200 rows, an error that was allowed), duplicates (12 rows)"
    assert list(data_check_sentences(runs)) == [
        f"The data checks found in the rows: {said}. `tunelab lint` shows them."
    ]
    runs |= {"c": {"errors": {}, "warnings": {}, "allowed": []}, "older": None}
    assert list(data_check_sentences(runs)) == [
        f"The data checks found in the rows of a, b: {said}. `tunelab lint` shows them."
    ]
