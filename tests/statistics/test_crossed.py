"""One verdict over items and trainings: the worked rows of a study, degrees of freedom, and the exact t-test within."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from tunelab.errors import DataError
from tunelab.statistics.crossed import Part, crossed, parts_of_trainings, satterthwaite_p


@pytest.mark.parametrize(
    ("difference", "of_items", "of_trainings", "t", "degrees", "p"),
    [
        (0.0281, (0.0182, 0.0378), 0.0075, "3.1", "4.2", "0.034"),  # LoRA against full fine-tuning, loss
        (0.0081, (0.0050, 0.0112), 0.0022, "3.0", "4.6", "0.034"),  # NF4 against LoRA, loss
        (0.0108, (0.0066, 0.0147), 0.00079, "4.9", "83", "0.0000"),  # MXFP4 against LoRA, loss
        (0.47, (0.12, 0.91), 0.15, "1.9", "15", "0.081"),  # NF4 against LoRA, ROUGE-L: "is better" by items alone
    ],
)
def test_the_worked_rows_of_a_study_of_three_seeds_and_197_rows(
    difference: float, of_items: tuple[float, float], of_trainings: float, t: str, degrees: str, p: str
) -> None:
    parts = [Part((of_items[1] - of_items[0]) / (2 * 1.96), 196), Part(of_trainings, 2)]
    found = crossed(difference, parts)
    assert f"{found.value / found.error:.1f}" == t
    usual, of_freedom = satterthwaite_p(difference, parts)
    assert f"{of_freedom:.{1 if of_freedom < 10 else 0}f}" == degrees and f"{usual:.{len(p) - 2}f}" == p
    assert usual < found.p < 2.5 * usual + 0.01, "the careful p is larger"
    low, high = found.interval(0.95)
    assert (low > 0) == (found.p < 0.05) and low < difference < high
    assert found.above(0.0) == pytest.approx(found.p / 2)


@pytest.mark.parametrize("figures", [[0.02, 0.10, 0.18], [0.02, 0.03], [0.5, 0.1, 0.3, 0.2, 0.9]])
def test_without_variance_of_the_items_it_is_the_t_test_over_trainings(figures: list[float]) -> None:
    parts = parts_of_trainings([[0.0], figures], [-1.0, 1.0])
    found = crossed(float(np.mean(figures)), [Part(0.0, 99), *parts])
    assert found.p == pytest.approx(ttest_1samp(figures, 0).pvalue)
    assert found.interval(0.9) == pytest.approx(ttest_1samp(figures, 0).confidence_interval(0.9))


def test_interval_and_p_agree_at_every_level() -> None:
    found = crossed(1.0, [Part(0.3, 150), Part(0.2, 2)])
    for border in (-0.5, 0.0, 0.3, 0.99, 1.0, 1.2, 3.0):
        tail = found.above(border)
        edge = found.value - np.sign(1.0 - border) * found.reach(min(tail, 1 - tail))
        assert edge == pytest.approx(border, abs=1e-9)
    assert found.detectable(0.025, 0.8) == pytest.approx(found.reach(0.025) + 0.8416 * found.error, abs=1e-4)


def test_arms_are_paired_by_training_or_stand_alone() -> None:
    a, b = [1.0, 2.0, 4.0], [1.5, 2.5, 4.5]
    (paired,) = parts_of_trainings([a, b], [-1.0, 1.0])
    assert paired == Part(0.0, 2.0), "what a seed does to both cancels out"
    apart = parts_of_trainings([a, b[:2]], [-1.0, 1.0])
    assert [one.degrees for one in apart] == [2.0, 1.0]
    assert [one.error for one in apart] == pytest.approx([np.std(a, ddof=1) / 3**0.5, 0.5])
    assert parts_of_trainings([[1.0], [2.0]], [-1.0, 1.0]) == []
    weighted = parts_of_trainings([a, [7.0]], [-0.5, 1.0])
    assert weighted[0].error == pytest.approx(0.5 * np.std(a, ddof=1) / 3**0.5)


def test_errors_of_any_size_and_of_none() -> None:
    for scale in (1e-200, 1.0, 1e200):
        found = crossed(3 * scale, [Part(scale, 50), Part(2 * scale, 2)])
        assert found.error == pytest.approx(5**0.5 * scale)
        assert found.p == pytest.approx(crossed(3.0, [Part(1.0, 50), Part(2.0, 2)]).p)
    same, other = crossed(0.0, [Part(0.0, 9)]), crossed(0.1, [Part(0.0, 9)])
    assert (same.p, other.p, same.interval(0.95), other.interval(0.95)) == (1.0, 0.0, (0.0, 0.0), (0.1, 0.1))
    assert (same.above(), other.above(), other.above(0.2)) == (1.0, 0.0, 1.0)


def test_what_has_no_variance_to_estimate_is_refused() -> None:
    with pytest.raises(DataError, match="no variance to estimate an error from"):
        crossed(1.0, [])
    for one in (Part(-1.0, 2), Part(float("nan"), 2), Part(1.0, 0)):
        with pytest.raises(DataError, match=r"an error of .* degrees of freedom: expected 0 or more, above 0"):
            crossed(1.0, [one])
