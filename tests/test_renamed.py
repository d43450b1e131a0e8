"""A recipe, an override or a study that still has an old name is refused, and the error says the new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunelab.config import Recipe, load_recipe, parse_recipe, resolve
from tunelab.config.held_out_metrics import HELD_OUT_METRICS, HELD_OUT_SCORES
from tunelab.config.reference import keys
from tunelab.config.renamed import METRICS, RECIPE_KEYS, recipe_as_before, recipe_renamed, study_renamed
from tunelab.config.study import load_study, parse_study
from tunelab.errors import ConfigError

SMALL: dict[str, Any] = {"model": "gpt2", "data": "alpaca"}

#: Old override -> the key that it is blamed on, and what is said.
OLD = {
    "train.rows_per_step=8": ("train.rows_per_step", "renamed: train.batch_size=8"),
    "train.tokens_per_step=512": ("train.tokens_per_step", "renamed: train.batch_tokens=512"),
    "train.tokens_per_batch=2048": ("train.tokens_per_batch", "renamed: train.micro_batch_tokens=2048"),
    "train.clip=null": ("train.clip", "renamed: train.max_grad_norm=null"),
    "train.patience=3": ("train.patience", "renamed: train.early_stopping_patience=3"),
    "train.final=best": ("train.final", "renamed: train.load_best_at_end=true"),
    "train.final=last": ("train.final", "renamed: train.load_best_at_end=false"),
    "train.final=often": ("train.final", "renamed: train.load_best_at_end"),
    "evaluate.batch_tokens=512": ("evaluate.batch_tokens", "renamed: evaluate.micro_batch_tokens=512"),
    "adapter.kind=none": ("adapter.kind", "renamed: method=full"),
    "adapter.kind=lora": ("adapter.kind", "renamed: method=lora"),
    "adapter=none": ("adapter", "renamed: method=full"),
    "adapter=lora": ("adapter", "renamed: method=lora"),
}

CHOOSING = ["train.eval_every=5", "data.validation=5"]
MORE = {"train.patience=3": CHOOSING, "train.final=best": CHOOSING}


@pytest.mark.parametrize("override", OLD)
def test_an_old_key_is_an_error_that_names_the_new_one(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(None, [override, *MORE.get(override, [])], SMALL)
    assert [(one.path, one.message) for one in caught.value.problems] == [OLD[override]]


def test_every_renamed_key_is_tested_and_leads_to_a_key_that_is_there() -> None:
    assert {key.old for key in RECIPE_KEYS} == {path for path, _ in OLD.values()} - {"adapter"}
    assert {key.new for key in RECIPE_KEYS} <= set(keys())
    assert not {key.old for key in RECIPE_KEYS} & set(keys())
    assert set(METRICS.values()) <= {*HELD_OUT_METRICS, *HELD_OUT_SCORES}


def test_all_old_keys_of_a_file_are_said_at_once_beside_what_else_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: gpt2\ndata: alpaca\nadapter: none\ntrain: {clip: 0.3, lr: fast}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["adapter.rank=4"])
    assert [one.path for one in caught.value.problems] == ["adapter", "train.clip", "train.lr"]
    assert caught.value.exit_code == 2


def test_an_old_value_that_was_none_says_what_it_may_have_been() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe({**SMALL, "adapter": {"kind": ["lora"]}})
    (problem,) = caught.value.problems
    assert (problem.path, problem.message) == ("adapter.kind", "renamed: method")
    assert problem.hint == "the old values were lora, none"


def test_a_study_s_recipe_arms_and_changes_say_the_new_name(tmp_path: Path) -> None:
    tree = {
        "title": "t",
        "recipe": {**SMALL, "train": {"clip": 0.3}},
        "arms": {"a": {}, "b": {"recipe": {"adapter": "none"}}},
        "benchmarks": {"held-out": {}},
    }
    with pytest.raises(ConfigError) as caught:
        parse_study(tree)
    assert [(one.path, one.message) for one in caught.value.problems] == [
        ("arms.a: train.clip", "renamed: train.max_grad_norm=0.3"),
        ("arms.b: adapter", "renamed: method=full"),
        ("arms.b: train.clip", "renamed: train.max_grad_norm=0.3"),
    ]
    path = tmp_path / "study.yaml"
    path.write_text(
        "title: t\nrecipe: {model: gpt2, data: alpaca}\narms: {a: {}}\nbenchmarks: {held-out: {}}\n", "utf-8"
    )
    with pytest.raises(ConfigError, match=r"arms\.a: train\.rows_per_step: renamed: train\.batch_size=4"):
        load_study(path, ["recipe.train.rows_per_step=4"])


def test_a_study_s_metrics_say_the_new_name() -> None:
    asked = {"ask": "?", "is_better": "b", "than": "a", "on": "held-out", "metric": "response_loss"}
    told = {"what": "held-out text_perplexity", "values": {"a": 1.0}, "source": "a paper"}
    tree = {"title": "t", "recipe": SMALL, "arms": {"a": {}, "b": {}}, "benchmarks": {"held-out": {}}}
    with pytest.raises(ConfigError) as caught:
        parse_study(tree | {"questions": [asked], "published": [told]})
    assert [(one.path, one.message) for one in caught.value.problems] == [
        ("questions.0.metric", "renamed: completion_loss"),
        ("published.0.what", "renamed: sequence_perplexity"),
    ]


def test_a_recipe_of_today_is_left_as_it_is_and_comes_back_from_the_old_names() -> None:
    data, train = {"sources": ["alpaca"], "validation": 5}, {"load_best_at_end": True, "eval_every": 2}
    recipe = resolve(parse_recipe({**SMALL, "data": data, "method": "full", "train": train}))
    tree = recipe.model_dump(mode="json")
    assert recipe_renamed(tree) == (tree, [])
    before = recipe_as_before(tree)
    assert (before["adapter"]["kind"], before["train"]["final"], before["train"]["rows_per_step"]) == (
        "none",
        "best",
        16,
    )
    assert not {"method", "batch_size", "load_best_at_end"} & {*before, *before["train"]}
    assert before["train"]["packing"] is True, "what auto was called: jobs keep their keys"
    of_format_1 = {"kind", "rank", "alpha", "dropout", "use_rslora", "use_dora", "init", "targets"}
    assert before["adapter"].keys() == of_format_1, "keys added since are left out at their defaults"
    packed = recipe.model_copy(update={"train": recipe.train.model_copy(update={"packing": True})})
    assert Recipe.model_validate(recipe_renamed(before)[0]) == packed
    assert recipe_as_before({"train": {"packing": False}}) == {"train": {"packing": False}}


def test_a_study_of_before_is_read_with_what_its_shorthands_meant() -> None:
    before = {
        "title": "t",
        "recipe": {**SMALL, "adapter": {"rank": 8}, "train": {"clip": None}},
        "arms": {"a": {}, "b": {"recipe": {"adapter": "none"}}, "c": {"recipe": {"adapter": {"kind": "none"}}}},
        "benchmarks": {"held-out": {}},
        "questions": [{"ask": "?", "is_better": "b", "than": "a", "on": "held-out", "metric": "response_loss"}],
        "published": [
            {"what": "held-out response_perplexity", "values": {"a": 1.0}, "source": "a paper"},
            {"what": "minutes an epoch", "values": {"a": 1.0}, "source": "a paper"},
        ],
        "tiny": {"recipe": {"train": {"rows_per_step": 2}}},
    }
    study = parse_study(study_renamed(before))
    a, b, c = (study.arm_recipe(arm, 0) for arm in "abc")
    assert [one.method for one in (a, b, c)] == ["lora", "full", "full"]
    # The shorthand took the place of the whole section, a mapping did not.
    assert [one.adapter.rank for one in (a, b, c)] == [8, 16, 8]
    assert a.train.max_grad_norm is None
    assert study.questions[0].metric == "completion_loss"
    assert [one.what for one in study.published] == ["held-out completion_perplexity", "minutes per epoch"]
    assert study.tiny == {"recipe": {"train": {"batch_size": 2}}}
