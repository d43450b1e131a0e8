"""Simulated studies: how often nothing is taken for something, and how often intervals hold the truth.

2,000 studies each in `make test-slow`, 150 in `make test`. Every band is what their binomial error allows a procedure
that keeps its promise: three and a half standard errors, which one such procedure in 2,000 would leave. Resamples are
1,000 here, to be quick.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tunelab.comparison.align import Pairs
from tunelab.comparison.paired_comparison import Comparison, compare_counts, compare_values, correct
from tunelab.statistics.bootstrap import paired_bootstrap
from tunelab.statistics.paired_tests import holm, mcnemar, paired_difference


@pytest.fixture(params=[150, pytest.param(2000, marks=pytest.mark.slow)])
def studies(request: pytest.FixtureRequest) -> int:
    """How many are simulated."""
    return int(request.param)


def band(studies: int) -> float:
    """What a rate of 5 % may miss by: 1.7 % with 2,000 studies."""
    return 3.5 * math.sqrt(0.05 * 0.95 / studies)


def least(studies: int) -> float:
    """A rate of false discoveries that a test without any power would fall below; a few studies cannot say."""
    return 0.02 if studies >= 2000 else -1.0


Draw = Callable[[np.random.Generator], tuple[list[float], list[float]]]


def _answers(n: int, lost: float, gained: float) -> Draw:
    """Right and wrong answers: so many lost and gained of n on average, four in ten of the others right."""

    def draw(random: np.random.Generator) -> tuple[list[float], list[float]]:
        place = random.random(n)
        right = random.random(n) < 0.4
        a = np.where(place < lost, True, np.where(place < lost + gained, False, right))
        b = np.where(place < lost, False, np.where(place < lost + gained, True, right))
        return a.astype(float).tolist(), b.astype(float).tolist()

    return draw


def _skewed(n: int) -> Draw:
    return lambda random: ([0.0] * n, random.gamma(2.0, size=n).tolist())


CLUSTERS = [f"subject {place // 8}" for place in range(40 * 8)]


def _clustered(random: np.random.Generator) -> tuple[list[float], list[float]]:
    """A difference of 0.3 on average, half of whose variance is the subject's."""
    shared = np.repeat(random.normal(0.3, 1, size=40), 8)
    return [0.0] * 320, (shared + random.normal(size=320)).tolist()


def _covered(studies: int, draw: Draw, truth: float, clusters: list[str] | None, paired: str) -> float:
    random = np.random.default_rng(11)
    held = 0
    for study in range(studies):
        a, b = draw(random)
        if paired == "bootstrap":
            found = paired_bootstrap(a, b, clusters, resamples=1000, seed=study)
        else:
            found = paired_difference(a, b, clusters)
        held += found.low <= truth <= found.high
    return held / studies


@pytest.mark.parametrize("paired", ["bootstrap", "normal"])
@pytest.mark.parametrize(
    ("draw", "truth", "clusters"),
    [(_answers(600, 0.04, 0.08), 0.04, None), (_skewed(120), 2.0, None), (_clustered, 0.3, CLUSTERS)],
    ids=["answers", "skewed", "clustered"],
)
def test_intervals_hold_the_truth(
    studies: int, draw: Draw, truth: float, clusters: list[str] | None, paired: str
) -> None:
    assert _covered(studies, draw, truth, clusters, paired) == pytest.approx(0.95, abs=band(studies))


def test_without_their_clusters_they_do_not(studies: int) -> None:
    assert _covered(studies, _clustered, 0.3, None, "normal") < 0.75


def test_the_interval_of_few_answers_holds_the_truth_at_least_as_often(studies: int) -> None:
    # 8 discordant items of 400 on average; the bootstrap alone would hold it in 92 %.
    random = np.random.default_rng(12)
    draw, held = _answers(400, 0.005, 0.015), 0
    for study in range(studies):
        a, b = draw(random)
        one = _compared(a, b, None, study)
        held += one.low <= 0.01 <= one.high
    assert held / studies > 0.95 - band(studies)


def _compared(a: list[float], b: list[float], clusters: list[str] | None, seed: int) -> Comparison:
    pairs = Pairs("a", "b", list(map(str, range(len(a)))), a, b, clusters, [], [], {})
    return compare_values(pairs, benchmark="any", metric="accuracy", resamples=1000, seed=seed)


def _false_discoveries(p_values: np.ndarray) -> float:
    """Share of studies with a corrected p below 0.05, [studies, comparisons]."""
    return sum(min(holm(row)) < 0.05 for row in p_values.tolist()) / len(p_values)


