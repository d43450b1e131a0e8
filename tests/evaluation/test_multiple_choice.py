"""The likeliest choice is what counts; errors are hand-computed; doubts come where they should and nowhere else."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Graded, Response
from tunelab.evaluation.multiple_choice import (
    accuracy,
    choice_facts,
    clustered_accuracy,
    doubts,
    grade_choice,
    macro_accuracy,
)

CHOICES = (" A", " B", " C", " D")


def response(*values: float, target: int = 0, cluster: str = "s", cut: int = 0) -> Response:
    return Response(
        "s/0",
        "",
        "q",
        target,
        cluster,
        choices=CHOICES,
        log_probabilities=values,
        truncated_tokens=cut,
        prompt_tokens=9,
    )


def answers(pattern: str, cluster: str = "s") -> list[Graded]:
    """One graded response a letter: the letter that was chosen, where the right one is always A."""
    graded = []
    for letter in pattern:
        one = response(*(-1.0 if letter == other else -2.0 for other in "ABCD"), cluster=cluster)
        graded.append(Graded(one, grade_choice(one)))
    return graded


def test_the_likeliest_choice_counts_and_the_first_of_equals() -> None:
    def verdict(*values: float, target: int) -> tuple[float, ...]:
        grades = grade_choice(response(*values, target=target))
        return grades["accuracy"], grades["chosen"], grades["tied"]

    assert verdict(-3, -1, -2, -9, target=1) == (1.0, 1.0, 0.0)
    assert verdict(-3, -1, -2, -9, target=2) == (0.0, 1.0, 0.0)
    assert verdict(-3, -1, -1, -9, target=1) == (1.0, 1.0, 1.0)
    infinite = grade_choice(response(-math.inf, -1, -2, -9, target=1))
    assert infinite == {"accuracy": 1.0, "chosen": 1.0, "tied": 0.0}, "no shares of an infinite total"


def test_the_right_choices_probability_is_among_the_values() -> None:
    grades = grade_choice(response(-3, -1, -2, -9, target=2))
    assert set(grades) == {"accuracy", "chosen", "tied", "log_probability", "brier", "confidence"}
    assert grades["log_probability"] == -2 and grades["confidence"] == pytest.approx(0.66, abs=0.01)


def test_how_the_choices_are_written_does_not_matter() -> None:
    bare = dataclasses.replace(response(-3, -1, -2, -9, target=1), choices=("A", "B", "C", "D"))
    assert grade_choice(bare) == grade_choice(response(-3, -1, -2, -9, target=1))


def test_responses_that_cannot_be_graded_are_refused() -> None:
    with pytest.raises(DataError, match="item s/0: 3 log-probabilities for 4 choices: expected one of each"):
        grade_choice(response(-1, -2, -3))
    with pytest.raises(DataError, match="item s/0: 0 log-probabilities for 4 choices"):
        grade_choice(response())
    with pytest.raises(DataError, match=r"item s/0: log-probabilities \[-1, nan, -2, -3\] are not all numbers"):
        grade_choice(response(-1, math.nan, -2, -3))
    for target in (4, -1, "A", True):
        one = dataclasses.replace(response(-1, -2, -3, -4), target=target)
        with pytest.raises(DataError, match=f"item s/0: target is {target!r}, expected an integer from 0 to 3"):
            grade_choice(one)


def test_accuracies_and_their_errors_by_hand() -> None:
    graded = answers("AAAB", "one") + answers("AB", "two")
    plain = accuracy(graded, {"shots": 5})
    assert (plain.name, plain.n) == ("accuracy", 6)
    assert plain.value == pytest.approx(4 / 6)
    assert plain.error == pytest.approx(math.sqrt((4 / 9 * 2 + 1 / 9 * 4) / (6 * 5)))
    clustered = clustered_accuracy(graded, {"shots": 5}, "subject")
    # Sums of deviations from 2/3: 3 - 4 * 2/3 = 1/3 and 1 - 2 * 2/3 = -1/3.
    assert clustered.error == pytest.approx(math.sqrt(2 / 1 * (1 / 9 + 1 / 9)) / 6)
    assert clustered.protocol == {"shots": 5, "error": "clustered by subject"}
    macro = macro_accuracy(graded, {"shots": 5}, "subject")
    assert macro.value == pytest.approx((0.75 + 0.5) / 2)
    assert macro.error == pytest.approx(math.sqrt((0.75 * 0.25 / 3) + (0.5 * 0.5 / 1)) / 2)


def test_unknown_errors_are_unknown() -> None:
    assert accuracy(answers("A"), {}).error is None
    assert clustered_accuracy(answers("AB"), {}, "subject").error is None
    assert macro_accuracy(answers("AB", "one") + answers("A", "two"), {}, "subject").error is None
    with pytest.raises(DataError, match="accuracy_macro: there are no responses to score"):
        macro_accuracy([], {}, "subject")


def test_facts_count() -> None:
    cut = response(-1, -1, -2, -3, target=1, cut=7)
    facts = choice_facts([*answers("ABB"), Graded(cut, grade_choice(cut))])
    assert facts == {
        "letters_chosen": {"A": 2, "B": 2, "C": 0, "D": 0},
        "letters_right": {"A": 3, "B": 1, "C": 0, "D": 0},
        "ties": 1,
        "truncated_prompts": 1,
        "truncated_tokens": 7,
        "longest_prompt_tokens": 9,
    }


def found(graded: list[Graded]) -> list[str]:
    return doubts(graded, [accuracy(graded, {}), clustered_accuracy(graded, {}, "subject")], 0.25)


def test_a_score_near_chance_is_doubted() -> None:
    [doubt] = found(answers("ABCD" * 5))
    assert doubt.startswith(
        "accuracy 0.250 ± 0.099 of 20 items cannot be told from chance (0.25, exact binomial p = 1.000)"
    )
    [doubt] = found(answers("BCD" * 20))
    assert doubt.startswith("accuracy 0 is below chance (0.25, exact binomial p < 0.001): wrong answers are preferred")
    # 15 of 40 are 1.6 errors above chance.
    assert [doubt[:22] for doubt in found(answers("AAABBCCD" * 5))] == ["accuracy 0.375 ± 0.078"]
    assert not found(answers("AAABC" * 20))


def test_few_wrong_answers_are_not_below_chance() -> None:
    # Four of four are wrong in 0.75^4 = 32 % of all guesses, although their standard error is 0.
    doubt, *_ = found(answers("BCDB"))
    assert doubt.startswith("accuracy 0 of 4 items cannot be told from chance (0.25, exact binomial p = 0.633)")
    doubt, *_ = found(answers("AA"))
    assert "accuracy 1 of 2 items cannot be told from chance (0.25, exact binomial p = 0.125)" in doubt


def test_the_larger_error_decides() -> None:
    # By items 0.5 ± 0.05 is far from chance; by clusters, all right or all wrong, it is not.
    graded = answers("A" * 50, "one") + answers("BC" * 25, "two")
    assert [doubt[:18] for doubt in found(graded)] == ["accuracy_clustered"]


def test_one_letter_is_doubted_above_its_share() -> None:
    assert not found(answers("A" * 60 + "BC" * 20))
    [doubt] = found(answers("A" * 61 + "BCD" * 13))
    assert doubt.startswith("61 % of the answers are A")


def test_cut_prompts_are_doubted() -> None:
    graded = answers("AAB" * 10)[:-10] + answers("BC")
    cut = response(-1, -2, -3, -4, cut=1)
    graded.append(Graded(cut, grade_choice(cut)))
    assert [doubt for doubt in found(graded) if doubt.startswith(f"1 of {len(graded)} prompts exceed")]
