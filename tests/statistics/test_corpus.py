"""Corpus figures: ratios that the linearised error knows, a figure that is a mean, symmetries, and 2,000 studies."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tunelab.comparison.align import Pairs
from tunelab.comparison.paired_comparison import Comparison, compare_counts, correct
from tunelab.comparison.verdict import verdict
from tunelab.errors import DataError
from tunelab.statistics.corpus import paired_corpus_difference
from tunelab.statistics.permutation import paired_permutation
from tunelab.statistics.power import detectable_effect
from tunelab.statistics.standard_errors import paired_ratio_difference

Counts = NDArray[Any]


def ratio(summed: Counts) -> Counts:
    return 100 * summed[..., 0] / summed[..., 1]


def overlap(summed: Counts) -> Counts:
    """Like BLEU: a geometric mean of two precisions, with a penalty for what is too short."""
    short = np.exp(np.minimum(0, 1 - summed[..., 1] / summed[..., 0]))
    return np.asarray(100 * short * np.sqrt(summed[..., 2] / summed[..., 0] * summed[..., 3] / summed[..., 0]))


def rows(n: int, seed: int = 0, gain: float = 0.1) -> tuple[Counts, Counts]:
    """Two sides' hits and words of n items; b hits more."""
    random = np.random.default_rng(seed)
    words = random.integers(5, 60, size=n)
    ease = random.beta(4, 4, size=n)
    a, b = (random.binomial(words, np.clip(ease + shift, 0, 1)) for shift in (0.0, gain))
    return np.stack([a, words], axis=1), np.stack([b, words], axis=1)


def test_a_ratio_has_the_linearised_error() -> None:
    a, b = rows(200)
    found = paired_corpus_difference([a], [b], ratio)
    known = paired_ratio_difference(b[:, 0], b[:, 1], a[:, 0], a[:, 1])
    assert found.difference.value == pytest.approx(100 * known.value)
    assert known.error is not None
    assert found.difference.error == pytest.approx(100 * known.error, rel=0.03)
    assert (found.a_value, found.b_value) == (ratio(a.sum(axis=0)), ratio(b.sum(axis=0)))
    # Both sides rise and fall with the same items, so the difference is surer than either.
    assert found.difference.error < min(found.a_error, found.b_error)
    assert (found.difference.n, found.difference.units) == (200, 200)
    assert found.difference.method == (
        "paired permutation test of the corpus metric over 200 items (10,000 random swaps, seed 0); "
        "interval: percentile bootstrap (10,000 resamples, seed 0, widened for few units)"
    )


@pytest.mark.parametrize("clusters", [None, [f"subject {place // 3}" for place in range(60)]])
def test_a_mean_gets_the_test_and_interval_of_means(clusters: list[str] | None) -> None:
    values = np.random.default_rng(1).normal(0.3, 1, size=(60, 1))
    found = paired_corpus_difference([np.zeros((60, 1))], [values], lambda summed: summed[..., 0] / 60, clusters)
    known = paired_permutation([0.0] * 60, values[:, 0].tolist(), clusters)
    ours, grain = found.difference, 0.1 * (known.high - known.low)
    assert (ours.low, ours.high) == pytest.approx((known.low, known.high), abs=grain)
    assert ours.p == pytest.approx(known.p, abs=0.02)
    assert ours.units == known.units
    assert ours.error == pytest.approx(known.error, rel=0.03)
    assert ("over 20 clusters" in ours.method) == (clusters is not None)


def test_seeds_are_averaged_over_the_same_resampled_items() -> None:
    (a, b), (_, other) = rows(80), rows(80, gain=0.3)
    one, two = (paired_corpus_difference([a], [side], ratio) for side in (b, other))
    both = paired_corpus_difference([a], [b, other], ratio)
    assert both.a_value == one.a_value and both.a_error == one.a_error
    assert both.b_value == pytest.approx((one.b_value + two.b_value) / 2)
    again = paired_corpus_difference([a, a], [b, b], ratio)
    assert (again.difference.low, again.difference.p) == pytest.approx((one.difference.low, one.difference.p))
    # Seeds do not stand in for items: the same seed twice makes nothing surer.
    assert again.difference.error == pytest.approx(one.difference.error)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 30), st.floats(-0.3, 0.3))
