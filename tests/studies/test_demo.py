"""The demo's study: complete in itself, short, and what it says of model, rows and arms."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tunelab.config.questions import HELD_OUT
from tunelab.errors import ConfigError
from tunelab.records.cells import cells_of
from tunelab.studies.demo import BASE, ROWS, STUDY, demo_study


def test_the_file_is_short_and_says_what_it_does() -> None:
    lines = STUDY.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40 and max(map(len, lines)) <= 120
    header = " ".join(line for line in lines if line.startswith("#"))
    for word in ("What it does:", "Needs:", "Expect:", "Run:          tunelab demo"):
        assert word in header


def test_model_and_rows_of_every_arm_are_those_that_ship() -> None:
    study = demo_study()
    for arm in study.arms:
        recipe = study.arm_recipe(arm, 0)
        assert recipe.model.name == str(BASE) and (BASE / "config.json").is_file()
        assert [source.path for source in recipe.data.sources] == [str(ROWS)] and ROWS.is_file()
        assert (recipe.train.device, recipe.train.dtype) == ("cpu", "fp32")


def test_arms_differ_in_what_they_are_named_for() -> None:
    study = demo_study()
    made = {arm: study.arm_recipe(arm, 0) for arm in study.arms}
    assert [name for name, arm in study.arms.items() if not arm.tuned] == ["base"]
    assert {arm: recipe.precision.name for arm, recipe in made.items() if arm != "base"} == {
        "full": "none",
        "lora": "none",
        "nf4": "nf4",
    }
    assert [arm for arm, recipe in made.items() if recipe.method == "full"] == ["full"]


def test_its_answers_are_about_methods() -> None:
    study = demo_study()
    assert len(study.seeds) >= 3, "one training of each arm would say something about these models alone"
    assert [one.is_as_good for one in study.questions] == [None, "lora", "nf4"]


def test_the_base_is_measured_once_and_every_question_is_compared() -> None:
    study = demo_study()
    cells = cells_of(study)
    assert len(cells) == 1 + 3 * 3 * 2, "three trainings of three arms, each evaluated, and the base"
    assert [cell.benchmark for cell in cells if cell.arm == "base"] == [HELD_OUT]
    compared = set(study.comparisons)
    assert {(one.against, one.arm, one.on, one.decided_by) for one in study.questions} <= compared


def test_changes_are_laid_over_it() -> None:
    assert demo_study(["recipe.train.steps=2"]).arm_recipe("nf4", 0).train.steps == 2
    with pytest.raises(ConfigError, match=r"train\.stepps: unknown key"):
        demo_study(["recipe.train.stepps=2"])


def test_it_is_read_without_torch() -> None:
    code = "import sys; from tunelab.studies.demo import demo_study; demo_study(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=200).returncode == 0
