"""The short protocol before trust: what it finds on sound models, and that it finds what is unsound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import model_folder, tiny_model

from tunelab.answering import findings
from tunelab.answering import self_check as checking
from tunelab.answering.benchmark_responses import BenchmarkSettings
from tunelab.answering.self_check import check
from tunelab.evaluation.choice_question import ChoiceQuestion
from tunelab.evaluation.choices import plain_likelihoods
from tunelab.models.load import load_model
from tunelab.models.structure import structure_of

EQUAL = [(-1.0, -2.0), (-3.0, -2.5)]


def found(subject: Path, **settings: Any) -> dict[str, findings.Finding]:
    return {one.what: one for one in check(subject, BenchmarkSettings(**settings))}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"), "llama", max_position_embeddings=2048)


@pytest.mark.slow
def test_a_sound_model_that_knows_nothing(model: Path) -> None:
    made = found(model)
    for what in ("batch size (choices)", "shared few-shot prefix", "batch size (answers)"):
        assert not made[what].distrust, made[what]
    assert "0 of 24 answers changed" in made["shared few-shot prefix"].found
    assert "no better than guessing" in made["letters (A to D)"].distrust
    assert "in raw text" in made["end of answers"].found
    assert "template on or off" not in made


@pytest.mark.slow  # cli/test_eval_check.py compares them too
def test_with_a_wording_the_template_is_compared(model: Path) -> None:
    made = found(model, template="alpaca")
    assert "answers are the same" in made["template on or off"].found
    assert "in the template" in made["end of answers"].found


@pytest.mark.slow
def test_a_sound_model_in_sixteen_bits(model: Path) -> None:
    made = found(model, changes=("train.dtype=bf16",))
    for what in ("batch size (choices)", "shared few-shot prefix"):
        assert (
            "computed incorrectly" not in made[what].distrust and "times the rounding error" not in made[what].distrust
        )
        assert "rounding alone" in made[what].found and "in fp32" in made[what].found


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_broken_shared_prefix_is_found(model: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    from tunelab.models import shared_prefix

    run = shared_prefix._run
    structure_of(load_model(str(model), dtype=torch.float32))  # as right: a wrong prefix is not shared

    def forgetful(model: Any, prefix: Any, rows: Any, *, is_prefix: bool) -> Any:
        made = run(model, prefix, rows, is_prefix=is_prefix)
        if is_prefix:
            for values in prefix.values.values():
                values.mul_(1.5)
        return made

    monkeypatch.setattr(shared_prefix, "_run", forgetful)
    made = found(model, changes=(f"train.dtype={dtype}",))
    assert "sharing the few-shot examples changes the scores" in made["shared few-shot prefix"].distrust
    assert "is computed incorrectly" in made["shared few-shot prefix"].distrust


@pytest.mark.slow
def test_progress_is_told(model: Path) -> None:
    told: list[int] = []
    check(model, progress=lambda what, done, total: told.append(done))
    assert told[-1] == 4 and told == sorted(told)


def test_letters_are_balanced_and_examples_apart() -> None:
    asked, requests = checking._items()
    assert [sum(item.target == letter for item in asked) for letter in range(4)] == [6, 6, 6, 6]
    assert asked[0].question not in asked[0].examples and asked[0].prompt.endswith("\nAnswer:")
    assert len({item.question for item in asked}) == 24 and len(requests) == 12


class TestWhatIsDistrusted:
    def test_differences_in_fp32(self) -> None:
        near = [(-1.0, -2.002), (-3.0, -2.5)]
        assert not findings.batch_finding(EQUAL, EQUAL).distrust
        assert not findings.batch_finding(EQUAL, [(-1.0, -2.0005), (-3.0, -2.5)]).distrust
        assert "is computed incorrectly" in findings.batch_finding(EQUAL, near).distrust

    def test_differences_in_sixteen_bits_are_judged_by_the_model_s_own(self) -> None:
        far = [(-1.0, -2.7), (-3.0, -2.5)]
        made = findings.prefix_finding(EQUAL, far, findings.InSixteenBits(EQUAL, EQUAL, 0.2))
        assert not made.distrust and "rounding alone 2.0e-01 nats; in fp32 0" in made.found
        made = findings.prefix_finding(EQUAL, far, findings.InSixteenBits(EQUAL, EQUAL, 0.1))
        assert "by more than 4 times the rounding error of this model" in made.distrust
        wrong = findings.InSixteenBits(EQUAL, [(-1.0, -2.1), (-3.0, -2.5)], 0.2)
        assert "is computed incorrectly" in findings.prefix_finding(EQUAL, EQUAL, wrong).distrust

    def test_answers_that_rounding_changes(self) -> None:
        close = [(-1.0, -1.1)], [(-1.1, -1.0)]
        made = findings.batch_finding(*close, findings.InSixteenBits(EQUAL, EQUAL, 0.2))
        assert "train.dtype=fp32 is exact" in made.distrust and "1 of 1 answers changed" in made.found

    def test_letters(self) -> None:
        targets = [0, 1, 2, 3] * 6
        assert not findings.letter_finding(targets, targets).distrust
        assert "no better than guessing" in findings.letter_finding([0] * 24, targets).distrust
        mostly = [0] * 16 + targets[:8]
        assert "it answers A most of the time" in findings.letter_finding(mostly, [0] * 12 + targets[:12]).distrust

    def test_templates(self) -> None:
        assert not findings.template_finding([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]).distrust
        made = findings.template_finding([0, 1, 2, 3], [0, 1, 3, 2], [0, 1, 2, 3])
        assert "depend on the template" in made.distrust
        assert made.found == "2 of 4 answers are the same; correct: 4 raw, 2 in the template"

    def test_answers(self) -> None:
        assert not findings.same_texts_finding(3, 3, exact=True).distrust
        assert "must not happen in fp32" in findings.same_texts_finding(2, 3, exact=True).distrust
        assert "in 16 bits" in findings.same_texts_finding(2, 3, exact=False).distrust
        assert not findings.ending_finding(12, 12, 128, in_template=True).distrust
        assert "no answer ended by itself" in findings.ending_finding(0, 12, 128, in_template=True).distrust
        assert "many answers do not end" in findings.ending_finding(6, 12, 128, in_template=False).distrust


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_results_rounded_anew_differ_as_those_of_two_attention_implementations(family: str) -> None:
    """What a model with one implementation is judged by, on one that has two: within a factor of ten of it."""
    model = tiny_model(family).to(torch.bfloat16)
    items, _ = checking._items()
    asked = [
        ChoiceQuestion(tuple(item.prompt.encode()[-60:]), tuple((ord(letter),) for letter in "ABCD"))
        for item in items[:8]
    ]
    own, eager, anew, again = (
        [one.log_probabilities for one in plain_likelihoods(model, asked, **how)]
        for how in ({}, {"attention": "eager"}, {"rounds_anew": True}, {"rounds_anew": True})
    )
    by_attention, by_rounding = findings.largest_difference(own, eager), findings.largest_difference(own, anew)
    assert by_attention / 10 < by_rounding < by_attention * 10 and anew == again
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_with_one_attention_implementation_is_judged_in_sixteen_bits(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "can_set_attention", lambda base: False)
    made = found(model, changes=("train.dtype=bf16",))["batch size (choices)"]
    assert "rounding alone" in made.found and "times the rounding error" not in made.distrust