def test_interval_holds_the_estimate_agrees_with_p_and_turns(seed: int, n: int, gain: float) -> None:
    a, b = rows(n, seed, gain)
    found, turned = (
        paired_corpus_difference(*sides, ratio, resamples=500, swaps=500) for sides in (([a], [b]), ([b], [a]))
    )
    one, other = found.difference, turned.difference
    assert one.low <= one.value <= one.high and 0 < one.p <= 1
    assert (other.value, other.error, other.p) == pytest.approx((-one.value, one.error, one.p))
    assert (-other.high, -other.low) == pytest.approx((one.low, one.high), abs=1e-9)
    assert (one.low > 0 or one.high < 0) == (one.p < 0.05)


def test_same_seed_same_numbers_whatever_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rows(50)
    found = paired_corpus_difference([a], [b], ratio, resamples=300, swaps=300, seed=7)
    assert found != paired_corpus_difference([a], [b], ratio, resamples=300, swaps=300, seed=8)
    monkeypatch.setattr("tunelab.statistics.corpus._AT_ONCE", 170)
    assert found == paired_corpus_difference([a], [b], ratio, resamples=300, swaps=300, seed=7)


def test_as_many_rows_as_a_large_split_within_seconds() -> None:
    a, b = rows(5000)
    start = time.process_time()
    paired_corpus_difference([a, a, a], [b, b, b], ratio)
    assert time.process_time() - start < 8


def test_p_is_the_share_of_swaps_by_hand() -> None:
    a, b = rows(5, seed=4)
    found = paired_corpus_difference([a], [b], ratio).difference
    extreme = 0
    for swapped in itertools.product([False, True], repeat=5):
        chosen = np.array(swapped)[:, None]
        of_a, of_b = np.where(chosen, b, a).sum(axis=0), np.where(chosen, a, b).sum(axis=0)
        extreme += bool(abs(ratio(of_b) - ratio(of_a)) >= abs(found.value) - 1e-9)
    assert (found.p, found.smallest_p, found.p_is_bound) == (extreme / 32, 2 / 32, False)
    assert found.low <= 0 <= found.high  # five items cannot be significant


def test_p_keeps_falling_and_its_floor_is_told() -> None:
    found = [
        paired_corpus_difference(*([side] for side in rows(60, gain=gain)), ratio).difference for gain in (0.02, 0.3)
    ]
    assert found[0].p > found[1].p == found[1].smallest_p == 1 / 10_001
    assert [one.p_is_bound for one in found] == [False, True]
    a, b = rows(60, gain=0.3)
    assert "p < 0.001" in verdict(_compare(a, b))
    family = correct([_compare(a, b)] * 30)
    assert "p < 0.001; p < 0.015 after Holm over 30 comparisons)" in verdict(family[0])  # 30 / 2,001, rounded up


def test_a_side_without_seeds_is_swapped_with_every_seed_of_the_other() -> None:
    (a, b), (_, other) = rows(12), rows(12, gain=0.4)
    one = paired_corpus_difference([a], [b, other], ratio).difference
    same = paired_corpus_difference([a, a], [b, other], ratio).difference
    assert one.p == same.p < paired_corpus_difference([a], [b], ratio).difference.p


def _drawn(random: np.random.Generator, n: int, gain: float) -> tuple[Counts, Counts]:
    """[n, 4] each: length of answer and reference, hits of two kinds."""
    reference = random.integers(4, 40, size=n)
    ease = random.beta(3, 3, size=n)
    sides = []
    for shift in (0.0, gain):
        length = np.maximum(1, reference + random.integers(-4, 4, size=n))
        singles = random.binomial(length, np.clip(ease + shift, 0.02, 0.98))
        sides.append(np.stack([length, reference, singles, random.binomial(singles, 0.5)], axis=1))
    return sides[0], sides[1]


