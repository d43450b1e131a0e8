"""Standard errors against cases computed by hand and against simulated repetition of the whole measurement."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelab.errors import DataError
from tunelab.statistics.standard_errors import (
    Estimate,
    clustered_mean_with_error,
    mean_with_error,
    paired_ratio_difference,
    ratio_with_error,
)


def test_mean_by_hand() -> None:
    # deviations -1.5 -0.5 0.5 1.5: variance 5/3, error sqrt(5/3 / 4)
    assert mean_with_error([1, 2, 3, 4]) == Estimate(2.5, pytest.approx(math.sqrt(5 / 12)), 4)


def test_clustered_mean_by_hand() -> None:
    # mean 0.5; deviations a: +0.5 +0.5, b: -0.5 -0.5, c: +0.5 -0.5; sums 1, -1, 0; 3/2 * (1 + 1) / 6²
    estimate = clustered_mean_with_error([1, 1, 0, 0, 1, 0], ["a", "a", "b", "b", "c", "c"])
    assert estimate == Estimate(0.5, pytest.approx(math.sqrt(3 / 2 * 2 / 36)), 6)
    # clusters of unequal size: mean 0.6; sums a: 3 * 0.4 = 1.2, b: 2 * -0.6 = -1.2; 2/1 * 2 * 1.44 / 5²
    estimate = clustered_mean_with_error([1, 1, 0, 1, 0], ["a", "a", "b", "a", "b"])
    assert estimate == Estimate(0.6, pytest.approx(math.sqrt(2 * 2 * 1.44 / 25)), 5)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=15))
def test_clusters_of_one_item_are_no_clusters(values: list[float]) -> None:
    plain = mean_with_error(values)
    clustered = clustered_mean_with_error(values, [str(place) for place in range(len(values))])
    assert (clustered.value, clustered.n) == (plain.value, plain.n)
    assert clustered.error == pytest.approx(plain.error, rel=1e-9, abs=1e-12)


def test_items_that_repeat_each_other_within_a_cluster_add_no_certainty() -> None:
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    names = list("abcde")
    once = clustered_mean_with_error(values, names)
    four_times = clustered_mean_with_error(values * 4, names * 4)
    assert four_times == Estimate(once.value, pytest.approx(once.error), 20)
    naive = mean_with_error(values * 4).error
    assert naive is not None and once.error is not None and naive < 0.6 * once.error


def test_items_without_a_cluster_are_independent() -> None:
    values = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    named = clustered_mean_with_error(values, ["a", "a", "b", "c", "d", "e"])
    assert clustered_mean_with_error(values, ["a", "a", "", "", "", ""]) == named
    assert clustered_mean_with_error(values, [""] * 6).error == pytest.approx(mean_with_error(values).error)


def test_a_single_cluster_has_no_known_error() -> None:
    assert clustered_mean_with_error([1.0, 0.0], ["a", "a"]) == Estimate(0.5, None, 2)


def test_ratio_by_hand() -> None:
    # R = 6/4 = 1.5; residuals y - Rx = (2 - 1.5, 4 - 4.5) = (0.5, -0.5); 2/1 * 0.5 / 16
    assert ratio_with_error([2, 4], [1, 3]) == Estimate(1.5, pytest.approx(math.sqrt(2 * 0.5 / 16)), 2)


def test_paired_difference_by_hand() -> None:
    # a: R = 1.5, residuals / mean(x) = (0.25, -0.25); b: R = 3/4, residuals (0.25, -0.25) / 2 = (0.125, -0.125)
    estimate = paired_ratio_difference([2, 4], [1, 3], [1, 2], [1, 3])
    assert estimate == Estimate(0.75, pytest.approx(math.sqrt(2 * 0.125**2 / 2)), 2)


def test_equal_weights_make_a_ratio_the_plain_mean() -> None:
    values = [0.3, 1.9, 2.2, 5.0, 4.1]
    plain, weighted = mean_with_error(values), ratio_with_error([7 * v for v in values], [7] * 5)
    assert (weighted.value, weighted.error) == (pytest.approx(plain.value), pytest.approx(plain.error))


def test_paired_difference_of_a_thing_with_itself_is_exactly_zero() -> None:
    y, x = [3.0, 5.5, 1.2], [2, 4, 1]
    assert paired_ratio_difference(y, x, y, x) == Estimate(0.0, 0.0, 3)


def test_one_row_has_no_known_error() -> None:
    assert mean_with_error([3.0]) == Estimate(3.0, None, 1)
    assert ratio_with_error([3.0], [2.0]) == Estimate(1.5, None, 1)
    assert paired_ratio_difference([3.0], [2.0], [1.0], [2.0]) == Estimate(1.0, None, 1)


def test_a_row_without_weight_still_counts_as_a_row() -> None:
    estimate = ratio_with_error([2, 4, 0], [1, 3, 0])
    assert estimate == Estimate(1.5, pytest.approx(math.sqrt(3 / 2 * 0.5 / 16)), 3)


def _rows(generator: np.random.Generator, repetitions: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token counts and two models' nats, [repetitions, rows]: long rows are easier, hard rows are hard for both."""
    tokens = generator.integers(5, 120, (repetitions, rows)).astype(float)
    difficulty = generator.normal(0, 0.6, (repetitions, rows)) - 0.004 * tokens
    nats_a = tokens * (3.0 + difficulty + generator.normal(0, 0.2, (repetitions, rows)))
    nats_b = tokens * (2.9 + difficulty + generator.normal(0, 0.2, (repetitions, rows)))
    return tokens, nats_a, nats_b


