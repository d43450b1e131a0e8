"""Is an arm as good as another, within a margin: four answers, what they rest on, and what no answer is given to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from held_out_files import texts, write_held_out

from tunelab.comparison.as_good import Judged, items_for, judge_difference, judge_share, margin_shown
from tunelab.comparison.as_good_verdict import judged_verdict
from tunelab.comparison.evaluated import evaluated_in
from tunelab.comparison.paired_evaluations import Side, compare_sides
from tunelab.errors import DataError
from tunelab.statistics.crossed import Part

ROWS = 60
TOKENS = [4 + 3 * (row % 7) for row in range(ROWS)]
EASE = np.random.default_rng(0).normal(3.0, 0.4, size=ROWS)


def arm(folder: Path, name: str, losses: Sequence[float], wrong_every: int = 3) -> Side:
    """An arm with a training for each loss per token; "base" is not tuned."""
    made = []
    for seed, loss in enumerate(losses):
        noise = np.random.default_rng([len(name), seed]).normal(0, 0.02, size=ROWS)
        nats = [count * float(one) for count, one in zip(TOKENS, EASE + loss - 3.0 + noise, strict=True)]
        place = write_held_out(folder / f"{name}-{seed}", *texts(ROWS, wrong_every), nats, TOKENS, arm=name)
        made += evaluated_in(place)
    return Side(name, made, is_tuned=name != "base")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Side:
    return arm(tmp_path_factory.mktemp("base"), "base", [3.0])


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Side:
    return arm(tmp_path_factory.mktemp("lora"), "lora", [2.0, 2.002, 1.998])


def share(a: Side, b: Side, base: Side, kept: float = 0.9, *, both_ways: bool = False) -> Judged:
    return judge_share(a, b, base, compare_sides(a, b, "completion_loss"), kept, both_ways=both_ways)


def margin(a: Side, b: Side, within: float, *, both_ways: bool = False) -> Judged:
    return judge_difference(a, b, compare_sides(a, b, "completion_loss"), within, both_ways=both_ways)


def test_the_share_of_a_gain_that_is_kept(base: Side, lora: Side, tmp_path: Path) -> None:
    nf4 = arm(tmp_path, "nf4", [2.011, 2.009, 2.010])
    found = share(lora, nf4, base)
    assert found.value == pytest.approx(0.99, abs=0.004) and found.low < found.value < found.high
    assert found.answer == "worse within margin" and found.p < 0.001
    said = judged_verdict(found)
    assert (
        said.startswith("worse, but by less than the margin: nf4 keeps 9") and "of what lora gained over base" in said
    )
    assert "; asked: at least 90 %; over items and 3 trainings, p < 0.001)" in said and " (at least 98." in said
    # Fieller's bounds are the shares whose own test says 5 %.
    assert share(lora, nf4, base, found.low).p == pytest.approx(0.05, abs=1e-3)
    assert share(lora, nf4, base, found.high).p_beyond == pytest.approx(0.05, abs=1e-3)
    assert share(lora, lora, base).answer == "as good" and share(lora, lora, base, both_ways=True).answer == "alike"
    half = share(lora, arm(tmp_path, "half", [2.5, 2.502, 2.498]), base)
    assert half.answer == "worse beyond margin"
    assert judged_verdict(half).startswith("no, worse by more than the margin: half keeps 5") and "(at most 5" in (
        judged_verdict(half)
    )


def test_a_share_of_a_gain_that_was_not_shown_means_nothing(base: Side, lora: Side, tmp_path: Path) -> None:
    barely = arm(tmp_path, "barely", [2.99, 3.02, 2.97])
    with pytest.raises(DataError, match=r"what barely gained over base was not shown \(\S+, 95 % interval .*means no"):
        share(barely, lora, base)
    worse = arm(tmp_path, "worse", [3.5, 3.51, 3.49])
    with pytest.raises(DataError, match="what worse gained over base was not shown"):
        share(worse, lora, base)


def test_a_margin_in_the_metrics_unit(lora: Side, tmp_path: Path) -> None:
    nf4 = arm(tmp_path, "nf4", [2.011, 2.009, 2.010])
    found = margin(lora, nf4, 0.1)
    assert (found.limit, found.answer) == (-0.1, "worse within margin") and found.value == pytest.approx(
        -0.01, abs=0.004
    )
    assert "nf4 is 0.01" in judged_verdict(found) and "worse; margin 0.1 nats per token; " in judged_verdict(found)
    assert margin(lora, nf4, 0.001).answer in ("worse beyond margin", "not known")
    better = arm(tmp_path, "better", [1.5, 1.502, 1.498])
    assert margin(lora, better, 0.1).answer == "as good", "better is as good"
    assert margin(lora, better, 0.1, both_ways=True).answer == "better beyond margin"
    assert judged_verdict(margin(lora, better, 0.1, both_ways=True)).startswith("no, better by more than the margin: ")
    assert margin(lora, nf4, 0.1, both_ways=True).p >= found.p


def test_what_is_not_known_says_how_many_items_would_show_it(lora: Side, tmp_path: Path) -> None:
    once = Side("lora", lora.seeds[:1], is_tuned=True)
    other = arm(tmp_path, "other", [2.003])
    found = margin(once, other, 0.003)
    assert found.answer == "not known" and found.can_show is not None and -found.can_show > 0.003
    assert found.items_needed is not None and found.items_needed > ROWS
    said = judged_verdict(found)
    assert (
        said.startswith("not known: this other model ")
        and "each was trained once). If nothing differs, 60 items" in said
    )
    assert said.endswith(" items") and "a margin of 0.003 nats per token needs about " in said
    # Trainings that vary too much: no number of items says more about them.
    unlike = arm(tmp_path, "unlike", [1.8, 2.2, 2.0])
    varied = margin(lora, unlike, 0.01)
    assert (varied.answer, varied.items_needed) == ("not known", None)
    assert "the trainings vary too much, so add seeds" in judged_verdict(varied)


def test_what_the_correction_alone_leaves_open_needs_no_fewer_items_than_there_are(base: Side, lora: Side) -> None:
    found = dataclasses.replace(share(lora, lora, base), p_holm=0.054, family=5, items_as_measured=6, items_needed=9)
    assert judged_verdict(found).endswith(
        "it is shown before the correction over 5 questions, so ask fewer, or add items"
    )


def test_a_correction_can_leave_nothing(base: Side, lora: Side) -> None:
    found = share(lora, lora, base)
    assert dataclasses.replace(found, p_holm=0.06, family=4).answer == "not known"
    assert "after Holm over 4 questions" in judged_verdict(dataclasses.replace(found, p_holm=0.01, family=4))


def test_corpus_figures_are_judged_by_their_rows_contributions(tmp_path: Path) -> None:
    a, b = (arm(tmp_path, name, [2.0, 2.0], every) for name, every in (("few", 6), ("many", 3)))
    found = judge_difference(a, b, compare_sides(a, b, "bleu"), 1.0, both_ways=False)
    assert found.value == pytest.approx(compare_sides(a, b, "bleu").difference)
    assert found.answer == "worse beyond margin" and "points worse than few" in judged_verdict(found)


def test_planning_a_margin_is_as_published() -> None:
    # Discordance 20 %: 500 items show 5.0 points, and 1 point needs 12,400 (one-sided 5 %, 80 % power).
    for items, discordance, points in ((500, 0.2, 5.0), (14_042, 0.1, 0.66), (1319, 0.2, 3.1), (100, 0.2, 11.2)):
        part = Part((discordance / items) ** 0.5, items - 1)
        shown = margin_shown(items, part, [], items)
        assert shown is not None and 100 * shown == pytest.approx(points, rel=0.015)
    part = Part((0.2 / 500) ** 0.5, 499)
    assert items_for(500, part, [], 0.01) == pytest.approx(12_366, rel=0.001)
    assert items_for(500, part, [Part(0.02, 2)], 0.01) is None


def test_no_answer_that_differs_is_no_certainty(tmp_path: Path) -> None:
    """Values of right and wrong answers that never differ: others may, and two items are added."""
    a, b = (arm(tmp_path, name, [2.0], 3) for name in ("one", "two"))
    found = judge_difference(a, b, compare_sides(a, b, "exact_match"), 0.01, both_ways=False)
    assert (found.value, found.answer) == (0.0, "not known") and found.low < -0.03
    assert "this two model scored the same as this one model (-" in judged_verdict(found)