def test_corrected_tests_find_nothing_where_there_is_nothing(studies: int) -> None:
    random = np.random.default_rng(13)
    families = np.empty((studies, 6))
    uncorrected = 0
    for row in families:
        # Six benchmarks of 14,000 items, a tenth answered right by one of the two alone.
        lost = random.binomial(1400, 0.5, size=6)
        row[:] = [mcnemar(int(one), 1400 - int(one)) for one in lost]
        uncorrected += row.min() < 0.05
    assert uncorrected / studies > 0.2  # of six tests at 5 %: 26 %
    # Holm and the exact test are both on the careful side, so the band has only its upper end.
    assert least(studies) < _false_discoveries(families) < 0.05 + band(studies)


def test_corrected_tests_of_clustered_means_find_nothing_where_there_is_nothing(studies: int) -> None:
    random = np.random.default_rng(14)
    families = np.empty((studies, 3))
    for study, row in enumerate(families):
        for place in range(3):
            a, b = _clustered(random)
            shifted = [value - 0.3 for value in b]
            row[place] = paired_bootstrap(a, shifted, CLUSTERS, resamples=1000, seed=study).p
    single = float((families < 0.05).mean())
    assert single == pytest.approx(0.05, abs=3.5 * math.sqrt(0.05 * 0.95 / families.size))
    assert least(studies) < _false_discoveries(families) < 0.05 + band(studies)


def _clustered_answers(random: np.random.Generator, gain: float) -> tuple[list[float], list[float]]:
    """Answers of 40 subjects, some of which b is better in and some worse; the mean over subjects is the gain."""
    shift = np.repeat(random.uniform(-0.08, 0.08, size=40), 8) + gain / 2
    place = random.random(320)
    lost = place < 0.12 - shift
    gained = ~lost & (place < 0.24)
    right = random.random(320) < 0.4
    return np.where(lost, 1.0, right & ~gained).tolist(), np.where(gained, 1.0, right & ~lost).tolist()


def _figures(random: np.random.Generator, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Hits and words of 60 rows on two sides, [60, 2] each: the figure is their ratio."""
    words = random.integers(5, 60, size=60)
    ease = random.beta(4, 4, size=60) * 0.9
    hits = [random.binomial(words, ease + shift) for shift in (0.0, gain)]
    return np.stack([hits[0], words], axis=1), np.stack([hits[1], words], axis=1)


def _whole_study(random: np.random.Generator, seed: int, gain: float) -> list[Comparison]:
    """A study's comparisons as a report makes them, with this true difference in each: plain answers, answers in
    clusters, a mean of 100 rows, and a corpus figure.
    """
    family = [_compared(*_answers(320, 0.08 - gain / 2, 0.08 + gain / 2)(random), None, seed)]
    family.append(_compared(*_clustered_answers(random, gain), CLUSTERS, seed))
    a = random.normal(size=100)
    family.append(_compared(a.tolist(), (a + random.normal(gain, 0.2, size=100)).tolist(), None, seed))
    counts = _figures(random, gain)
    pairs = Pairs("a", "b", list(map(str, range(60))), [], [], None, [], [], {})
    family.append(
        compare_counts(
            pairs, [counts[0]], [counts[1]], lambda s: s[..., 0] / s[..., 1],
            benchmark="any", metric="figure", resamples=1000, seed=seed,
        )
    )  # fmt: skip
    return correct(family)


@pytest.mark.parametrize("gain", [0.0, 0.06])
def test_whole_studies_claim_nothing_false_and_their_intervals_hold_the_truth(studies: int, gain: float) -> None:
    random = np.random.default_rng(15)
    held, claims = np.zeros(4), np.zeros((studies, 4), dtype=bool)
    for study in range(studies):
        family = _whole_study(random, study, gain)
        held += [one.low <= gain <= one.high for one in family]
        claims[study] = [one.shown for one in family]
    # Differences of 320 answers come in steps of 1/320, and coverage rises and falls with where the truth lies between
    # two steps: over 4,000 studies each it was 93.6 to 95.4 %. The others have no steps.
    assert held[0] / studies == pytest.approx(0.95, abs=band(studies) + 0.014)
    assert held[1:] / studies == pytest.approx([0.95] * 3, abs=band(studies))
    if gain:
        assert (claims.mean(axis=0) > 0.2).all()  # what is there is found, now and then by each
    else:
        assert least(studies) < claims.any(axis=1).mean() < 0.05 + band(studies)
