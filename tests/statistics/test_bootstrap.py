"""The paired bootstrap against scipy's, its own symmetries, and the clock."""

from __future__ import annotations

import math
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.errors import DataError
from tunelab.statistics.bootstrap import BootstrapMethod, _level, _score_of_zero, paired_bootstrap

pairs = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=40)
answers = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=2, max_size=300)


def _sides(rows: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in rows], [b for _, b in rows]


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("binary", [False, True])
def test_interval_is_that_of_scipy(method: BootstrapMethod, binary: bool) -> None:
    random = np.random.default_rng(3)
    a = (random.random(150) < 0.5).astype(float) if binary else random.normal(size=150)
    b = np.where(random.random(150) < 0.3, random.random(150) < 0.7, a) if binary else random.exponential(size=150)
    ours = paired_bootstrap(a.tolist(), b.tolist(), method=method, resamples=20_000, widened=False)
    theirs = scipy.stats.bootstrap(
        (b - a,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(4)
    ).confidence_interval
    grain = 0.04 * (theirs.high - theirs.low)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=grain)


def test_clustered_interval_is_that_of_scipy() -> None:
    random = np.random.default_rng(5)
    sizes = random.integers(1, 12, size=25)
    clusters = np.repeat(np.arange(25), sizes)
    b = (random.exponential(size=25)[clusters] + random.normal(size=len(clusters))).tolist()
    names = [f"subject {cluster}" for cluster in clusters]
    ours = paired_bootstrap([0.0] * len(b), b, names, resamples=20_000, widened=False)
    sums = np.bincount(clusters, weights=b)

    def ratio(total: Any, items: Any, axis: int) -> Any:
        return total.sum(axis=axis) / items.sum(axis=axis)

    theirs = scipy.stats.bootstrap(
        (sums, sizes), ratio, paired=True, vectorized=True, n_resamples=20_000, rng=np.random.default_rng(6)
    ).confidence_interval
    grain = 0.04 * (theirs.high - theirs.low)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=grain)
    assert (ours.n, ours.units) == (len(b), 25)
    assert ours.method == "paired bootstrap (BCa, 20,000 resamples, seed 0, 25 clusters resampled whole)"


def test_widened_percentiles_by_hand() -> None:
    # Symmetric: BCa changes next to nothing, and the interval is nearly Student's.
    b = scipy.stats.norm.ppf((np.arange(1, 31) - 0.5) / 30)
    found = paired_bootstrap([0.0] * 30, b.tolist(), resamples=40_000)
    student = scipy.stats.t.ppf(0.975, 29) * found.error
    assert (found.low, found.high) == pytest.approx((-student, student), rel=0.03)
    plain = paired_bootstrap([0.0] * 30, b.tolist(), resamples=40_000, widened=False)
    assert plain.high / found.high == pytest.approx(1.96 * math.sqrt(29 / 30) / 2.045, rel=0.02)


@settings(max_examples=60)
@given(pairs, st.sampled_from(["bca", "percentile"]))
def test_interval_holds_the_estimate_and_turns_with_the_sign(
    rows: list[tuple[float, float]], method: BootstrapMethod
) -> None:
    a, b = _sides(rows)
    found = paired_bootstrap(a, b, method=method, resamples=200)
    assert found.low <= found.value <= found.high
    assert 0 < found.p <= 1
    turned = paired_bootstrap(b, a, method=method, resamples=200)
    assert (turned.value, turned.error, turned.p) == pytest.approx((-found.value, found.error, found.p), rel=1e-6)
    assert (-turned.high, -turned.low) == pytest.approx((found.low, found.high), rel=1e-6, abs=1e-9)


@settings(max_examples=60)
@given(answers)
def test_right_and_wrong_answers_turn_too(rows: list[tuple[float, float]]) -> None:
    a, b = _sides(rows)
    found, turned = (paired_bootstrap(*sides, resamples=500) for sides in ((a, b), (b, a)))
    assert (-turned.high, -turned.low, turned.p) == pytest.approx((found.low, found.high, found.p), abs=1e-9)


def test_many_right_and_wrong_answers_turn_too() -> None:
    a, b = [1.0] * 40 + [0.0] * 360, [0.0] * 25 + [1.0] * 75 + [0.0] * 300
    found, turned = paired_bootstrap(a, b, resamples=999), paired_bootstrap(b, a, resamples=999)
    assert (-turned.high, -turned.low, turned.p) == (found.low, found.high, found.p)