def test_errors_equal_the_spread_over_repeated_measurements() -> None:
    tokens, nats_a, nats_b = _rows(np.random.default_rng(3), 1500, 80)
    ratios = [ratio_with_error(y, x) for y, x in zip(nats_a, tokens, strict=True)]
    spread = np.std([estimate.value for estimate in ratios], ddof=1)
    assert np.mean([estimate.error for estimate in ratios]) == pytest.approx(spread, rel=0.06)
    paired = [paired_ratio_difference(a, x, b, x) for a, b, x in zip(nats_a, nats_b, tokens, strict=True)]
    paired_spread = np.std([estimate.value for estimate in paired], ddof=1)
    assert np.mean([estimate.error for estimate in paired]) == pytest.approx(paired_spread, rel=0.06)
    # what the pairing is for: with the same rows on both sides the difference is known far better than either ratio
    assert paired_spread < spread / 1.5


def test_95_percent_intervals_cover_the_true_ratio() -> None:
    tokens, nats, _ = _rows(np.random.default_rng(5), 1500, 80)
    true = float(nats.sum() / tokens.sum())
    estimates = [ratio_with_error(y, x) for y, x in zip(nats, tokens, strict=True)]
    covered = np.mean([abs(e.value - true) < 1.96 * e.error for e in estimates if e.error is not None])
    assert 0.93 < covered < 0.965


@given(
    st.lists(st.tuples(st.floats(0, 50), st.integers(1, 50)), min_size=2, max_size=20),
    st.floats(0.1, 10),
    st.randoms(use_true_random=False),
)
def test_ratio_scales_and_ignores_row_order(rows: list[tuple[float, int]], scale: float, random: object) -> None:
    first = ratio_with_error([y for y, _ in rows], [x for _, x in rows])
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    second = ratio_with_error([scale * y for y, _ in shuffled], [x for _, x in shuffled])
    assert second.value == pytest.approx(scale * first.value, rel=1e-9, abs=1e-12)
    assert second.error == pytest.approx(scale * (first.error or 0), rel=1e-6, abs=1e-9)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="no values: there are no rows to evaluate"):
        mean_with_error([])
    with pytest.raises(DataError, match=r"values\[1\] is nan: expected a finite number"):
        mean_with_error([1.0, math.nan])
    with pytest.raises(DataError, match="2 values but 1 clusters: expected one of each per item"):
        clustered_mean_with_error([1.0, 2.0], ["a"])
    with pytest.raises(DataError, match="no values: there are no rows to evaluate"):
        clustered_mean_with_error([], [])
    with pytest.raises(DataError, match=r"values\[0\] is inf: expected a finite number"):
        clustered_mean_with_error([math.inf], ["a"])
    with pytest.raises(DataError, match="2 numerators but 1 denominators: expected one of each per row"):
        ratio_with_error([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match=r"denominators\[1\] is negative"):
        ratio_with_error([1.0, 2.0], [1.0, -2.0])
    with pytest.raises(DataError, match="all 2 denominators are 0"):
        ratio_with_error([1.0, 2.0], [0.0, 0.0])
    with pytest.raises(DataError, match="a has 2 rows and b has 3: a paired error needs the same rows"):
        paired_ratio_difference([1, 2], [1, 1], [1, 2, 3], [1, 1, 1])
