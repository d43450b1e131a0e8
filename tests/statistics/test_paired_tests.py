"""McNemar, intervals and Holm against scipy, published cases, cases by hand, and their own symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tunelab.errors import DataError
from tunelab.statistics.paired_tests import agreeing_interval, discordant_interval, holm, mcnemar, student_interval
from tunelab.statistics.standard_errors import clustered_mean_with_error
from tunelab.statistics.units import gather_units

counts = st.integers(0, 3000)


def test_paired_sees_what_unpaired_does_not() -> None:
    # 12,343 items, 675 right in a alone and 593 in b alone: unpaired z is -1.05, the paired p 0.023.
    p = mcnemar(675, 593)
    assert p == pytest.approx(0.0228861, abs=1e-7)
    assert p == pytest.approx(scipy.stats.binomtest(593, 1268, 0.5).pvalue, rel=1e-12)
    n, right_in_both = 12_343, 4_460
    a, b = (right_in_both + 675) / n, (right_in_both + 593) / n
    unpaired = (b - a) / math.sqrt(a * (1 - a) / n + b * (1 - b) / n)
    assert unpaired == pytest.approx(-1.05, abs=0.02)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    # Coins: all five the same way 2/32; 1 of 8: 2 * (1 + 8) / 256; 3 of 12: 2 * (1 + 12 + 66 + 220) / 4096
    [(0, 0, 1.0), (5, 0, 2 / 32), (1, 7, 18 / 256), (9, 3, 598 / 4096), (4, 4, 1.0)],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p, rel=1e-12)


@given(counts, counts)
def test_mcnemar_is_the_binomial_test_and_symmetric(only_a: int, only_b: int) -> None:
    p = mcnemar(only_a, only_b)
    assert p == mcnemar(only_b, only_a)
    if only_a + only_b:
        assert p == pytest.approx(scipy.stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-6, abs=1e-290)


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(DataError, match="-1 and 2 discordant items: expected counts of 0 or more"):
        mcnemar(-1, 2)


def test_interval_of_discordant_answers() -> None:
    # By hand: shares 2/52 and 10/52, difference 8/52, half width 1.959964 * sqrt((12/52 - (8/52)²) / 52)
    half = 1.959964 * math.sqrt((12 / 52 - (8 / 52) ** 2) / 52)
    assert discordant_interval(1, 9, 50) == pytest.approx((8 / 52 - half, 8 / 52 + half), abs=1e-7)
    low, high = discordant_interval(0, 0, 1000)
    assert low == -high and 0.002 < high < 0.004  # 3 / n is the largest share that no case of n speaks against


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 500))
def test_interval_of_discordant_answers_holds_the_estimate(only_a: int, only_b: int, both: int) -> None:
    n = max(1, only_a + only_b + both)
    low, high = discordant_interval(only_a, only_b, n)
    assert -1 <= low <= (only_b - only_a) / n <= high <= 1
    assert discordant_interval(only_b, only_a, n) == pytest.approx((-high, -low))


def test_interval_refuses_impossible_counts() -> None:
    with pytest.raises(DataError, match="6 and 5 discordant items of 10: expected counts of 0 or more, together"):
        discordant_interval(6, 5, 10)
    with pytest.raises(DataError, match="confidence is 95: expected a number between 0 and 1"):
        discordant_interval(1, 1, 10, confidence=95)


def test_student_interval_is_that_of_the_t_test() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=40), random.normal(0.3, size=40)
    found = student_interval(gather_units(a.tolist(), b.tolist(), None), 0.9)
    assert found == pytest.approx(tuple(scipy.stats.ttest_rel(b, a).confidence_interval(0.9)))


def test_large_clusters_leave_fewer_degrees_of_freedom() -> None:
    sizes = [40, 10, 10, 5, 5]  # 70² / (1600 + 200 + 50) = 2.65 units of equal size
    clusters = [f"subject {place}" for place, size in enumerate(sizes) for _ in range(size)]
    b = np.random.default_rng(2).normal(size=70).tolist()
    units = gather_units([0.0] * 70, b, clusters)
    error = clustered_mean_with_error(b, clusters).error
    assert error is not None and units.error == pytest.approx(error)
    half = scipy.stats.t.ppf(0.975, 70**2 / 1850 - 1) * error
    assert student_interval(units, 0.95) == pytest.approx((units.mean - half, units.mean + half))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 2000), st.sampled_from([0.9, 0.95, 0.99, 0.9995]))
def test_interval_of_discordant_answers_excludes_0_exactly_if_mcnemar_rejects(
    only_a: int, only_b: int, alike: int, confidence: float
) -> None:
    low, high = discordant_interval(only_a, only_b, only_a + only_b + alike + 1, confidence=confidence)
    assert (low > 0 or high < 0) == (mcnemar(only_a, only_b) < 1 - confidence)


def test_agreeing_interval_moves_only_the_end_that_disagrees() -> None:
    assert agreeing_interval((0.1, 0.9), (-0.2, 0.8)) == (-0.2, 0.9)
    assert agreeing_interval((-0.1, 0.9), (0.2, 0.8)) == (0.2, 0.9)
    assert agreeing_interval((-0.9, 0.1), (-0.8, -0.2)) == (-0.9, -0.2)
    assert agreeing_interval((-0.9, 0.8), (-0.3, 0.3)) == (-0.9, 0.8)


@pytest.mark.parametrize(
    ("a", "b", "clusters", "message"),
    [
        ([1.0], [1.0, 2.0], None, "a has 1 values and b has 2: a paired comparison needs the same items"),
        ([1.0, math.nan], [1.0, 2.0], None, r"a\[1\] is nan: expected a finite number"),
        ([1.0, 2.0], [math.inf, 2.0], None, r"b\[0\] is inf: expected a finite number"),
        ([1.0, 2.0], [1.0, 2.0], ["x"], "2 values but 1 clusters: expected one of each per item"),
        ([1.0, 2.0], [1.0, 2.0], ["x", "x"], "all 2 items are in one cluster: expected two or more"),
        ([1.0], [2.0], None, "there is 1 item: expected two or more to estimate an error"),
        ([], [], None, "there are 0 items: expected two or more"),
    ],
)
def test_what_cannot_be_paired_is_refused(
    a: list[float], b: list[float], clusters: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        gather_units(a, b, clusters)


def test_holm_by_hand() -> None:
    # Sorted 0.005 0.01 0.03 0.04: times 4, 3, 2, 1 = 0.02 0.03 0.06 0.04, and never less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12), st.randoms())
def test_holm_keeps_the_order_of_its_family(p_values: list[float], random: object) -> None:
    corrected = holm(p_values)
    assert all(p <= one <= min(1.0, p * len(p_values)) for p, one in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    assert [corrected[place] for place in order] == sorted(corrected)
    random.shuffle(order)  # type: ignore[attr-defined]
    assert holm([p_values[place] for place in order]) == [corrected[place] for place in order]


def test_holm_refuses_what_is_no_p() -> None:
    with pytest.raises(DataError, match=r"p_values\[1\] is 1.5: expected 0 to 1"):
        holm([0.5, 1.5])
    with pytest.raises(DataError, match=r"p_values\[0\] is nan"):
        holm([math.nan])
