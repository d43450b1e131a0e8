"""ROUGE F-measures against hand-computed overlaps; errors of the mean."""

from __future__ import annotations

import math

import pytest

from tunelab.errors import DataError
from tunelab.evaluation.metrics.rouge import rouge_by_item, rouge_scores


def test_f_measures_by_hand() -> None:
    # reference: 6 words, response: 4 words. Unigrams in common: the, cat, sat = 3. Bigrams: "the cat", "cat sat" = 2.
    # Longest common subsequence: the cat sat = 3.
    values = rouge_by_item(["the cat sat down"], ["The cat sat on a mat."])
    assert values["rouge1"] == [pytest.approx(100 * 2 * (3 / 4) * (3 / 6) / (3 / 4 + 3 / 6))]
    assert values["rouge2"] == [pytest.approx(100 * 2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5))]
    assert values["rougeL"] == values["rouge1"]


def test_order_matters_to_rouge_l_and_not_to_rouge_1() -> None:
    values = rouge_by_item(["mat cat"], ["cat mat"])
    assert (values["rouge1"], values["rougeL"]) == ([100.0], [50.0])


def test_scores_are_means_with_their_errors() -> None:
    scores = rouge_scores(["cat mat", "dog"], ["cat mat", "cat"])
    assert [score.name for score in scores] == ["rouge1", "rouge2", "rougeL"]
    for score in scores:
        assert (score.value, score.n, score.unit, score.higher_is_better) == (50.0, 2, "0-100", True)
        assert score.error == pytest.approx(math.sqrt((50**2 + 50**2) / (2 * 1)))
        assert str(score.protocol["implementation"]).startswith("rouge-score 0.")
    assert rouge_scores(["cat"], ["cat"])[0].error is None
    known = rouge_by_item(["cat mat", "dog"], ["cat mat", "cat"])
    assert rouge_scores(["cat mat", "dog"], ["cat mat", "cat"], by_item=known) == scores


def test_empty_answers_score_zero_and_empty_references_are_refused() -> None:
    assert [score.value for score in rouge_scores(["", " \n"], ["cat", "mat"])] == [0.0, 0.0, 0.0]
    with pytest.raises(DataError, match="rouge: the reference of item 0 is empty"):
        rouge_scores(["cat"], [""])


def test_references_that_rouge_cannot_read_are_counted() -> None:
    (first, *_) = rouge_scores(["水は冷たい", "cat"], ["水は冷たい", "cat"])
    assert first.value == 50.0
    assert first.protocol["references_without_tokens"] == 1
