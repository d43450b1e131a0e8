"""`budgets` and `match` of a study: what they train, what contradicts them, what each refusal says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tunelab.config.budgets import Budget
from tunelab.config.study import Study, load_study, parse_study
from tunelab.config.study_tree import merged
from tunelab.errors import ConfigError
from tunelab.records.cells import cells_of, evaluation_key, training_key
from tunelab.records.expected_costs import expected_costs

EPOCHS = {"train.epochs": [0.5, 2, 1]}


def tree(**changes: Any) -> dict[str, Any]:
    return {
        "title": "t",
        "recipe": {"model": "gpt2", "data": "rows.jsonl"},
        "arms": {"base": {"tuned": False}, "full": {"recipe": {"method": "full"}}, "lora": {}},
        "seeds": [0, 1],
        "benchmarks": {"held-out": {}, "mmlu": {}},
        "budgets": EPOCHS,
        **changes,
    }


def study(**changes: Any) -> Study:
    return parse_study(tree(**changes))


def test_every_budget_is_a_training_with_its_own_recipe() -> None:
    found = study()
    assert [one.words for one in found.trained_at] == ["0.5 epochs", "1 epoch", "2 epochs"]
    assert found.arm_recipe("lora", 0).train.epochs == 2, "answers are at the largest"
    assert [found.at(one).arm_recipe("lora", 0).train.epochs for one in found.trained_at] == [0.5, 1, 2]
    trainings = [cell for cell in cells_of(found) if not cell.benchmark]
    assert len(trainings) == 2 * 3 * 2 and len({cell.key for cell in trainings}) == 12
    assert trainings[0].title == "full, 0.5 epochs, seed 0: training"
    assert cells_of(found)[0].title == "base: held-out"


def test_jobs_are_those_of_studies_with_one_budget() -> None:
    """A study that gets budgets trains what is new alone."""
    plain = study(budgets=None, recipe={"model": "gpt2", "data": "rows.jsonl", "train": {"epochs": 1}})
    middle = study().at(Budget("train.epochs", 1.0))
    assert training_key(middle, "lora", 1) == training_key(plain, "lora", 1)
    assert evaluation_key(study(), "base", 0, "held-out") == evaluation_key(plain, "base", 0, "held-out")
    assert study(budgets=None).trained_at == () and study(budgets=None).at(None) == study(budgets=None)


def test_new_recipe_keys_leave_the_jobs_of_existing_studies_as_they_are() -> None:
    """Keys as they were before model.new_tokens: a study that has begun must find its jobs again."""
    found = study()
    assert (training_key(found, "base", 0), training_key(found, "lora", 0)) == ("model-ea8df1c79b", "train-a260c2b0cd")
    assert evaluation_key(found, "base", 0, "mmlu") == "mmlu-64f75c8708"
    assert evaluation_key(found, "base", 0, "held-out") == "held-out-a43488ec8d"


@pytest.mark.parametrize(
    ("budgets", "key", "values", "words"),
    [
        ({"train.steps": [200, 100]}, "train", [100, 200], "200 steps"),
        ({"data.train_size": [500, 1000]}, "data", [500, 1000], "1,000 training rows"),
    ],
)
def test_steps_and_rows_are_budgets_too(budgets: dict[str, Any], key: str, values: list[int], words: str) -> None:
    found = study(budgets=budgets)
    recipes = [found.at(one).arm_recipe("lora", 0).model_dump()[key] for one in found.trained_at]
    assert [one[next(iter(budgets)).partition(".")[2]] for one in recipes] == values
    assert found.trained_at[-1].words == words
    assert found.arm_recipe("lora", 0).data.sources[0].path == "rows.jsonl"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"budgets": {}}, r"budgets: has 0 keys, expected one"),
    ({"budgets": {"train.epochs": [1, 2], "train.steps": [1, 2]}}, r"budgets: has 2 keys, expected one"),
    ({"budgets": {"train.lr": [1, 2]}}, r"budgets.train.lr: cannot be a budget"),
    ({"budgets": {"data.size": [100, 200]}}, r"budgets.data.size: with another size, other rows are held out"),
    ({"budgets": {"train.epochs": [1]}}, r"budgets.train.epochs: \[1\], expected at least two different numbers"),
    ({"budgets": {"train.epochs": [1, 1, 2]}}, r"budgets.train.epochs: \[1, 1, 2\], expected at least two"),
    ({"budgets": {"train.steps": [1.5, 2]}}, r"budgets.train.steps: expected integers"),
    ({"arms": {"base": {"tuned": False}}}, r"budgets: no arm is tuned"),
    (
        {"recipe": {"model": "gpt2", "data": "rows.jsonl", "train": {"epochs": 3}}},
        r"budgets.train.epochs: train.epochs is 3 in arm full, but budgets set it",
    ),
    (
        {"arms": {"lora": {"recipe": {"train": {"steps": 9}}}}},
        r"train.steps is 9 in arm lora and overrides epochs: every budget would be the same training",
    ),
    (
        {"arms": {"lora": {"recipe": {"train": {"warmup": 5}}}}, "budgets": {"train.steps": [4, 8]}},
        r"arms.lora: train.warmup: warmup must end before training does",
    ),
    (
        {"arms": {"lora": {"recipe": {"train": {"epochs": 2}}}}, "budgets": {"train.steps": [4, 8]}},
        r"budgets.train.steps: train.epochs is 2 in arm lora and has no effect: budgets set train.steps",
    ),
    (
        {"budgets": {"train": {"epochs": [1, 2]}}},
        r"budgets.train: \{'epochs': \[1, 2\]\}, expected a list of numbers\n    write budgets: \{train.epochs: ",
    ),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_is_wrong_with_budgets_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**changes)


def test_a_recipe_may_say_the_largest_budget_itself() -> None:
    assert study(recipe={"model": "gpt2", "data": "rows.jsonl", "train": {"epochs": 2}}).trained_at


def asked(**changes: Any) -> dict[str, Any]:
    return {
        "questions": [{"ask": "?", "is_better": "lora", "than": "full", "on": "held-out", "match": "time", **changes}]
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**asked(), "budgets": None}, r"questions.0.match: needs several budgets to read the arms' scores between"),
        (asked(than="base"), r"questions.0.match: base is not tuned: it takes no tokens, no time and no cost"),
        (asked(match="cost"), r"questions.0.match: costs are not known without a price"),
        (asked(metric="bleu"), r"questions.0.match: bleu is a corpus metric: without a value for each row"),
        (
            asked(on="mmlu", metric="calibration_error"),
            r"match: calibration_error is a corpus metric: without a value for each item",
        ),
        (asked(match="hours"), r"questions.0.match: Input should be 'tokens', 'time' or 'cost'"),
    ],
)
def test_what_is_wrong_with_match_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**changes)


def test_the_time_of_a_training_grows_with_its_budget() -> None:
    from dataclasses import replace

    cells = cells_of(study(seeds=[0]))
    done = [replace(cell, status="done", seconds=10.0) if "lora, 0.5" in cell.title else cell for cell in cells]
    expected = expected_costs(done)
    seconds = {cell.title: expected[cell.key].seconds for cell in done if cell.key in expected}
    assert seconds["lora, 2 epochs, seed 0: training"] == 40 and seconds["full, 1 epoch, seed 0: training"] == 20
    assert seconds["lora, 2 epochs, seed 0: held-out"] == 10


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["budgets.train.epochs=[1, 2]"], {"train.epochs": (1, 2)}),
        (["budgets.train.steps=[5, 9]"], {"train.steps": (5, 9)}),
        (["budgets={data.train_size: [50, 90]}"], {"data.train_size": (50, 90)}),
        (["budgets=null"], None),
        ([], {"train.steps": (10, 20)}),
    ],
)
def test_other_budgets_replace_them_whole(changes: list[str], expected: dict[str, Any] | None, tmp_path: Path) -> None:
    small = {"seeds": [0], **({} if changes else {"budgets": {"train.steps": [10, 20]}})}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree(small=small)), encoding="utf-8")
    assert load_study(tmp_path / "study.yaml", changes, scale="small").budgets == expected


def test_an_arm_of_that_name_is_merged_as_others_are() -> None:
    over = {"arms": {"budgets": {"recipe": {"train": {"steps": 3}}}}}
    (arm,) = merged({"arms": {"budgets": {"recipe": {"precision": "nf4"}}}}, over)["arms"].values()
    assert arm == {"recipe": {"precision": "nf4", "train": {"steps": 3}}}


@pytest.mark.parametrize(
    ("tiny", "expected"),
    [({}, {"train.steps": (1, 2, 3)}), ({"budgets": {"train.epochs": [1, 2]}}, {"train.epochs": (1, 2)})],
)
def test_at_tiny_scale_budgets_are_a_few_steps(tiny: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    section = tiny or {"recipe": {"train": {"steps": 3}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree(tiny=section)), encoding="utf-8")
    assert load_study(tmp_path / "study.yaml", scale="tiny").budgets == expected
    assert load_study(tmp_path / "study.yaml").budgets == {"train.epochs": (0.5, 2, 1)}
