"""McNemar, paired differences and Holm against scipy, published cases, cases by hand, and their own symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tunelab.errors import DataError
from tunelab.statistics.paired_tests import discordant_interval, holm, mcnemar, paired_difference
from tunelab.statistics.standard_errors import clustered_mean_with_error, mean_with_error

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
        assert p == pytest.approx(scipy.stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-6, abs=1e-300)


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


def test_paired_difference_is_the_t_test() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=40), random.normal(0.3, size=40)
    ours, theirs = paired_difference(a.tolist(), b.tolist()), scipy.stats.ttest_rel(b, a)
    assert (ours.value, ours.p) == pytest.approx((float(np.mean(b - a)), theirs.pvalue))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert ours.error == pytest.approx(mean_with_error(b - a).error)
    assert (ours.n, ours.units, ours.method) == (40, 40, "Student's t over items, 39 degrees of freedom")


def test_paired_difference_takes_clusters_as_units() -> None:
    random = np.random.default_rng(1)
    clusters = [f"subject {place % 7}" for place in range(60)]
    a, b = random.normal(size=60), random.normal(size=60)
    found = paired_difference(a.tolist(), b.tolist(), clusters)
    freedom = 60**2 / (4 * 9**2 + 3 * 8**2) - 1  # four subjects of nine items, three of eight
    assert found.error == pytest.approx(clustered_mean_with_error(b - a, clusters).error)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(abs(found.value) / found.error, freedom))
    assert (found.units, found.method) == (7, "Student's t over 7 clusters, 6 degrees of freedom")  # 5.98


def test_large_clusters_leave_fewer_degrees_of_freedom() -> None:
    sizes = [40, 10, 10, 5, 5]  # 70² / (1600 + 200 + 50) = 2.65 units of equal size
    clusters = [f"subject {place}" for place, size in enumerate(sizes) for _ in range(size)]
    b = np.random.default_rng(2).normal(size=70).tolist()
    found = paired_difference([0.0] * 70, b, clusters)
    half = scipy.stats.t.ppf(0.975, 70**2 / 1850 - 1) * found.error
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    assert found.method == "Student's t over 5 clusters, 1.6 degrees of freedom"
    many = paired_difference([0.0] * 14_042, np.arange(14_042.0).tolist())
    assert many.method == "Student's t over items, 14,041 degrees of freedom"


def test_items_without_a_cluster_are_by_themselves() -> None:
    a, b = [0.0] * 5, [1.0, 2.0, 4.0, 8.0, 3.0]
    assert paired_difference(a, b, [""] * 5) == paired_difference(a, b)
    assert paired_difference(a, b, ["", "x", "x", "", ""]) == paired_difference(a, b, ["p", "x", "x", "q", "r"])


def test_a_difference_without_spread_is_not_certain() -> None:
    assert paired_difference([0.1, 0.2, 0.7], [0.2, 0.3, 0.8]).p == 0.25  # three coins that fall the same way
    same = paired_difference([0.5, 0.25], [0.5, 0.25])
    assert (same.value, same.error, same.low, same.high, same.p) == (0, 0, 0, 0, 1.0)


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
        paired_difference(a, b, clusters)


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
