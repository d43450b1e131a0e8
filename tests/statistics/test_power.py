"""Detectable differences by hand, by turning the published formula round, and by simulated studies of that size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.errors import DataError
from tunelab.statistics.paired_tests import mcnemar
from tunelab.statistics.permutation import paired_permutation
from tunelab.statistics.power import detectable_accuracy_difference, detectable_effect, mcnemar_power


@pytest.mark.parametrize(("n", "difference", "discordance"), [(8, 0.5, 0.6), (30, 0.3, 0.3), (300, 0.06, 0.1)])
def test_power_of_mcnemar_by_summing_every_outcome(n: int, difference: float, discordance: float) -> None:
    gained, lost = (discordance + difference) / 2, (discordance - difference) / 2
    total = 0.0
    for count in range(n + 1):
        of_all = scipy.stats.binom.pmf(count, n, discordance)
        ones = np.arange(count + 1)
        of_count = scipy.stats.binom.pmf(ones, count, gained / (gained + lost))
        rejected = [mcnemar(count - int(one), int(one)) < 0.05 for one in ones]
        total += of_all * float((of_count * rejected).sum())
    assert mcnemar_power(n, difference, discordance) == pytest.approx(total, abs=1e-8)


@settings(max_examples=12, deadline=None)
@given(st.integers(20, 3000), st.floats(0.0, 1.0), st.sampled_from([0.05, 0.05 / 12]))
def test_detectable_accuracy_difference_has_that_power(n: int, discordance: float, alpha: float) -> None:
    found = detectable_accuracy_difference(n, discordance, alpha=alpha)
    assert found is not None
    most = max(discordance, found)  # a difference needs at least as many discordant items
    assert mcnemar_power(n, found, most, alpha=alpha) == pytest.approx(0.8, abs=1e-3)


def test_said_before_anything_runs() -> None:
    # 14,042 questions, a tenth answered right by one of the two alone: about 2.8 * sqrt(0.1 / 14,042) = 0.75 points
    assert detectable_accuracy_difference(14_042, 0.1) == pytest.approx(0.00754, abs=1e-5)
    assert detectable_accuracy_difference(100, 0.1) == pytest.approx(0.0884, abs=1e-4)
    # Nothing discordant was assumed: then the difference itself is all the discordance there is.
    assert detectable_accuracy_difference(100, 0.0) == detectable_accuracy_difference(100, 0.05)
    assert detectable_accuracy_difference(5, 0.5) is None and detectable_accuracy_difference(6, 0.5) is not None
    assert detectable_accuracy_difference(6, 0.5, alpha=0.05 / 3) is None


def test_a_difference_of_that_size_is_found_four_times_in_five() -> None:
    n, discordance, studies = 1500, 0.2, 4000
    difference = detectable_accuracy_difference(n, discordance)
    assert difference is not None
    shares = [(discordance - difference) / 2, (discordance + difference) / 2, 1 - discordance]
    drawn = np.random.default_rng(0).multinomial(n, shares, size=studies)
    found = sum(mcnemar(lost, gained) < 0.05 for lost, gained, _ in drawn.tolist())
    low, high = scipy.stats.binom.ppf([0.001, 0.999], studies, 0.8)
    assert low <= found <= high


@pytest.mark.parametrize(("n", "alpha", "power"), [(14, 0.05 / 9, 0.8), (80, 0.05, 0.9), (500, 0.01, 0.8)])
def test_detectable_effect_is_that_of_the_noncentral_t(n: int, alpha: float, power: float) -> None:
    found = detectable_effect(n, alpha=alpha, power=power)
    critical = scipy.stats.t.ppf(1 - alpha / 2, n - 1)
    assert found is not None
    assert scipy.stats.nct.sf(critical, n - 1, found * math.sqrt(n)) == pytest.approx(power, abs=1e-6)


def test_detectable_effect_of_many_items_is_the_normal_one() -> None:
    normal = (1.959964 + 0.841621) / 100
    assert detectable_effect(10_000) == pytest.approx(normal, rel=2e-4)
    # 33.4 pairs, so 34, is the textbook size for half a deviation at 80 % power; the normal formula says 31.4.
    assert detectable_effect(34) == pytest.approx(0.5, abs=0.006)


def test_few_items_show_nothing_however_large() -> None:
    assert [detectable_effect(n) for n in (2, 3, 4, 5)] == [None] * 4
    # Six items are significant only if all have the same sign: Phi(d)^6 = 0.8.
    assert detectable_effect(6) == pytest.approx(scipy.stats.norm.ppf(0.8 ** (1 / 6)), abs=0.05)
    assert detectable_effect(6, alpha=0.05 / 3) is None and detectable_effect(7, alpha=0.05 / 3) is not None


@pytest.mark.parametrize(
    ("n", "family", "studies"),
    [
        *((n, 1, 300) for n in (6, 30)),
        *(pytest.param(n, family, 2000, marks=pytest.mark.slow) for n in (6, 8, 11, 14, 60) for family in (1, 3, 12)),
    ],
)
def test_an_effect_of_that_size_is_found_four_times_in_five(n: int, family: int, studies: int) -> None:
    alpha, random = 0.05 / family, np.random.default_rng(n)
    effect = detectable_effect(n, alpha=alpha)
    if effect is None:
        pytest.fail("expected an effect") if n > 10 else None
        return
    drawn = random.normal(effect, 1, size=(studies, n)).tolist()
    found = sum(paired_permutation([0.0] * n, one, seed=place).p < alpha for place, one in enumerate(drawn))
    # Simulated power of few items has an error of its own, and from 14 on the t-test's is up to two points higher.
    assert found / studies == pytest.approx(0.8, abs=3.3 * math.sqrt(0.16 / studies) + 0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detectable_accuracy_difference(9, 0.1, alpha=5.0), "alpha is 5.0: expected a number between 0 and 1"),
        (lambda: detectable_accuracy_difference(9, 0.1, power=1.0), "power is 1.0: expected a number between 0 and 1"),
        (lambda: detectable_effect(1), "1 item: expected 2 or more to estimate an error"),
        (lambda: detectable_effect(0), "0 items: expected 2 or more to estimate an error"),
        (lambda: detectable_effect(9, alpha=5.0), "alpha is 5.0: expected a number between 0 and 1"),
        (lambda: detectable_effect(9, power=0.0), "power is 0.0: expected a number between 0 and 1"),
        (lambda: detectable_accuracy_difference(0, 0.1), "0 items"),
        (lambda: detectable_accuracy_difference(9, 10.0), "discordance is 10.0: expected a share of the items, 0 to 1"),
    ],
)
def test_impossible_designs_are_refused(call: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()  # type: ignore[operator]
