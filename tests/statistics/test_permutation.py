"""The paired permutation test against scipy's and McNemar's, its interval, its bound on p, and the clock."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.errors import DataError
from tunelab.statistics.paired_tests import mcnemar, student_interval
from tunelab.statistics.permutation import _bound, paired_permutation, smallest_p
from tunelab.statistics.units import gather_units

pairs = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=12)


def _sides(rows: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in rows], [b for _, b in rows]


def test_p_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=9), random.exponential(size=9)
    theirs = scipy.stats.permutation_test(
        (b - a,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert paired_permutation(a.tolist(), b.tolist()).p == pytest.approx(theirs, rel=1e-12)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 1))
def test_right_and_wrong_answers_get_mcnemars_p(lost: int, gained: int, alike: int) -> None:
    a = [1.0] * lost + [0.0] * (gained + alike + 1)
    b = [0.0] * lost + [1.0] * gained + [0.0] * (alike + 1)
    if len(a) > 1:
        assert paired_permutation(a, b).p == pytest.approx(mcnemar(lost, gained), abs=0.02)


@settings(max_examples=60, deadline=None)
@given(pairs, st.sampled_from([0.9, 0.95, 0.99]))
def test_the_interval_excludes_0_exactly_if_p_is_below_its_level(
    rows: list[tuple[float, float]], confidence: float
) -> None:
    a, b = _sides(rows)
    found = paired_permutation(a, b, confidence=confidence)
    assert found.low <= found.value <= found.high
    assert (found.low > 0 or found.high < 0) == (found.p <= (1 - confidence) * (1 - 1e-9))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(14, 80), st.floats(-0.6, 0.6), st.booleans())
def test_random_swaps_agree_with_their_interval_too(seed: int, n: int, shift: float, clustered: bool) -> None:
    b = np.random.default_rng(seed).normal(shift, 1, size=n).tolist()
    clusters = [f"subject {place % 17}" for place in range(n)] if clustered else None
    found = paired_permutation([0.0] * n, b, clusters, swaps=2000)
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)
    turned = paired_permutation(b, [0.0] * n, clusters, swaps=2000)
    assert (-turned.high, -turned.low, turned.p) == pytest.approx((found.low, found.high, found.p), abs=1e-9)


def test_the_interval_is_nearly_students_where_values_are_normal() -> None:
    b = scipy.stats.norm.ppf((np.arange(1, 101) - 0.5) / 100).tolist()
    found = paired_permutation([0.0] * 100, b)
    assert (found.low, found.high) == pytest.approx(
        student_interval(gather_units([0.0] * 100, b, None), 0.95), rel=0.05
    )


def test_p_keeps_falling_as_the_effect_becomes_more_certain() -> None:
    noise = np.random.default_rng(0).normal(size=400)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    found = [paired_permutation([0.0] * 400, (noise + z / 20).tolist()) for z in (2, 3, 5, 8, 12.7, 21)]
    p = [one.p for one in found]
    assert p == sorted(p, reverse=True) and len(set(p)) == len(p)
    assert p[1] == pytest.approx(2 * scipy.stats.norm.sf(3), rel=0.8) and p[-1] < 1e-40
    assert [one.p_is_bound for one in found] == [False, False, True, True, True, True]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=10))
def test_the_bound_is_never_below_the_exact_p(values: list[float]) -> None:
    length = float(np.linalg.norm(values))
    if length > 1e-6:
        exact = paired_permutation([0.0] * len(values), values).p
        assert exact <= _bound(abs(sum(values)) / length) * (1 + 1e-9)


def test_few_items_cannot_be_significant_and_their_interval_holds_0() -> None:
    for n in range(2, 6):
        found = paired_permutation([0.0] * n, [1.0 + place / 100 for place in range(n)])
        assert found.p == found.smallest_p == 2.0 ** (1 - n) >= 0.05
        assert found.low <= 0 < found.value <= found.high and not found.p_is_bound
        assert found.method.endswith("interval: Student's t, as the test excludes nothing")
    six = paired_permutation([0.0] * 6, [1.0] * 6)
    assert six.p == 0.03125 and six.low > 0 and six.method == "paired permutation test over 6 items (all 64 swaps)"


def test_the_smallest_p() -> None:
    assert [smallest_p(n) for n in (2, 6, 13)] == [0.5, 2**-5, 2**-12]
    assert smallest_p(14) == pytest.approx(2 / 10_001) and smallest_p(100) < 1e-20
    assert smallest_p(10**6) > 0


def test_clusters_are_swapped_whole() -> None:
    # Three items of one subject are one chance, not three.
    found = paired_permutation([0.0] * 9, [1.0] * 9, [f"subject {place // 3}" for place in range(9)])
    assert (found.p, found.units, found.n, found.smallest_p) == (0.25, 3, 9, 0.25)
    assert found.method.startswith("paired permutation test over 3 clusters (all 8 swaps)")
    a, b = [0.0] * 5, [1.0, 2.0, 4.0, 8.0, 3.0]
    assert paired_permutation(a, b, [""] * 5) == paired_permutation(a, b)
    assert paired_permutation(a, b, ["", "x", "x", "", ""]) == paired_permutation(a, b, ["p", "x", "x", "q", "r"])


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_very_small_and_large_values_stay_numbers(size: float) -> None:
    for n in (3, 40):
        values = np.random.default_rng(1).normal(1, size=n)
        plain = paired_permutation([0.0] * n, values.tolist())
        found = paired_permutation([0.0] * n, (values * size).tolist())
        assert (found.low / size, found.high / size) == pytest.approx((plain.low, plain.high))
        assert (found.error / size, found.p) == pytest.approx((plain.error, plain.p))


def test_same_seed_same_numbers() -> None:
    b = np.random.default_rng(0).normal(size=500).tolist()
    found = paired_permutation([0.0] * 500, b, swaps=300, seed=7)
    assert found == paired_permutation([0.0] * 500, b, swaps=300, seed=7)
    assert found != paired_permutation([0.0] * 500, b, swaps=300, seed=8)


def test_no_difference_in_any_item() -> None:
    found = paired_permutation([0.5, 0.7, 0.1], [0.5, 0.7, 0.1])
    assert (found.value, found.error, found.low, found.high, found.p) == (0, 0, 0, 0, 1.0)
    many = paired_permutation([0.5] * 40, [0.5] * 40)
    assert (many.low, many.high, many.p, many.p_is_bound) == (0, 0, 1.0, False)


def test_as_many_items_as_mmlu_within_seconds_and_little_memory() -> None:
    b = np.random.default_rng(0).normal(size=14_042).tolist()
    start = time.process_time()
    paired_permutation([0.0] * 14_042, b)
    paired_permutation([0.0] * 14_042, b, [f"subject {place % 57}" for place in range(14_042)])
    assert time.process_time() - start < 4
    tracemalloc.start()
    paired_permutation([0.0] * 14_042, b, swaps=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**25  # 1,000 x 14,042 at once would be 112 MB


def test_what_cannot_be_swapped_is_refused() -> None:
    with pytest.raises(DataError, match="50 swaps: expected 100 or more"):
        paired_permutation([0.0, 1.0], [1.0, 1.0], swaps=50)
    with pytest.raises(DataError, match=r"confidence is 0\.0: expected a number"):
        paired_permutation([0.0, 1.0], [1.0, 1.0], confidence=0.0)
    with pytest.raises(DataError, match="all 2 items are in one cluster"):
        paired_permutation([0.0, 1.0], [1.0, 1.0], ["x", "x"])
