"""Scores between two budgets: where they are read, that they are the weighted means they claim to be, and that a
difference of nothing is called one in at most 6 % of studies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from study_files import write_evaluation

from tunelab.comparison.as_good import judge_difference
from tunelab.comparison.between_budgets import Reading, common_cost, noise_of_weight, read_at
from tunelab.comparison.evaluated import Evaluated, evaluated_in
from tunelab.comparison.paired_evaluations import CORPUS_STATISTICS, Side, Upper, compare_sides
from tunelab.config.budgets import CORPUS_METRICS
from tunelab.errors import DataError
from tunelab.statistics.crossed import Part, half_width

ITEMS, SEEDS, WEIGHT = 30, 3, 0.3


def test_a_curve_is_read_at_measured_points_and_between_them() -> None:
    assert read_at([10, 20, 40], 20) == Reading(1, 1, 0.0)
    assert read_at([10, 20, 40], 40 * (1 + 1e-12)) == Reading(2, 2, 0.0), "equal up to rounding"
    found = read_at([10, 20, 40], 30)
    assert (found.lower, found.upper) == (1, 2) and found.weight == pytest.approx(math.log(1.5) / math.log(2))
    with pytest.raises(DataError, match="a cost of 50 is outside of what was measured"):
        read_at([10, 20, 40], 50)


def test_two_arms_are_compared_where_the_cheaper_one_ends() -> None:
    assert common_cost([10, 20, 40], [5, 10, 20]) == common_cost([5, 10, 20], [10, 20, 40]) == 20
    with pytest.raises(DataError, match="the two have nothing in common: one ends before the other begins"):
        common_cost([10, 20], [2, 5])
    with pytest.raises(DataError, match="a larger budget did not cost more"):
        common_cost([10, 9.9, 40], [5, 10, 20])


def values_of(arm: int, budget: int) -> NDArray[np.float64]:
    """[seeds, items]"""
    items = np.random.default_rng(7).normal(50, 10, ITEMS)
    return items + np.random.default_rng([arm, budget]).normal(budget, 3, (SEEDS, ITEMS))


def evaluations(folder: Path, name: str, values: NDArray[np.float64], unit: str = "0-100") -> list[Evaluated]:
    places = [folder / f"{name}-{seed}" for seed in range(len(values))]
    for place, one in zip(places, values, strict=True):
        write_evaluation(place, one.tolist(), name, unit)
    return [evaluated_in(place)[0] for place in places]


def test_an_interpolated_arm_is_the_weighted_mean_of_two_trainings_of_each_seed(tmp_path: Path) -> None:
    low, high, other = values_of(0, 1), values_of(0, 3), values_of(1, 2)
    upper = Upper(evaluations(tmp_path, "full-high", high), WEIGHT)
    full = Side("full", evaluations(tmp_path, "full", low), is_tuned=True, upper=upper)
    lora = Side("lora", evaluations(tmp_path, "lora", other), is_tuned=True)
    found = compare_sides(full, lora)
    differences = other - ((1 - WEIGHT) * low + WEIGHT * high)  # [seeds, items], by hand
    of_items = differences.mean(axis=0).std(ddof=1) / math.sqrt(ITEMS)
    of_trainings = differences.mean(axis=1).std(ddof=1) / math.sqrt(SEEDS)
    assert found.difference == pytest.approx(differences.mean())
    assert [error for error, _ in found.parts] == pytest.approx([of_items, of_trainings])
    assert found.by_seed == pytest.approx(differences.mean(axis=1).tolist())
    assert (found.a_value, found.seeds, found.n) == (
        pytest.approx((1 - WEIGHT) * low.mean() + WEIGHT * high.mean()),
        3,
        30,
    )
    judged = judge_difference(full, lora, found, 1.0, both_ways=False)
    assert judged.value == pytest.approx(differences.mean())


def test_unlike_times_of_the_seeds_widen_the_interval(tmp_path: Path) -> None:
    low, high, other = values_of(0, 1), values_of(0, 9), values_of(1, 4)
    costs, reading = [10.0, 20.0], Reading(0, 1, WEIGHT)
    noise = noise_of_weight(costs, [0.1, 0.2], reading, 0.05)
    by_hand = math.sqrt((0.7 * 0.1) ** 2 + (0.3 * 0.2) ** 2 + 0.05**2) / math.log(2)
    assert noise == pytest.approx(by_hand) and noise_of_weight(costs, [0.1, 0.2], Reading(1, 1, 0.0), 0.05) == 0
    lower, upper = evaluations(tmp_path, "full", low), evaluations(tmp_path, "full-high", high)
    lora = Side("lora", evaluations(tmp_path, "lora", other), is_tuned=True)
    exact = Side("full", lower, is_tuned=True, upper=Upper(upper, WEIGHT))
    noisy = Side("full", lower, is_tuned=True, upper=Upper(upper, WEIGHT, Part(noise, 2.0)))
    known, found = compare_sides(exact, lora), compare_sides(noisy, lora)
    assert found.parts[:2] == known.parts and found.difference == known.difference
    assert found.parts[2] == (pytest.approx(by_hand * abs(high.mean() - low.mean())), 2.0)
    assert found.low < known.low < known.high < found.high and found.p > known.p
    assert found.degrees_in_words == "29, 2 and 2 degrees of freedom"
    bounds = [judge_difference(side, lora, known, 1.0, both_ways=False) for side in (exact, noisy)]
    assert bounds[1].low < bounds[0].low and bounds[1].value == bounds[0].value


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_nor_where_times_are_noisy(seeds: int) -> None:
    """The true scores at equal time are the same; each training takes up to 30 % more or less than it would."""
    random, studies, items, slope = np.random.default_rng(3), 2000, 100, 2.0
    true = np.log(np.array([10.0, 20.0, 14.0]))  # of the lower and the upper budget, and where the other arm ends
    times = np.exp(true[:, None, None] + random.normal(0, 0.15, (3, studies, seeds)))  # [budgets, studies, seeds]
    logs, errors = np.log(times.mean(axis=2)), times.std(axis=2, ddof=1) / math.sqrt(seeds) / times.mean(axis=2)
    weight = ((logs[2] - logs[0]) / (logs[1] - logs[0]))[:, None, None]
    truth = slope * (true[1] - true[0])  # between both budgets
    low, high, other = random.normal(0, 0.5, (3, studies, items, seeds))
    differences = other + slope * (true[2] - true[0]) - ((1 - weight) * low + weight * (high + truth))
    of_items = differences.mean(axis=2).std(axis=1, ddof=1) / math.sqrt(items)
    of_seeds = differences.mean(axis=1).std(axis=1, ddof=1) / math.sqrt(seeds)
    inner = weight[:, 0, 0]
    noise = np.sqrt(errors[2] ** 2 + ((1 - inner) * errors[0]) ** 2 + (inner * errors[1]) ** 2) / (logs[1] - logs[0])
    of_times = np.abs((high - low).mean(axis=(1, 2)) + truth) * noise
    difference = np.abs(differences.mean(axis=(1, 2)))
    degrees = [items - 1.0, seeds - 1.0, seeds - 1.0]
    assert (difference > half_width([of_items, of_seeds, of_times], degrees, 0.025)).mean() <= 0.06
    assert (difference > half_width([of_items, of_seeds], degrees[:2], 0.025)).mean() > 0.06, "it is needed"


def test_at_a_measured_budget_it_is_the_plain_comparison(tmp_path: Path) -> None:
    low, other = (values_of(0, 1) > 50).astype(float), (values_of(1, 2) > 50).astype(float)
    plain = [evaluations(tmp_path, name, one[:1], "0-1") for name, one in (("full", low), ("lora", other))]
    a, b = (Side(name, one, is_tuned=True) for name, one in zip(("full", "lora"), plain, strict=True))
    assert compare_sides(a, b).test == "McNemar's exact test"
    mixed = Side("full", plain[0], is_tuned=True, upper=Upper(plain[1], WEIGHT))
    found = compare_sides(mixed, b)
    assert found.test == "permutation test" and found.gained is None, "values between 0 and 1 are not right or wrong"


def test_evaluations_of_other_items_are_refused(tmp_path: Path) -> None:
    upper = Upper(evaluations(tmp_path, "short", values_of(0, 3)[:, :-1]), WEIGHT)
    full = Side("full", evaluations(tmp_path, "full", values_of(0, 1)), is_tuned=True, upper=upper)
    with pytest.raises(DataError, match="full, evaluation 1 of 6 and full, evaluation 4 of 6 cannot be compared"):
        compare_sides(full, Side("lora", evaluations(tmp_path, "lora", values_of(1, 2)), is_tuned=True))


@pytest.mark.parametrize("of_trainings", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_no_difference_is_called_one_in_at_most_6_percent_of_studies(seeds: int, of_trainings: float) -> None:
    """An arm between two budgets whose true weighted score is the other's; trainings vary much or not."""
    random, studies, items = np.random.default_rng(0), 2000, 100
    shape = (studies, items, seeds)
    noise = random.normal(0, 1, (3, *shape)) + random.normal(0, 0.7, (3, studies, items, 1))
    noise += random.normal(0, of_trainings, (3, studies, 1, seeds))
    low, high, other = noise
    differences = other + (1 - WEIGHT) * -0.5 + WEIGHT * 0.5 - ((1 - WEIGHT) * (low - 0.5) + WEIGHT * (high + 0.5))
    of_items = differences.mean(axis=2).std(axis=1, ddof=1) / math.sqrt(items)
    of_seeds = differences.mean(axis=1).std(axis=1, ddof=1) / math.sqrt(seeds)
    reach = half_width([of_items, of_seeds], [items - 1.0, seeds - 1.0], 0.025)
    assert (np.abs(differences.mean(axis=(1, 2))) > reach).mean() <= 0.06


def test_neither_is_it_of_right_or_wrong_answers_trained_once() -> None:
    """The permutation test of one training each: a right or wrong answer against the weighted mean of two."""
    random, studies, items, swaps = np.random.default_rng(1), 2000, 60, 400
    difficulty = random.random((studies, items))
    low, high = (random.random((studies, items)) < chance * difficulty for chance in (0.6, 1.0))
    other = random.random((studies, items)) < (0.6 * (1 - WEIGHT) + WEIGHT) * difficulty
    differences = other - ((1 - WEIGHT) * low + WEIGHT * high)
    signs = random.choice([-1.0, 1.0], (items, swaps))
    as_far = np.abs(differences @ signs) >= np.abs(differences.sum(axis=1, keepdims=True)) - 1e-12
    p = (as_far.sum(axis=1) + 1) / (swaps + 1)
    assert (p < 0.05).mean() <= 0.06


def test_a_study_refuses_match_by_every_corpus_metric() -> None:
    assert {metric for metrics in CORPUS_METRICS.values() for metric in metrics} == CORPUS_STATISTICS.keys()