def test_levels_by_hand() -> None:
    # z0 = 0.1, a = 0.05, z = -1.96: moved -1.86, over 1.093 = -1.70174; plus z0 -1.60174
    assert _level(-1.96, 0.1, 0.05) == pytest.approx(scipy.stats.norm.cdf(-1.60174), rel=1e-5)
    assert _level(1.5, 0.0, 0.0) == pytest.approx(scipy.stats.norm.cdf(1.5))
    assert (_level(30.0, 0.0, 0.1), _level(-30.0, 0.0, -0.1)) == (1.0, 0.0)  # beyond the pole


@given(st.floats(-2, 2), st.floats(-0.3, 0.3), st.floats(-0.1, 0.1))
def test_the_level_at_which_an_end_is_zero_is_found_again(score: float, bias: float, skew: float) -> None:
    assert _score_of_zero(_level(score, bias, skew), 10**6, bias, skew) == pytest.approx(score, abs=1e-6)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(15, 60), st.floats(-0.6, 0.6))
def test_p_and_interval_agree(seed: int, n: int, shift: float) -> None:
    b = np.random.default_rng(seed).normal(shift, 1, size=n)
    found = paired_bootstrap([0.0] * n, b.tolist(), seed=seed, resamples=5000)
    excluded = found.low > 0 or found.high < 0
    assert excluded == (found.p < 0.05) or abs(found.p - 0.05) < 0.005  # the grain of 5,000 resamples


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_very_small_and_large_values_stay_numbers(size: float) -> None:
    plain = paired_bootstrap([0.0, 0.0, 0.0], [1.0, 2.0, 5.0], resamples=500)
    found = paired_bootstrap([0.0, 0.0, 0.0], [size, 2 * size, 5 * size], resamples=500)
    assert (found.low / size, found.high / size) == pytest.approx((plain.low, plain.high))
    assert (found.error / size, found.p) == pytest.approx((plain.error, plain.p))


def test_same_seed_same_numbers_whatever_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    b = np.random.default_rng(0).normal(size=500).tolist()
    found = paired_bootstrap([0.0] * 500, b, resamples=300, seed=7)
    assert found == paired_bootstrap([0.0] * 500, b, resamples=300, seed=7)
    assert found != paired_bootstrap([0.0] * 500, b, resamples=300, seed=8)
    monkeypatch.setattr("tunelab.statistics.bootstrap._AT_ONCE", 1700)
    assert found == paired_bootstrap([0.0] * 500, b, resamples=300, seed=7)


def test_no_difference_in_any_item() -> None:
    found = paired_bootstrap([0.5, 0.7, 0.1], [0.5, 0.7, 0.1])
    assert (found.value, found.error, found.low, found.high, found.p) == (0, 0, 0, 0, 1.0)


def test_two_items_prove_nothing() -> None:
    assert paired_bootstrap([0.0, 0.0], [1.0, 1.0]).p > 0.1
    assert paired_bootstrap([0.0] * 60, [1.0] * 60).p < 0.001


def test_p_is_bounded_by_the_resamples() -> None:
    b = np.random.default_rng(0).normal(5, 1, size=400).tolist()
    assert paired_bootstrap([0.0] * 400, b, resamples=1000, method="percentile", widened=False).p == pytest.approx(
        2 / 1001
    )


def test_as_many_items_as_mmlu_within_seconds_and_little_memory() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=14_042).tolist(), random.normal(size=14_042).tolist()
    right = (random.random(14_042) < 0.4).astype(float).tolist()
    start = time.process_time()
    paired_bootstrap(right, [float(value > 0) for value in b])
    assert time.process_time() - start < 2
    start = time.process_time()
    paired_bootstrap(a, b, [f"subject {place % 57}" for place in range(14_042)])
    assert time.process_time() - start < 2
    tracemalloc.start()
    paired_bootstrap(a, b, resamples=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24  # 1,000 x 14,042 at once would be 112 MB


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(DataError, match="50 resamples: expected 100 or more"):
        paired_bootstrap([0.0, 1.0], [1.0, 1.0], resamples=50)
    with pytest.raises(DataError, match="bootstrap method 'basic': expected 'bca' or 'percentile'"):
        paired_bootstrap([0.0, 1.0], [1.0, 1.0], method="basic")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"confidence is 0\.0: expected a number"):
        paired_bootstrap([0.0, 1.0], [1.0, 1.0], confidence=0.0)
    with pytest.raises(DataError, match="all 2 items are in one cluster"):
        paired_bootstrap([0.0, 1.0], [1.0, 1.0], ["x", "x"])
