"""Log-probability of the right choice, Brier score and calibration error against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tunelab.evaluation.benchmark import Graded, Response
from tunelab.evaluation.multiple_choice import grade_choice
from tunelab.evaluation.probabilities import (
    calibration_counts,
    calibration_error_of_counts,
    choice_shares,
    probability_scores,
    probability_values,
)


def graded(shares: list[tuple[float, float]]) -> list[Graded]:
    """Items of two choices with these probabilities, the first of them right."""
    made = []
    for number, pair in enumerate(shares):
        values = tuple(math.log(share) for share in pair)
        one = Response(str(number), "", "q", 0, choices=(" a", " b"), log_probabilities=values)
        made.append(Graded(one, grade_choice(one)))
    return made


def test_values_of_an_item() -> None:
    """Shares 0.2 and 0.6 of a total of 0.8 are 1/4 and 3/4."""
    values = probability_values([math.log(0.2), math.log(0.6)], 0)
    assert values == pytest.approx({"log_probability": math.log(0.2), "brier": 2 * 0.75**2, "confidence": 0.75})


def test_choices_of_many_tokens_do_not_underflow() -> None:
    assert choice_shares([-2000.0, -2000.0 + math.log(3)]) == pytest.approx([0.25, 0.75])


def test_an_item_without_finite_values_has_none() -> None:
    assert probability_values([-math.inf, -1.0], 1) == {}
    assert probability_scores([Graded(Response("0", "", "q", 0), {"accuracy": 1.0})], {}) == []


def test_the_calibration_error_by_hand() -> None:
    """Bin 0.9: two items, both right, gap 0.05; bin 0.6: confidence 0.65, wrong, gap 0.65. (2 * 0.05 + 0.65) / 3."""
    by_name = {
        one.name: one for one in probability_scores(graded([(0.95, 0.05), (0.95, 0.05), (0.35, 0.65)]), {"p": 1})
    }
    error = by_name["calibration_error"]
    assert error.value == pytest.approx((2 * 0.05 + 0.65) / 3) and error.n == 3
    assert error.error is not None and error.error > 0 and not error.higher_is_better
    log_probability = by_name["log_probability"]
    values = [math.log(0.95), math.log(0.95), math.log(0.35)]
    assert log_probability.value == pytest.approx(sum(values) / 3)
    assert log_probability.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(3))
    assert by_name["brier"].value == pytest.approx((2 * 2 * 0.05**2 + 2 * 0.65**2) / 3)
    assert all(one.protocol["p"] == 1 for one in by_name.values())


def test_full_confidence_is_in_the_last_bin() -> None:
    counts = calibration_counts(1.0, 1.0)
    assert counts == (*[0.0] * 10, 1.0)
    both = np.array([calibration_counts(1.0, 0.0), calibration_counts(1.0, 1.0)])
    assert float(calibration_error_of_counts(both.sum(axis=0))) == 0.5


def test_a_calibrated_model_has_an_error_near_zero() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 20_000)
    right = generator.uniform(size=20_000) < confidence
    counts = np.array([calibration_counts(p, r) for p, r in zip(confidence.tolist(), right.tolist(), strict=True)])
    assert float(calibration_error_of_counts(counts.sum(axis=0))) < 0.01


def test_brier_is_the_harness_s() -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics", reason="needs lm-evaluation-harness: pip install lm_eval")
    pairs = [(0.95, 0.05), (0.35, 0.65), (0.5, 0.5)]
    mine = next(one for one in probability_scores(graded(pairs), {}) if one.name == "brier")
    assert mine.value == pytest.approx(float(metrics.brier_score([(0, np.array(pair)) for pair in pairs])))
