"""`--scale small` and `tiny`: what a study's sections change, what stays published, and which arms are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tunelab.config.shipped_studies import shipped_studies
from tunelab.config.study import Study, load_study
from tunelab.errors import ConfigError, UsageError

SMALL = [one.path for one in shipped_studies() if one.has_small_scale]

INSTRUCT = {"tuned": False, "recipe": {"model": {"name": "owner/large-chat"}}}
TREE: dict[str, Any] = {
    "title": "t",
    "recipe": {"model": "owner/large", "data": {"sources": ["alpaca"], "held_out": 500}},
    "arms": {"base": {"tuned": False}, "chat": INSTRUCT, "lora": {}},
    "benchmarks": {"held-out": {}, "mmlu": {}},
    "compare": [["base", "lora"], ["chat", "lora"]],
    "questions": [
        {"ask": "Does it help?", "is_better": "lora", "than": "base", "on": "mmlu"},
        {"ask": "As good as chat?", "is_as_good": "lora", "as": "chat", "on": "mmlu"},
    ],
    "published": [
        {"what": "mmlu", "values": {"chat": 0.6, "lora": 0.5}, "source": "a paper"},
        {"what": "training hours", "values": {"lora": 3}, "source": "a paper"},
    ],
    "small": {
        "recipe": {"model": "owner/little", "data": {"held_out": 100}},
        "arms": {"chat": {"recipe": {"model": "owner/little-chat"}}},
        "benchmarks": {"mmlu": {"limit": 200}},
        "seeds": [0, 1, 2],
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "study.yaml"
    made.write_text(yaml.safe_dump(TREE), encoding="utf-8")
    return made


def models(study: Study) -> dict[str, str]:
    return {arm: study.arm_recipe(arm, 0).model.name for arm in study.arms}


def test_small_is_the_study_with_its_section(path: Path) -> None:
    study = load_study(path, ["benchmarks.mmlu.limit=50"], scale="small")
    assert models(study) == {"base": "owner/little", "chat": "owner/little-chat", "lora": "owner/little"}
    assert (study.seeds, study.benchmarks["mmlu"], study.arm_recipe("lora", 0).data.held_out) == (
        (0, 1, 2),
        {"limit": 50},
        100,
    )
    assert study.note == (
        "Small scale: little in place of large, little-chat in place of large-chat. The answers are about what was "
        "measured here."
    )
    assert load_study(path).note == ""


def test_published_scores_name_their_model_at_small_scale_and_costs_are_left_out(path: Path) -> None:
    found = load_study(path, scale="small").published
    assert [(one.what, one.values, one.model) for one in found] == [
        ("mmlu", {"chat": 0.6}, "owner/large-chat"),
        ("mmlu", {"lora": 0.5}, "owner/large"),
    ]
    assert load_study(path, scale="tiny").published == () and len(load_study(path).published) == 2


@pytest.mark.parametrize("scale", ["small", "tiny"])
def test_what_the_section_itself_publishes_stays(path: Path, scale: Any) -> None:
    own = [{"what": "training hours", "values": {"lora": 0.2}, "source": "our machine"}]
    path.write_text(yaml.safe_dump(TREE | {scale: {**TREE["small"], "published": own}}), encoding="utf-8")
    (one,) = load_study(path, scale=scale).published
    assert (one.what, one.values, one.model) == ("training hours", {"lora": 0.2}, None)
    path.write_text(yaml.safe_dump(TREE | {scale: {**TREE["small"], "published": []}}), encoding="utf-8")
    assert load_study(path, scale=scale).published == ()


def test_the_title_at_small_scale_names_what_was_measured(path: Path) -> None:
    assert load_study(path, scale="small").title == "t, at small scale (little, little-chat)"
    assert load_study(path, ["model=owner/mine"], scale="small").title == "t, at small scale (mine)"
    assert load_study(path, ["title=My own"], scale="small").title == "My own"
    assert load_study(path).title == load_study(path, scale="tiny").title == "t"


@pytest.mark.parametrize("scale", ["full", "small", "tiny"])
def test_with_one_model_an_arm_that_differed_by_its_model_is_left_out(path: Path, scale: Any) -> None:
    study = load_study(path, ["model=mine"], scale=scale)
    assert models(study) == {"base": "mine", "lora": "mine"}
    assert study.compare == (("base", "lora"),) and [one.ask for one in study.questions] == ["Does it help?"]
    assert all("chat" not in one.values for one in study.published)
    said = "With the one model mine, chat is left out: the same as another arm (--set arms.chat.recipe.model=NAME)."
    assert study.note.endswith(said)
    both = load_study(path, ["model=mine", "arms.chat.recipe.model=other"], scale=scale)
    assert models(both) == {"base": "mine", "chat": "other", "lora": "mine"} and "left out" not in both.note


def test_an_arm_that_differs_in_more_than_its_model_stays(path: Path) -> None:
    study = load_study(path, ["arms.chat.recipe.precision=nf4", "model=mine"])
    assert models(study) == {"base": "mine", "chat": "mine", "lora": "mine"} and study.note == ""


@pytest.mark.parametrize("changes", [(), ("arms.lora.recipe.model=other", "arms.chat.recipe.model=other")])
def test_equal_arms_that_keep_their_models_stay(path: Path, changes: tuple[str, ...]) -> None:
    arms = {name: {"recipe": {"model": "own"}} for name in ("chat", "lora")}
    path.write_text(yaml.safe_dump({**TREE, "arms": {"base": TREE["arms"]["base"], **arms}}), encoding="utf-8")
    study = load_study(path, changes)
    assert list(study.arms) == ["base", "chat", "lora"] and study.note == ""


def test_a_study_without_the_section_is_refused(path: Path) -> None:
    path.write_text(yaml.safe_dump({key: value for key, value in TREE.items() if key != "small"}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"study\.yaml: has no section `small`") as raised:
        load_study(path, scale="small")
    assert "omit --scale" in raised.value.hint


@pytest.mark.parametrize("changes", [{"small": [1]}, {"published": [{"what": "mmlu"}]}, {"arms": [1]}])
def test_what_is_no_study_is_a_study_s_own_error(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(TREE | changes), encoding="utf-8")
    with pytest.raises(ConfigError, match=next(iter(changes))):
        load_study(path, scale="small")


def test_the_first_five_have_a_small_scale() -> None:
    assert len(SMALL) >= 5


@pytest.mark.parametrize("path", SMALL, ids=[path.stem for path in SMALL])
def test_every_published_study_asks_the_same_of_a_small_model(path: Path) -> None:
    full, small = load_study(path), load_study(path, scale="small")
    assert (small.arms.keys(), small.questions, small.compare) == (full.arms.keys(), full.questions, full.compare)
    assert small.seeds == (0, 1, 2) and small.search is not None
    for arm in small.arms:
        recipe = small.arm_recipe(arm, 0)
        assert recipe.model.name.startswith("HuggingFaceTB/SmolLM2-135M")
        assert recipe.data.size is not None and recipe.data.size <= 500 and recipe.data.validation == 100
    assert all(one.model and one.what not in ("peak memory in GB", "training hours") for one in small.published)
