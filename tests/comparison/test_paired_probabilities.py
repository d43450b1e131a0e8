"""The right choice's log-probability, Brier score and calibration error of two models, paired over their items; from
responses alone, without a model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tunelab.comparison.compare_runs import compare_runs
from tunelab.comparison.evaluated import evaluated_in
from tunelab.comparison.paired_comparison import Comparison
from tunelab.comparison.paired_evaluations import Side, compare_sides
from tunelab.errors import UsageError
from tunelab.scoring.score import score_file

ITEMS = 80


def scored(folder: Path, sureness: float) -> Side:
    """A model that is right on three of four items, and as sure of its answers as it is told."""
    folder.mkdir()
    header = {"benchmark": "winogrande", "benchmark_options": {}, "items": ITEMS, "limit": None, "arm": folder.name}
    lines = [header]
    generator = np.random.default_rng(3)
    for number in range(ITEMS):
        share = sureness + generator.uniform(-0.04, 0.04)
        values = [math.log(share), math.log(1 - share)]
        response = {"item": str(number), "prompt_hash": folder.name, "question": "q", "target": int(number % 4 == 0)}
        lines.append({**response, "choices": ["a", "b"], "log_probabilities": values, "choice_tokens": [1, 1]})
    path = folder / "responses.jsonl"
    more = {"cluster": "", "text": "", "stop_reason": "", "prompt_tokens": 1, "truncated_tokens": 0, "answer_tokens": 0}
    text = [json.dumps(lines[0]), *(json.dumps({**more, **line}) for line in lines[1:])]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    score_file(path, workers=1)
    return Side(folder.name, evaluated_in(folder))


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:
    folder = tmp_path_factory.mktemp("probabilities")
    return scored(folder / "careful", 0.75), scored(folder / "sure", 0.95)


def compared(sides: tuple[Side, Side], metric: str | None) -> Comparison:
    return compare_sides(*sides, metric)


def test_answers_are_alike_but_confidence_is_not(sides: tuple[Side, Side]) -> None:
    assert compared(sides, None).difference == 0
    log_probability = compared(sides, "log_probability")
    assert log_probability.unit == "nats" and log_probability.higher_is_better and log_probability.difference < 0
    brier = compared(sides, "brier")
    assert brier.difference > 0 and brier.low <= brier.difference <= brier.high and not brier.higher_is_better


def test_compare_takes_them_by_name(sides: tuple[Side, Side]) -> None:
    folders = [side.seeds[0].folder for side in sides]
    found = compare_runs(*folders, metrics="brier,calibration_error")
    assert [one.metric for one in found] == ["accuracy", "brier", "calibration_error"]
    assert all(one.family == 3 for one in found)
    assert [one.metric for one in compare_runs(*folders, metrics=["accuracy"])] == ["accuracy"]
    with pytest.raises(UsageError, match="no compared benchmark was scored by bleu"):
        compare_runs(*folders, metrics=["brier", "bleu"])


def test_the_calibration_error_is_computed_anew_from_each_resample(sides: tuple[Side, Side]) -> None:
    found = compared(sides, "calibration_error")
    assert found.n == ITEMS and found.a_value < 0.05 and found.b_value == pytest.approx(0.2, abs=0.01)
    assert found.difference == pytest.approx(found.b_value - found.a_value)
    assert 0 < found.low < found.difference < found.high and found.p < 0.01
    (stored,) = [one for one in sides[1].seeds[0].scores if one.name == "calibration_error"]
    assert stored.value == pytest.approx(found.b_value)