@pytest.mark.parametrize(
    ("gain", "studies"), [(0.0, 200), *(pytest.param(gain, 2000, marks=pytest.mark.slow) for gain in (0.0, 0.05))]
)
def test_intervals_of_corpus_figures_hold_the_truth(gain: float, studies: int) -> None:
    band = 3.5 * math.sqrt(0.05 * 0.95 / studies)
    many = _drawn(np.random.default_rng(2), 10**6, gain)
    truth = float(overlap(many[1].sum(axis=0)) - overlap(many[0].sum(axis=0)))
    random = np.random.default_rng(3)
    held = claimed = 0
    for study in range(studies):
        a, b = _drawn(random, 60, gain)
        found = paired_corpus_difference([a], [b], overlap, resamples=1000, swaps=1000, seed=study).difference
        held += found.low <= truth <= found.high
        claimed += found.p < 0.05
    assert held / studies == pytest.approx(0.95, abs=band)
    if gain:
        assert claimed / studies > 0.3
    else:
        assert (
            (0.02 if studies >= 2000 else -1) < claimed / studies < 0.05 + band
        )  # the more careful of test and interval


def _compare(a: Counts, b: Counts, **changes: Any) -> Comparison:
    pairs = Pairs(
        "base", "tuned", [f"{n:06d}" for n in range(len(a))], [0.0] * len(a), [0.0] * len(b), None, [], [], {}
    )
    labels: dict[str, Any] = {"benchmark": "held-out", "metric": "bleu", "resamples": 2000, "swaps": 2000, **changes}
    return compare_counts(pairs, [a], [b], ratio, **labels)


def test_a_comparison_of_a_corpus_figure() -> None:
    a, b = rows(200)
    found = _compare(a, b)
    one = paired_corpus_difference([a], [b], ratio, resamples=2000, swaps=2000).difference
    assert (found.difference, found.error, found.low, found.high, found.p) == (
        one.value,
        one.error,
        one.low,
        one.high,
        one.p,
    )
    assert found.gained is found.lost is found.p_mcnemar is found.clusters is None
    assert (found.method, found.smallest_p, found.p_is_bound) == (one.method, one.smallest_p, one.p_is_bound)
    effect = detectable_effect(200)
    assert effect is not None and found.detectable == pytest.approx(effect * one.error * math.sqrt(200))
    assert verdict(found).startswith(f"tuned is better than base by {one.value:.2f} points (95 % interval ")
    assert Comparison.from_json(found.to_json()) == found


def test_figures_that_never_differ_are_told_as_such() -> None:
    a, _ = rows(20)
    found = _compare(a, a)
    assert (found.difference, found.error, found.p, found.detectable) == (0, 0, 1.0, None)
    assert verdict(found).endswith(
        "p = 1.000), the same whichever of the 20 items are drawn (up to 16 % of others may differ)"
    )
    # Twice the hits and twice the words of everything: the figures are equal but for rounding.
    assert _compare(a, 3 * a).p == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: paired_corpus_difference([], [a], ratio), "one side has no counts"),
        (
            lambda a: paired_corpus_difference([a], [a[:2]], ratio),
            r"have shapes \[2, 2\], \[9, 2\]: expected a single shape",
        ),
        (lambda a: paired_corpus_difference([a[0]], [a[0]], ratio), r"have shapes \[2\]: expected a single shape"),
        (lambda a: paired_corpus_difference([a], [a], ratio, ["x"] * 9), "all 9 items are in one cluster"),
        (lambda a: paired_corpus_difference([a], [a], ratio, ["x"] * 8), "9 values but 8 clusters"),
        (lambda a: paired_corpus_difference([a], [a], ratio, resamples=9), "9 resamples: expected 100 or more"),
        (lambda a: paired_corpus_difference([a], [a], ratio, swaps=9), "9 swaps: expected 100 or more"),
        (lambda a: paired_corpus_difference([a], [a], ratio, confidence=95), "confidence is 95: expected a number"),
        (lambda a: paired_corpus_difference([a], [a], lambda s: s[..., 0] * math.nan), "is not finite in a resample"),
    ],
)
def test_what_cannot_be_resampled_is_refused(call: Callable[[Counts], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call(rows(9)[0])


def test_counts_of_other_items_are_refused() -> None:
    a, b = rows(9)
    pairs = Pairs("a", "b", ["x", "y"], [0, 0], [0, 0], None, [], [], {})
    with pytest.raises(DataError, match="counts of 9 items, but 2 are compared: expected one row per item"):
        compare_counts(pairs, [a], [b], ratio, benchmark="any", metric="bleu")
