"""Simulated studies: how often nothing is taken for something, and how often intervals hold the truth.

2,000 studies each in `make test-slow`, 150 in `make test`. Every band is what their binomial error allows a procedure
that keeps its promise: three and a half standard errors, which one such procedure in 2,000 would leave. Swaps and
resamples are 1,000 here, to be quick.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tunelab.comparison.align import Pairs
from tunelab.comparison.paired_comparison import Comparison, compare_counts, compare_values, correct
from tunelab.statistics.paired_tests import holm, mcnemar
from tunelab.statistics.permutation import paired_permutation
from tunelab.statistics.power import detectable_accuracy_difference, detectable_effect


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


def _unequal_sizes() -> list[int]:
    """Items of 57 subjects, as unequal as MMLU's: one has a ninth of all."""
    return [8 + place // 3 for place in range(56)] + [120]


UNEQUAL = [f"subject {place}" for place, size in enumerate(_unequal_sizes()) for _ in range(size)]


def _of_unequal_clusters(random: np.random.Generator) -> tuple[list[float], list[float]]:
    """A difference of 0.3 on average, half of whose variance is the subject's."""
    sizes = _unequal_sizes()
    shared = np.repeat(random.normal(0.3, 1, size=57), sizes)
    return [0.0] * sum(sizes), (shared + random.normal(size=sum(sizes))).tolist()


def _covered(studies: int, draw: Draw, truth: float, clusters: list[str] | None) -> float:
    random = np.random.default_rng(11)
    held = 0
    for study in range(studies):
        found = paired_permutation(*draw(random), clusters, swaps=1000, seed=study)
        held += found.low <= truth <= found.high
    return held / studies


def _normal(n: int, mean: float = 0.0) -> Draw:
    return lambda random: ([0.0] * n, random.normal(mean, size=n).tolist())


def _heavy(n: int) -> Draw:
    return lambda random: ([0.0] * n, random.standard_t(3, size=n).tolist())


@pytest.mark.parametrize(
    ("draw", "truth", "clusters", "short"),
    [
        (_answers(600, 0.04, 0.08), 0.04, None, 0.0),
        (_skewed(120), 2.0, None, 0.005),
        (_skewed(20), 2.0, None, 0.03),  # as Student's t: a mean of few skewed values is no bell
        (_normal(7), 0.0, None, 0.0),
        (_normal(14), 0.0, None, 0.0),
        (_heavy(30), 0.0, None, 0.0),
        (_clustered, 0.3, CLUSTERS, 0.0),
        (_of_unequal_clusters, 0.3, UNEQUAL, 0.01),
    ],
    ids=["answers", "skewed", "few skewed", "seven", "fourteen", "heavy tails", "clustered", "unequal clusters"],
)
def test_intervals_hold_the_truth(
    studies: int, draw: Draw, truth: float, clusters: list[str] | None, short: float
) -> None:
    found = _covered(studies, draw, truth, clusters)
    # Exact tests of few items err to the careful side: seven have an interval of 95.3 %.
    assert 0.95 - band(studies) - short < found < 0.95 + band(studies) + 0.01


def test_without_their_clusters_they_do_not(studies: int) -> None:
    assert _covered(studies, _clustered, 0.3, None) < 0.75


def _far_skewed(n: int) -> Draw:
    """Differences whose mean is 0 but most of which are below it."""
    return lambda random: ([0.0] * n, (random.gamma(1.0, size=n) - 1).tolist())


@pytest.mark.parametrize(
    ("draw", "most"),
    [
        (_normal(4), 0.0),
        (_normal(6), 0.05),
        (_normal(9), 0.05),
        (_normal(20), 0.05),
        (_heavy(12), 0.05),
        (_far_skewed(100), 0.06),
        (_far_skewed(20), 0.09),  # as Student's t, 8.6 %: its null is a mean of 0, the swaps' that labels are chance
    ],
    ids=["four", "six", "nine", "twenty", "heavy tails", "skewed", "few skewed"],
)
def test_the_permutation_test_keeps_its_level(studies: int, draw: Draw, most: float) -> None:
    random = np.random.default_rng(18)
    found = [paired_permutation(*draw(random), swaps=1000, seed=study).p for study in range(studies)]
    assert sum(p < 0.05 for p in found) / studies <= most + (band(studies) if most else 0)


def test_the_interval_of_few_answers_holds_the_truth_at_least_as_often(studies: int) -> None:
    # 8 and 2 discordant items of 400 on average, and 3 of 20.
    random = np.random.default_rng(12)
    for n, lost, gained in ((400, 0.005, 0.015), (400, 0.0, 0.005), (20, 0.05, 0.1)):
        draw = _answers(n, lost, gained)
        found = [_compared(*draw(random), None, study) for study in range(studies)]
        assert sum(one.low <= gained - lost <= one.high for one in found) / studies > 0.95 - band(studies)


@pytest.mark.parametrize(("n", "family"), [(8, 1), (40, 1), (300, 1), (300, 12)])
def test_a_minimum_detectable_difference_is_shown_four_times_in_five(studies: int, n: int, family: int) -> None:
    """Of means and of answers, in the comparison's own words: alpha / family, as the smallest p of a family meets."""
    random = np.random.default_rng(19)
    wide = 3.5 * math.sqrt(0.16 / studies)
    effect = detectable_effect(n, alpha=0.05 / family)
    if effect is not None:
        found = [paired_permutation(*_normal(n, effect)(random), seed=study).p for study in range(min(studies, 1000))]
        power = sum(p < 0.05 / family for p in found) / len(found)
        assert power == pytest.approx(0.8, abs=3.5 * math.sqrt(0.16 / len(found)) + 0.03)
    share = detectable_accuracy_difference(n, 0.2, alpha=0.05 / family)
    if share is not None:
        most = max(0.2, share)
        drawn = random.multinomial(n, [(most - share) / 2, (most + share) / 2, 1 - most], size=studies).tolist()
        power = sum(mcnemar(lost, gained) < 0.05 / family for lost, gained, _ in drawn) / studies
        assert power == pytest.approx(0.8, abs=wide)


def test_a_detectable_difference_of_clusters_is_shown_four_times_in_five(studies: int) -> None:
    # The difference is reckoned from each study's own error, and then looked for in the next one.
    random, shown, studies = np.random.default_rng(20), 0, min(studies, 600)
    sizes = np.array(_unequal_sizes())
    error = math.sqrt(float((sizes**2).sum()) + float(sizes.sum())) / sizes.sum()
    for study in range(studies):
        a, b = _of_unequal_clusters(random)
        found = compare_values(_pairs_of(a, b, UNEQUAL), benchmark="any", metric="any", unit="nats", seed=study)
        assert found.detectable is not None
        wanted = found.detectable / found.error * error  # in true standard errors
        a, b = _of_unequal_clusters(random)
        shown += paired_permutation(a, [one - 0.3 + wanted for one in b], UNEQUAL, swaps=1000, seed=study).p < 0.05
    assert shown / studies == pytest.approx(0.8, abs=3.5 * math.sqrt(0.16 / studies) + 0.03)


def _compared(a: list[float], b: list[float], clusters: list[str] | None, seed: int) -> Comparison:
    return compare_values(_pairs_of(a, b, clusters), benchmark="any", metric="accuracy", swaps=1000, seed=seed)


def _pairs_of(a: list[float], b: list[float], clusters: list[str] | None) -> Pairs:
    return Pairs("a", "b", list(map(str, range(len(a)))), a, b, clusters, [], [], {})


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
            row[place] = paired_permutation(a, shifted, CLUSTERS, swaps=1000, seed=study).p
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
            benchmark="any", metric="figure", resamples=1000, swaps=1000, seed=seed,
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
