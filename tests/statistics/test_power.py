"""Detectable differences by hand, by turning the published formula round, and by simulated studies of that size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tunelab.errors import DataError
from tunelab.statistics.paired_tests import mcnemar
from tunelab.statistics.power import (
    cluster_design_effect,
    detectable_accuracy_difference,
    detectable_difference,
    detectable_effect,
)

Z_ALPHA, Z_POWER = 1.959964, 0.841621


def test_detectable_difference_by_hand() -> None:
    assert detectable_difference(100, 2.0) == pytest.approx((Z_ALPHA + Z_POWER) * 2 / 10, rel=1e-6)
    assert detectable_difference(100, 2.0, design_effect=4.0) == pytest.approx((Z_ALPHA + Z_POWER) * 2 / 5, rel=1e-6)
    # alpha 0.05 / 5 and power 0.9: 2.575829 + 1.281552
    assert detectable_difference(100, 1.0, alpha=0.01, power=0.9) == pytest.approx(0.3857381, rel=1e-6)


@given(st.integers(20, 100_000), st.floats(0.05, 1.0))
def test_detectable_accuracy_difference_solves_miettinen(n: int, discordance: float) -> None:
    found = detectable_accuracy_difference(n, discordance)
    assert found is not None
    most = max(discordance, found)  # a difference needs at least as many discordant items
    right = (Z_ALPHA * math.sqrt(most) + Z_POWER * math.sqrt(most - found**2)) ** 2
    assert n * found**2 == pytest.approx(right, rel=1e-4)


def test_said_before_anything_runs() -> None:
    # 14,042 questions, a tenth answered right by one of the two alone: 2.8 * sqrt(0.1 / 14,042) = 0.75 points
    assert detectable_accuracy_difference(14_042, 0.1) == pytest.approx(0.00748, abs=1e-5)
    assert detectable_accuracy_difference(100, 0.1) == pytest.approx(0.0876, abs=1e-4)
    assert detectable_accuracy_difference(100, 0.1, design_effect=2.0) == detectable_accuracy_difference(50, 0.1)
    # Nothing discordant was assumed: then the difference itself is all the discordance there is.
    assert detectable_accuracy_difference(100, 0.0) == detectable_accuracy_difference(100, 0.05)
    assert detectable_accuracy_difference(3, 0.5) is None
    assert detectable_accuracy_difference(8, 0.5, design_effect=4.0) is None


def test_a_difference_of_that_size_is_found_four_times_in_five() -> None:
    n, discordance, studies = 1500, 0.2, 2000
    difference = detectable_accuracy_difference(n, discordance)
    assert difference is not None
    shares = [(discordance - difference) / 2, (discordance + difference) / 2, 1 - discordance]
    drawn = np.random.default_rng(0).multinomial(n, shares, size=studies)
    found = sum(mcnemar(lost, gained) < 0.05 for lost, gained, _ in drawn.tolist())
    # The exact test is a little shy: its power lies a point or two below that of the formula.
    low, high = scipy.stats.binom.ppf([0.001, 0.999], studies, [0.775, 0.8])
    assert low <= found <= high


@pytest.mark.parametrize(
    ("n", "alpha", "power"), [(2, 0.05, 0.8), (12, 0.05 / 9, 0.8), (80, 0.05, 0.9), (500, 0.01, 0.8)]
)
def test_detectable_effect_is_that_of_the_noncentral_t(n: int, alpha: float, power: float) -> None:
    found = detectable_effect(n, alpha=alpha, power=power)
    critical = scipy.stats.t.ppf(1 - alpha / 2, n - 1)
    assert scipy.stats.nct.sf(critical, n - 1, found * math.sqrt(n)) == pytest.approx(power, abs=1e-6)
    assert found > detectable_difference(n, 1.0, alpha=alpha, power=power)


def test_detectable_effect_of_many_items_is_the_normal_one() -> None:
    assert detectable_effect(10_000) == pytest.approx(detectable_difference(10_000, 1.0), rel=2e-4)
    # 33.4 pairs, so 34, is the textbook size for half a deviation at 80 % power; the normal formula says 31.4.
    assert detectable_effect(34) == pytest.approx(0.5, abs=0.006)


def test_an_effect_of_that_size_is_found_four_times_in_five() -> None:
    n, studies = 20, 4000
    differences = np.random.default_rng(0).normal(detectable_effect(n, alpha=0.01), 1.0, size=(studies, n))
    found = int((scipy.stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.01).sum())
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], studies, 0.8)
    assert low <= found <= high


def test_design_effect_by_hand() -> None:
    assert cluster_design_effect([10] * 7, 0.1) == pytest.approx(1.9)
    # An item meets (2 * 2 + 8 * 8) / 10 = 6.8 of its cluster.
    assert cluster_design_effect([2, 8], 0.5) == pytest.approx(1 + 5.8 * 0.5)
    assert cluster_design_effect([1, 1, 1], 0.9) == 1
    assert cluster_design_effect([5, 9], 0.0) == 1


def test_design_effect_is_how_much_the_error_grows() -> None:
    random = np.random.default_rng(0)
    studies, clusters, size, correlation = 4000, 20, 5, 0.3
    shared = random.normal(size=(studies, clusters, 1)) * math.sqrt(correlation)
    values = shared + random.normal(size=(studies, clusters, size)) * math.sqrt(1 - correlation)
    grown = values.mean(axis=(1, 2)).var() * clusters * size
    # A variance over 4,000 studies has a relative error of sqrt(2 / 4000) = 2.2 %; three of them
    assert grown == pytest.approx(cluster_design_effect([size] * clusters, correlation), rel=0.067)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detectable_difference(0, 1.0), "0 items: expected 1 or more"),
        (lambda: detectable_difference(9, -1.0), "deviation is -1.0: expected a finite number of 0 or more"),
        (lambda: detectable_difference(9, 1.0, design_effect=0.0), "design effect is 0.0: expected a number above 0"),
        (lambda: detectable_difference(9, 1.0, alpha=5.0), "alpha is 5.0: expected a number between 0 and 1"),
        (lambda: detectable_difference(9, 1.0, power=1.0), "power is 1.0: expected a number between 0 and 1"),
        (lambda: detectable_effect(1), "1 item: expected 2 or more to estimate an error"),
        (lambda: detectable_effect(0), "0 items: expected 2 or more to estimate an error"),
        (lambda: detectable_effect(9, alpha=5.0), "alpha is 5.0: expected a number between 0 and 1"),
        (lambda: detectable_effect(9, power=0.0), "power is 0.0: expected a number between 0 and 1"),
        (lambda: detectable_accuracy_difference(0, 0.1), "0 items"),
        (lambda: detectable_accuracy_difference(9, 10.0), "discordance is 10.0: expected a share of the items, 0 to 1"),
        (lambda: cluster_design_effect([], 0.1), r"cluster sizes \[\]: expected at least one"),
        (lambda: cluster_design_effect([3, 0], 0.1), r"cluster sizes \[3, 0\]: expected at least one, each of 1 or"),
        (lambda: cluster_design_effect([3], 1.1), "correlation within clusters is 1.1: expected 0 to 1"),
    ],
)
def test_impossible_designs_are_refused(call: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()  # type: ignore[operator]
