"""Studies as they are written: what is wrong is said all at once; arms lay their changes over a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tunelab.config.held_out_metrics import HELD_OUT_SCORES
from tunelab.config.published import PUBLISHED_COSTS
from tunelab.config.study import load_study, parse_study
from tunelab.config.study_tree import merged
from tunelab.errors import ConfigError, UsageError
from tunelab.evaluation.held_out import HeldOutAnswer, LikelihoodRecord
from tunelab.evaluation.runner import score_held_out

TREE: dict[str, Any] = {
    "title": "t",
    "recipe": {"model": "gpt2", "data": {"sources": ["alpaca"]}, "method": "lora"},
    "arms": {"base": {"tuned": False}, "lora": {"recipe": {"precision": "nf4", "train": {"lr": 1e-4}}}},
    "benchmarks": {"held-out": {}},
    "tiny": {"recipe": {"train": {"steps": 3}}, "seeds": [7]},
}


def wrong(**changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse_study(TREE | changes)
    return [f"{one.path}: {one.message} ({one.hint})" for one in raised.value.problems]


def test_an_arm_is_the_recipe_with_its_changes() -> None:
    study = parse_study(TREE)
    base, lora = study.arm_recipe("base", 3), study.arm_recipe("lora", 3)
    assert (base.precision.name, lora.precision.name) == ("none", "nf4")
    assert lora.train.lr == 1e-4 and lora.train.seed == base.train.seed == 3
    assert study.pairs == (("base", "lora"),)


def test_pairs_are_those_that_are_named_and_those_asked_about() -> None:
    arms = {"a": {}, "b": {}, "c": {}}
    asked = [{"ask": "?", "is_better": "c", "than": "b", "on": "held-out"}]
    assert parse_study(TREE | {"arms": arms}).pairs == (("a", "b"), ("a", "c"))
    assert parse_study(TREE | {"arms": arms, "compare": [["a", "b"]], "questions": asked}).pairs == (
        ("a", "b"),
        ("b", "c"),
    )


def test_what_is_compared_and_corrected_together() -> None:
    asked = [
        {"ask": "?", "is_better": "lora", "than": "base", "on": "held-out", "metric": "bleu"},
        {"ask": "?", "is_better": "lora", "than": "base", "on": "ifeval", "metric": "loose"},
        {"ask": "?", "is_better": "lora", "than": "base", "on": "ifeval"},
    ]
    study = parse_study(TREE | {"benchmarks": {"held-out": {}, "ifeval": {}}, "questions": asked})
    assert study.comparisons == (
        ("base", "lora", "held-out", "completion_loss"),
        ("base", "lora", "held-out", "bleu"),
        ("base", "lora", "held-out", "rougeL"),
        ("base", "lora", "ifeval", None),
        ("base", "lora", "ifeval", "loose"),
    )
    assert [one.decided_by for one in study.questions] == ["bleu", "loose", None]
    assert parse_study(TREE | {"questions": [asked[0] | {"metric": None}]}).questions[0].decided_by == "completion_loss"


def test_a_question_has_one_form_and_a_margin_only_where_it_means_something() -> None:
    def said(**asked: Any) -> list[str]:
        return wrong(questions=[{"ask": "?", "on": "held-out", **asked}])

    forms = "(write is_better: ARM, than: ARM; or is_as_good: ARM, as: ARM; or is_like: ARM, to: ARM)"
    assert said() == [f"questions.0: has no arms, expected one form of question with both arms {forms}"]
    assert said(is_as_good="lora", than="base") == [
        f"questions.0: has than and is_as_good, expected one form of question with both arms {forms}"
    ]
    assert said(is_like="lora") == [f"questions.0: has is_like, expected one form of question with both arms {forms}"]
    assert said(is_better="lora", than="base", within=0.01) == [
        "questions.0: a margin has no meaning for is_better (ask is_as_good: ARM, as: ARM; or omit the margin)"
    ]
    assert said(**{"is_as_good": "lora", "as": "lora"}) == ["questions.0: compares lora with itself (name two arms)"]
    assert said(**{"is_as_good": "lora", "as": "bass"})[0].startswith("questions.0: unknown arm 'bass'")
    (strange,) = said(**{"is_as_good": "lora", "as": "base", "margin": 1})
    assert strange.startswith(
        "questions.0.margin: unknown key (known: ask, is_better, than, is_as_good, as, is_like, to"
    )
    for key, value in (("within", 0), ("within", -1), ("keeps", 1), ("keeps", 0)):
        (refused,) = said(**{"is_as_good": "lora", "as": "base", key: value})
        assert refused.startswith(f"questions.0.{key}: ")


def test_a_gain_is_measured_from_the_untuned_arm_of_the_same_model() -> None:
    arms = {"plain": {"tuned": False}, "base4": {"tuned": False, "recipe": {"precision": "nf4"}}}
    arms |= {
        "other": {"tuned": False, "recipe": {"model": "gpt2-chat"}},
        "lora": {},
        "nf4": {"recipe": {"precision": "nf4"}},
    }
    arms |= {"int8": {"recipe": {"precision": "int8"}}, "elsewhere": {"recipe": {"model": "distilgpt2"}}}
    study = parse_study(TREE | {"arms": arms})
    found = {arm: study.base_of(arm) for arm in arms}
    assert found == {
        **{"plain": None, "base4": None, "other": None, "lora": "plain", "nf4": "base4", "int8": "plain"},
        "elsewhere": None,
    }


def test_forgetting_is_a_benchmark_on_which_each_arm_is_compared_with_its_untuned_one() -> None:
    """Of its model, and of its precision where there is one; as a stored study, it is read as it was."""
    model, nf4 = {"recipe": {"model": "other"}}, {"recipe": {"precision": "nf4"}}
    arms = {"lora": {}, "nf4": nf4, "other": model, "base": {"tuned": False}, "b4": {"tuned": False, **nf4}}
    arms |= {"b2": {"tuned": False, **model}}
    study = parse_study(TREE | {"arms": arms, "forgetting": {"limit": 5}, "compare": [["lora", "nf4"]]})
    assert study.benchmarks == {"held-out": {}, "forgetting": {"limit": 5}}
    pairs = (("base", "lora"), ("b4", "nf4"), ("b2", "other"))
    assert study.forgetting_pairs == pairs
    on_texts = [(a, b) for a, b, benchmark, _ in study.comparisons if benchmark == "forgetting"]
    assert on_texts == [("lora", "nf4"), *pairs]
    assert parse_study(study.model_dump(mode="json")) == study
    asked = [{"ask": "?", "is_better": "lora", "than": "base", "on": "forgetting"}]
    assert parse_study(TREE | {"forgetting": {}, "questions": asked}).questions[0].decided_by is None
    assert parse_study(TREE).forgetting_pairs == ()


def test_forgetting_needs_an_untuned_arm_and_one_set_of_options() -> None:
    assert wrong(arms={"lora": {}}, forgetting={}) == [
        "forgetting: no untuned arm has the model of lora (add one: `base: {tuned: false}`)"
    ]
    assert wrong(forgetting={}, benchmarks={"forgetting": {"limit": 3}}) == [
        "forgetting: has other options than benchmarks.forgetting (set them in one of the two)"
    ]
    assert wrong(forgetting={"limit": 0}) == [
        "benchmarks.forgetting.limit: 0, expected a positive integer (limit: 100)"
    ]
    assert wrong(forgetting=3)[0].startswith("forgetting: ")


def test_a_figure_that_held_out_rows_do_not_have_is_refused() -> None:
    asked = [{"ask": "?", "is_better": "lora", "than": "base", "on": "held-out", "metric": "blue"}]
    assert wrong(questions=asked) == [
        "questions.0.metric: held-out rows are not compared by 'blue' (known: completion_loss, bleu, rougeL, "
        "chrf, exact_match)"
    ]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    asked = [{"ask": "?", "is_better": "lorra", "than": "base", "on": "mmlu"}]
    published = [{"what": "held-out", "values": {"full": 2.4, "base": 2.5}, "source": "a paper"}]
    said = wrong(questions=asked, published=published, compare=[["base", "lora"], ["x", "base"]], seeds=[1, 1])
    assert said == [
        "seeds: [1, 1], expected distinct integers (seeds: [0])",
        "questions.0: unknown arm 'lorra' (did you mean lora?)",
        "compare.1: unknown arm 'x' (arms: base, lora)",
        "published.0.values: unknown arm 'full' (arms: base, lora)",
        "questions.0.on: no benchmark 'mmlu' in the study (known: held-out)",
    ]
    assert wrong(arms={}) == ["arms: is empty (add at least one arm)"]
    assert wrong(benchmarks={}) == ["benchmarks: is empty (benchmarks: {held-out: {}})"]
    assert "colour: unknown key (known: title," in wrong(colour=1)[0]
    assert wrong(recipe=None)[0].startswith("recipe: ")
    assert wrong(arms={"a": {"recipe": {"train": {"lrr": 1}}}}) == [
        "arms.a: train.lrr: unknown key (did you mean train.lr?)"
    ]
    with pytest.raises(ConfigError, match="title: is missing"):
        parse_study({key: TREE[key] for key in TREE if key != "title"})


@pytest.mark.parametrize(
    ("what", "score"),
    [
        ("held-out", ("held-out", "")),
        ("held-out rougeL", ("held-out", "rougeL")),
        ("tinymmlu accuracy_gp_irt", ("tinymmlu", "accuracy_gp_irt")),
        ("my folder/own.py", ("my folder/own.py", "")),
        ("my folder/own.py exact", ("my folder/own.py", "exact")),
        *((cost, None) for cost in PUBLISHED_COSTS),
    ],
)
def test_what_is_published_is_a_score_or_a_cost(what: str, score: tuple[str, str] | None) -> None:
    benchmarks: dict[str, Any] = {"held-out": {}, "tinymmlu": {}, "my folder/own.py": {}}
    one = {"what": what, "values": {"lora": 1, "base": 2.5}, "source": "a paper"}
    study = parse_study(TREE | {"benchmarks": benchmarks, "published": [one]})
    assert study.published[0].score(study.benchmarks) == score
    assert study.published[0].values == {"lora": 1.0, "base": 2.5}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"what": "peak memory in GiB"},
            "published.0.what: the study does not measure 'peak memory in GiB' (did you mean 'peak memory in GB'? "
            "known: held-out, BENCHMARK SCORE, peak memory in GB, minutes per epoch, training hours, "
            "final training loss)",
        ),
        (
            {"what": "mmlu"},
            "published.0.what: the study does not measure 'mmlu' (known: held-out, BENCHMARK SCORE, peak memory in "
            "GB, minutes per epoch, training hours, final training loss)",
        ),
        (
            {"what": "minutes an epoch"},
            "published.0.what: renamed: minutes per epoch (known: held-out, BENCHMARK SCORE, peak memory in GB, "
            "minutes per epoch, training hours, final training loss)",
        ),
        (
            {"what": "held-out BLEU"},
            "published.0.what: held-out rows are not scored by 'BLEU' (known: completion_perplexity, "
            "completion_bits_per_byte, sequence_perplexity, sequence_bits_per_byte, bleu, rouge1, rouge2, rougeL, "
            "chrf, exact_match)",
        ),
        ({"values": {}}, "published.0.values: is empty (values: {ARM: NUMBER})"),
        ({"values": {"base": float("nan")}}, "published.0.values.base: Input should be a finite number ()"),
        ({"arm": "base"}, "published.0.arm: unknown key (known: what, values, source, by_training, model)"),
        (
            {"by_training": {"base": [1.0, 1.2]}},
            "published.0.by_training.base: the mean is 1.1, but values.base is 1 (write the mean of the trainings into "
            "values)",
        ),
    ],
)
def test_what_cannot_stand_beside_a_measured_figure_is_refused(changes: dict[str, Any], said: str) -> None:
    one = {"what": "held-out", "values": {"base": 1.0}, "source": "a paper"}
    assert wrong(published=[one | changes]) == [said]


def test_held_out_rows_have_the_scores_that_may_be_published() -> None:
    likelihoods = [LikelihoodRecord(item, "hash", 1.0, 2, 3, 2.0, 4, 6) for item in "ab"]
    answers = [HeldOutAnswer(item, "hash", "an answer", (1,), "stop", 1, "an answer") for item in "ab"]
    assert tuple(score.name for score in score_held_out(answers, likelihoods)) == HELD_OUT_SCORES


def test_a_file_its_tiny_section_and_changes(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(TREE), encoding="utf-8")
    assert load_study(path).seeds == (0,)
    tiny = load_study(path, ["recipe.train.lr=1e-5", "model=other"], scale="tiny")
    recipe = tiny.arm_recipe("base", 7)
    assert tiny.seeds == (7,) and recipe.train.steps == 3
    assert recipe.train.lr == 1e-5 and recipe.model.name == "other"
    with pytest.raises(UsageError, match=r"--set lr: expected KEY=VALUE"):
        load_study(path, ["lr"])
    with pytest.raises(UsageError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_study(tmp_path / "nowhere.yaml")
    path.write_text("- a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a mapping of keys"):
        load_study(path)


def test_the_model_is_taken_out_of_every_arm(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    chat = {"model": "gpt2-chat", "precision": "nf4"}
    arms = {"base": {"tuned": False}, "instruct": {"tuned": False, "recipe": chat}}
    path.write_text(yaml.safe_dump(TREE | {"arms": arms}), encoding="utf-8")
    assert load_study(path).arm_recipe("instruct", 0).model.name == "gpt2-chat"
    assert load_study(path, ["model=mine"]).arm_recipe("instruct", 0).model.name == "mine"


def test_shorthands_are_written_out_where_mappings_are_laid_over_them() -> None:
    assert merged({"model": "gpt2"}, {"model": {"revision": "x"}}) == {"model": {"name": "gpt2", "revision": "x"}}
    assert merged({"precision": "nf4"}, {"precision": {"skip": ["a"]}}) == {"precision": {"name": "nf4", "skip": ["a"]}}
    assert merged({"adapter": {"rank": 8}}, {"adapter": None}) == {"adapter": None}
    before = {"train": {"lr": 1}}
    assert merged(before, {"train": {"steps": 2}}) == {"train": {"lr": 1, "steps": 2}} and before == {
        "train": {"lr": 1}
    }
