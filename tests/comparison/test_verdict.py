"""What is compared, how it is told, and that nothing is claimed that was not shown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from tunelab.comparison.align import Pairs
from tunelab.comparison.over_trainings import over_trainings
from tunelab.comparison.paired_comparison import Comparison, compare_values, correct
from tunelab.comparison.verdict import outcome, too_few, verdict
from tunelab.errors import DataError, RunError
from tunelab.statistics.paired_tests import discordant_interval, mcnemar
from tunelab.statistics.permutation import paired_permutation
from tunelab.statistics.power import detectable_accuracy_difference, detectable_effect
from tunelab.statistics.standard_errors import clustered_mean_with_error, mean_with_error


def _pairs(a: Sequence[float], b: Sequence[float], clusters: list[str] | None = None) -> Pairs:
    ids = [f"item {place}" for place in range(len(a))]
    differing = {"arm": ("base", "tuned")}
    return Pairs("base", "tuned", ids, list(a), list(b), clusters, [], ["item x"], differing, "subject")


def _answers(lost: int, gained: int, n: int) -> Pairs:
    alike = n - lost - gained
    return _pairs(
        [1.0] * lost + [0.0] * gained + [1.0] * (alike // 2) + [0.0] * (alike - alike // 2),
        [0.0] * lost + [1.0] * gained + [1.0] * (alike // 2) + [0.0] * (alike - alike // 2),
    )


def _compare(pairs: Pairs, **changes: Any) -> Comparison:
    return compare_values(pairs, **{"benchmark": "mmlu", "metric": "accuracy", "swaps": 2000, **changes})


def test_right_and_wrong_answers() -> None:
    pairs = _answers(675, 593, 12_343)
    found = _compare(pairs)
    assert found.p == found.p_mcnemar == mcnemar(675, 593)
    assert (found.low, found.high) == discordant_interval(675, 593, 12_343)
    assert found.difference == pytest.approx((593 - 675) / 12_343)
    assert (found.a_value, found.a_error) == (mean_with_error(pairs.a).value, mean_with_error(pairs.a).error)
    assert (found.b_value, found.b_error) == (mean_with_error(pairs.b).value, mean_with_error(pairs.b).error)
    assert found.lost == tuple(pairs.items[:675])
    assert found.gained == tuple(pairs.items[675 : 675 + 593])
    assert (found.n, found.clusters, found.left_out, found.p_holm, found.family) == (12_343, None, 1, None, 1)
    assert found.detectable == detectable_accuracy_difference(12_343, 1268 / 12_343)
    assert found.method == "exact McNemar; interval: Bonett and Price, made to agree with the test about 0"
    assert found.test == "McNemar's exact test"
    assert verdict(found) == "tuned is worse than base by 0.66 points (95 % interval 0.10 to 1.23, p = 0.023)"


def test_few_discordant_answers() -> None:
    found = _compare(_answers(2, 7, 500))
    assert (found.low, found.high) == discordant_interval(2, 7, 500)
    same = _compare(_answers(0, 0, 500))
    assert same.p == 1 and same.low == -same.high < 0
    assert verdict(same) == (
        "no difference shown: 0.00 points (95 % interval -0.55 to +0.55, p = 1.000), minimum detectable difference"
        " 1.58 points (at 80 % power)"
    )


def test_clustered_answers_take_the_clusters_p() -> None:
    random = np.random.default_rng(0)
    clusters = [f"subject {place // 20}" for place in range(800)]
    shift = np.repeat(random.normal(0.1, 0.25, size=40), 20)  # some subjects gain, some lose
    a, b = (random.random(800) < 0.5).astype(float), (random.random(800) < 0.5 + shift).astype(float)
    pairs = _pairs(a.tolist(), b.tolist(), clusters)
    found = _compare(pairs)
    swapped = paired_permutation(pairs.a, pairs.b, clusters, swaps=2000)
    assert (found.p, found.low, found.high) == (swapped.p, swapped.low, swapped.high)
    assert found.p_mcnemar is not None and found.p_mcnemar < found.p
    assert found.clusters == 40
    assert found.a_error == clustered_mean_with_error(pairs.a, clusters).error
    plain = mean_with_error(b - a).error
    assert plain is not None and found.error > 1.3 * plain and found.gained and found.lost
    effect = detectable_effect(40)
    assert effect is not None and found.detectable == pytest.approx(effect * math.sqrt(40) * found.error)
    assert found.method == "paired permutation test over 40 clusters (2,000 random swaps, seed 0)"
    assert verdict(dataclasses.replace(found, p=0.066)).count(
        "p = 0.066; permutation test, items clustered by subject)"
    )
    assert found.test == "permutation test, items clustered by subject"


def test_few_discordant_answers_in_clusters_take_the_wider_interval() -> None:
    pairs = _answers(0, 5, 100)
    clusters = [f"subject {place}" for place in range(50)] * 2
    found = _compare(dataclasses.replace(pairs, clusters=clusters))
    swapped = paired_permutation(pairs.a, pairs.b, clusters, swaps=2000)
    low, high = discordant_interval(0, 5, 100)
    assert found.p == swapped.p == pytest.approx(mcnemar(0, 5), abs=0.02)
    assert (found.low, found.high) == (min(low, swapped.low), max(high, swapped.high))
    assert found.method.endswith("interval at least as wide as Bonett and Price's, as 5 items are discordant")


def test_any_mean() -> None:
    random = np.random.default_rng(1)
    a = random.normal(3.0, 1.0, size=400)
    noise = random.normal(0, 0.4, size=400)
    b = a - 0.5 + noise - noise.mean()
    found = _compare(_pairs(a.tolist(), b.tolist()), metric="loss", unit="nats", higher_is_better=False, swaps=9999)
    assert found.gained is found.lost is found.p_mcnemar is None
    effect = detectable_effect(400)
    assert effect is not None and found.detectable == pytest.approx(effect * float(np.std(b - a, ddof=1)))
    assert verdict(found) == "tuned is better than base by 0.500 nats (95 % interval 0.460 to 0.541, p < 0.001)"
    other = _compare(_pairs(a.tolist(), b.tolist()), unit="0-100")
    assert other.test == "permutation test"
    assert verdict(other).startswith("tuned is worse than base by 0.500 points (95 % interval 0.4")


def test_values_that_never_differ_are_told_as_such() -> None:
    found = _compare(_pairs([0.2, 0.7, 0.9] * 3, [0.2, 0.7, 0.9] * 3), unit="0-100")
    assert found.detectable is None
    assert verdict(found) == (
        "no difference shown: 0.0 points (95 % interval 0.0 to 0.0, p = 1.000), the same whichever of the 9 items are"
        " drawn (up to 30 % of others may differ)"
    )
    # Items of three subjects that are alike say as much as three items.
    clustered = _compare(_pairs([1.0] * 60, [1.0] * 60, [f"subject {place % 12}" for place in range(60)]))
    assert clustered.detectable is None and "of the 60 items are drawn (up to 24 % of others" in verdict(clustered)


def test_only_shares_are_right_or_wrong() -> None:
    # No answer shares a word with its reference: ROUGE is 0 everywhere, which is no list of wrong answers.
    found = _compare(_pairs([0.0] * 9, [0.0] * 9), metric="rougeL", unit="0-100")
    assert found.gained is found.p_mcnemar is found.detectable is None
    assert _compare(_pairs([0.0] * 9, [0.0] * 9)).gained == ()


def test_too_few_items_to_see_anything() -> None:
    assert verdict(_compare(_answers(0, 3, 3))).endswith(
        ", p = 0.250), no result could be significant with 3 items (the smallest possible p is 0.250)"
    )
    # Differences of four equal items, and what was called their smallest detectable difference before: 0.2 of 2.1.
    four = _compare(_pairs([0.0] * 4, [2.0, 2.1, 2.1, 2.2]), unit="nats")
    assert four.detectable is None and four.low <= 0 and not four.could_be_shown
    assert "no result could be significant with 4 items (the smallest possible p is 0.125)" in verdict(four)
    family = correct([_compare(_answers(0, 7, 7))] * 4)
    assert "with 7 items and 4 comparisons (the smallest possible p is 0.062)" in verdict(family[0])
    clustered = _compare(_pairs([0.0] * 40, [0.5] * 40, [f"subject {place % 5}" for place in range(40)]), unit="nats")
    assert "no result could be significant with 5 clusters" in verdict(clustered)
    # BLEU of 20 rows is tested by random swaps alone, which measure no p below one of them.
    corpus = dataclasses.replace(_compare(_pairs([0.0] * 20, [0.5] * 20)), p=0.06, smallest_p=1 / 10_001, family=600)
    corpus = dataclasses.replace(corpus, gained=None, lost=None, difference=0.1)
    assert too_few(corpus) == (
        "no result could be significant with the random swaps of 20 items and 600 comparisons "
        "(the smallest possible p is 0.060)"
    )
    with pytest.raises(DataError, match="there is 1 item: expected two or more"):
        _compare(_answers(0, 1, 1))
    with pytest.raises(DataError, match="all 2 items are in one cluster"):
        _compare(_pairs([0, 1], [1, 1], ["law", "law"]))


def test_a_family_is_corrected_together() -> None:
    family = [_compare(_answers(lost, gained, 1000)) for lost, gained in ((30, 62), (32, 52), (40, 44))]
    corrected = correct(family)
    p = [one.p for one in family]
    assert p[0] < 0.01 < p[1] < 0.05 < p[2]
    assert [one.p_holm for one in corrected] == pytest.approx([3 * p[0], 2 * p[1], p[2]])
    assert [one.p for one in corrected] == p
    assert [one.shown for one in family] == [True, True, False]
    assert [one.shown for one in corrected] == [True, False, False]
    assert corrected[0].detectable == detectable_accuracy_difference(1000, 0.092, alpha=0.05 / 3)
    assert correct(corrected) == corrected
    assert correct([]) == []
    assert verdict(dataclasses.replace(corrected[0], low=0.0134, high=0.0508)) == (
        "tuned is better than base by 3.20 points (95 % interval 1.34 to 5.08, p = 0.001; p = 0.003 after Holm over 3"
        " comparisons)"
    )
    assert verdict(dataclasses.replace(corrected[1], low=0.0021, high=0.0379)) == (
        "no difference shown: +2.00 points (95 % interval +0.21 to +3.79, p = 0.038; p = 0.075 after Holm over 3"
        " comparisons), minimum detectable difference 3.02 points (at 80 % power)"
    )
    assert "Holm" not in verdict(correct(family[:1])[0])


def test_p_is_never_rounded_over_the_line() -> None:
    one = _compare(_answers(30, 50, 1000))
    assert "p = 0.04960)" in verdict(dataclasses.replace(one, p=0.0496))
    assert "p = 0.050)" in verdict(dataclasses.replace(one, p=0.0504))
    assert "p = 0.268)" in verdict(dataclasses.replace(one, p=0.2683))


def test_small_differences_get_the_digits_they_need() -> None:
    one = dataclasses.replace(_compare(_answers(30, 60, 1000)), unit="bits/byte")
    tiny = dataclasses.replace(one, difference=0.00123, low=0.0009, high=0.0015)
    assert "by 0.00123 bits/byte (95 % interval 0.00090 to 0.00150" in verdict(tiny)
    large = dataclasses.replace(one, difference=123.4, low=88.0, high=160.2)
    assert "by 123 bits/byte (95 % interval 88 to 160" in verdict(large)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=4, max_size=120),
    st.booleans(),
)
def test_a_against_b_is_b_against_a_turned(rows: list[tuple[float, float]], clustered: bool) -> None:
    a, b = [one for one, _ in rows], [other for _, other in rows]
    clusters = [f"c{place % 3}" for place in range(len(rows))] if clustered else None
    forth, back = _compare(_pairs(a, b, clusters), swaps=200), _compare(_pairs(b, a, clusters), swaps=200)
    assert (back.difference, back.p, back.detectable) == pytest.approx((-forth.difference, forth.p, forth.detectable))
    assert (-back.high, -back.low) == pytest.approx((forth.low, forth.high), abs=1e-9)
    assert (back.gained, back.lost) == (forth.lost, forth.gained)
    assert forth.low <= forth.difference <= forth.high


def test_json_and_back() -> None:
    for one in (_compare(_answers(3, 5, 40)), _compare(_pairs([0.5, 0.2, 0.1], [0.1, 0.4, 0.2]))):
        assert Comparison.from_json(json.loads(json.dumps(one.to_json()))) == one
    stored = _compare(_answers(3, 5, 40)).to_json()
    with pytest.raises(RunError, match="Comparison record has an unknown zeal"):
        Comparison.from_json({**stored, "zeal": 1})
    del stored["p"]
    with pytest.raises(RunError, match="Comparison record lacks p"):
        Comparison.from_json(stored)


def test_with_several_trainings_the_verdict_is_over_items_and_trainings() -> None:
    one = _compare(_answers(lost=10, gained=60, n=500))
    by_training = [0.02, 0.10, 0.18]
    wide = over_trainings(one, [0.5] * 3, [0.5 + each for each in by_training], 70)
    of_trainings = mean_with_error(by_training).error
    assert wide.seed_error == pytest.approx(of_trainings) and wide.seeds == 3
    assert [of_items for of_items, _ in wide.parts] == pytest.approx([one.error, of_trainings])
    assert [degrees for _, degrees in wide.parts] == [499, 2]
    assert of_trainings is not None and wide.error == pytest.approx(math.hypot(one.error, of_trainings))
    assert wide.p > ttest_1samp(by_training, 0).pvalue > 0.05 > one.p and wide.low < 0 < wide.high
    low, high = 100 * wide.low, 100 * wide.high
    said = verdict(dataclasses.replace(wide, a_trainings=3, b_trainings=3))
    assert said.startswith(
        f"no difference shown: +10.0 points (95 % interval {low:+.1f} to {high:+.1f} over items and 3 trainings,"
        f" p = {wide.p:.3f}, 499 and 2 degrees of freedom), minimum detectable difference "
    )
    assert (outcome(one), outcome(wide)) == ("better", "no difference shown"), "the sentence and the word agree"
    assert wide.test == "t-test over items and trainings, 499 and 2 degrees of freedom"
    sure = over_trainings(one, [0.5, 0.5], [0.5999, 0.6001], 70)
    assert outcome(sure) == "better" and sure.p == pytest.approx(one.p, abs=0.01) and sure.low <= one.low
    assert Comparison.from_json(json.loads(json.dumps(wide.to_json()))) == wide


def test_of_few_items_the_test_over_items_alone_is_the_careful_one() -> None:
    four = _compare(_pairs([0.0] * 4, [2.0, 2.1, 2.1, 2.2]), unit="nats")
    found = over_trainings(four, [0.0] * 3, [2.1, 2.1, 2.1001], 4)
    assert (found.p, found.low <= 0, found.could_be_shown) == (four.p, True, False)
    # No item differs in three trainings of each: others may, and two are added.
    same = over_trainings(_compare(_answers(0, 0, 50)), [0.5] * 3, [0.5] * 3, 0)
    assert same.p == 1 and same.high == -same.low > 0.05


def test_a_model_that_was_trained_once_does_not_speak_for_its_method() -> None:
    shown = dataclasses.replace(_compare(_answers(20, 70, 1000)), a_name="lora", b_name="nf4")
    both = dataclasses.replace(shown, a_trainings=1, b_trainings=1)
    assert verdict(both).startswith("this nf4 model is better than this lora model by 5.00 points (95 % interval ")
    assert verdict(both).endswith("p < 0.001; each was trained once)")
    tuned = dataclasses.replace(shown, a_name="base", b_trainings=1)
    assert verdict(tuned).startswith("this nf4 model is better than base by ")
    assert verdict(tuned).endswith("; it was trained once)")
    unclear = dataclasses.replace(_compare(_answers(20, 22, 1000)), a_trainings=1, b_trainings=1)
    assert verdict(unclear).startswith("no difference shown between this base model and this tuned model: +0.20 points")
    assert "this" not in verdict(shown), "of two runs that were named, each is the model that it is"


def test_what_was_not_asked_is_called_exploratory() -> None:
    family = correct([dataclasses.replace(_compare(_answers(20, 70, 1000)), exploratory=True)] * 3)
    assert " after Holm over 3 exploratory comparisons)" in verdict(family[0])
