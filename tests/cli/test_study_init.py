"""`tunelab study init` writes a study that is valid, fair and explained, or says what is wrong and writes nothing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import tiny
from verbs import Bench, Command

from tunelab.cli._study_flags import NOT_GIVEN, OF_ALL
from tunelab.cli.study import add_arguments
from tunelab.config.methods import METHODS
from tunelab.config.study import load_study


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return tiny.rows_file(tmp_path / "my rows.jsonl", rows=200)


def test_a_beginner_gets_a_fair_study_that_runs(tunelab: Command, bench: Bench, rows: Path) -> None:
    said = tunelab("study", "init", "--model", bench.model, "--data", rows)
    assert said.code == 0, said.err
    assert "wrote study.yaml: arms base, full, lora, qlora; 125 rows to train on, 50 that measure, 25 that" in said.err
    assert "tunelab study run study.yaml --dry-run\n" in said.err
    study = load_study("study.yaml")
    assert (study.seeds, study.forgetting) == ((0, 1, 2), {}) and study.search is not None
    assert [(one.is_better or one.is_as_good, one.against) for one in study.questions] == [
        *(("full", "base"), ("lora", "base"), ("qlora", "base"), ("lora", "full"), ("qlora", "lora")),
    ]
    recipe = study.arm_recipe("qlora", 0)
    assert (recipe.data.held_out, recipe.data.validation, recipe.precision.name) == (50, 25, "nf4")
    assert study.arm_recipe("full", 0).method == "full" and recipe.data.sources[0].path == str(rows)
    quick = load_study("study.yaml", scale="tiny")
    recipe = quick.arm_recipe("full", 0)
    assert (recipe.data.size, recipe.train.steps, quick.seeds, quick.benchmarks["forgetting"]) == (
        60,
        3,
        (0,),
        {"limit": 14},
    )
    lines = Path("study.yaml").read_text(encoding="utf-8").splitlines()
    for key in ("held_out:", "validation:", "seeds:", "search:", "forgetting:", "  full:", "questions:", "train:"):
        (line,) = [line for line in lines if line.lstrip().startswith(key.lstrip()) and "#" in line]
        assert len(line.partition("  # ")[2]) > 15, f"{line}: why is it there?"
    said = tunelab("study", "run", "study.yaml", "--dry-run")
    assert said.code == 0, said.err
    assert "39 jobs, 39 to run; about " in said.err and "this machine's speed" in said.err
    assert "19 trainings: 10 trials of learning rates, and up to 4 more" in said.err
    said = tunelab("study", "init", "--model", bench.model, "--data", rows)
    assert said.code == 2 and "study.yaml: exists already\n" in said.err and "hint: give another name" in said.err


def test_a_question_names_the_arms(tunelab: Command, bench: Bench, rows: Path) -> None:
    words = ("--model", bench.model, "--data", rows, "--question", "Is QLoRA as good as lora?")
    found = json.loads(tunelab("study", "init", "a.yaml", *words, "--size", "180", "--json").out)
    assert found == {
        "path": "a.yaml",
        "arms": ["base", "qlora", "lora"],
        "training_rows": 105,
        "held_out_rows": 50,
        "validation_rows": 25,
    }
    study = load_study("a.yaml")
    assert study.title == "Is QLoRA as good as lora?" and study.recipe["data"]["size"] == 180
    (one,) = study.questions
    assert (one.is_as_good, one.as_, one.on) == ("qlora", "lora", "held-out")
    words = ("--question", "lora better than base", "--question", "Is int8 like dora?", "--compare", "full")
    assert tunelab("study", "init", "b.yaml", "--model", bench.model, "--data", rows, *words).code == 0
    study = load_study("b.yaml")
    assert list(study.arms) == ["base", "full", "lora", "int8", "dora"]
    assert [(one.is_better, one.is_like, one.to) for one in study.questions] == [
        ("lora", None, None),
        (None, "int8", "dora"),
    ]


def test_every_method_can_be_an_arm(tunelab: Command, bench: Bench, rows: Path) -> None:
    methods = [name for name in METHODS if name != "nf4"]  # qlora by another name
    said = tunelab("study", "init", "--model", bench.model, "--data", rows, "--compare", ",".join(methods))
    assert said.code == 0, said.err
    study = load_study("study.yaml")
    assert list(study.arms) == ["base", *methods]
    assert {name: arm.recipe for name, arm in study.arms.items()} == {
        "base": {},
        **{name: METHODS[name].recipe for name in methods},
    }
    against = {one.arm: one.against for one in study.questions if one.is_as_good}
    assert against["lora"] == "full" and against["dora"] == "full" and against["int8"] == "lora"


def test_what_is_wrong_is_named_and_nothing_is_written(tunelab: Command, bench: Bench, rows: Path) -> None:
    few = tiny.rows_file(rows.with_name("few.jsonl"), rows=40)
    whole = ("--model", bench.model, "--data", rows)
    for words, said, remedy in (
        (("--data", rows), "study init needs --model", "for example: tunelab study init study.yaml --model"),
        (("--model", bench.model), "study init needs --data", "--data rows.jsonl"),
        ((*whole, "--compare", "full,qlra"), "unknown method 'qlra'", "did you mean qlora? known: full, lora, "),
        ((*whole, "--compare", "nf4,qlora"), "nf4 and qlora are the same method", "name one of the two"),
        (
            (*whole, "--question", "Which is best?"),
            "expected two methods, and how",
            'write "Is qlora as good as lora?"',
        ),
        ((*whole, "--question", "lora like LoRA"), "compares lora with itself", "name two methods"),
        ((*whole, "--compare", ","), "--compare names no method", "known: full, lora, "),
        ((*whole, "--compare", "base"), "--compare base: is the model as it is", "name what it is compared with: full"),
        (
            (*whole, "--size", "100"),
            "100 rows of --size 100, expected at least 150",
            "give --size 150 or more, or omit",
        ),
        (("--model", bench.model, "--data", few), "40 rows, expected at least 150 (50 that measure, 25", "add rows"),
        (("--model", bench.model, "--data", "gone.jsonl"), "gone.jsonl: no such file", ""),
        (("--model", "./gone", "--data", rows), "arms.base: model: ", ""),
        ((*whole, "--out", "x.yaml"), "--out is not for study init", "name the file: tunelab study init FILE"),
        ((*whole, "--lr", "1"), "--lr is not for study init", "set the key in the file that it writes"),
    ):
        found = tunelab("study", "init", *words)
        assert found.code != 0 and said in found.err and remedy in found.err, found.err
    assert not Path("study.yaml").exists()
    assert "nowhere: no such directory" in tunelab("study", "init", "nowhere/study.yaml", *whole).err


@pytest.mark.parametrize(
    ("words", "flag", "remedy"),
    [
        (("run", "study.yaml", "--data", "rows.jsonl"), "--data", "--set 'recipe.data.sources="),
        (("status", "made", "--question", "x"), "--question", "give it to `tunelab study init`"),
        (("status", "made", "--out", "x"), "--out", "name the directory: tunelab study status DIR"),
        (("status", "made", "--dry-run"), "--dry-run", "it changes nothing"),
        (("clean", "made", "--set", "seeds=[0]"), "--set", "omit it, or give it to `tunelab study run`"),
        (("clean", "made", "--scale", "tiny"), "--scale", "tunelab study run"),
        (("status", "made", "--executor", "ray"), "--executor", "tunelab study run"),
        (("clean", "made", "--option", "a=b"), "--option", "tunelab study run"),
        (("list", "--lr", "0"), "--lr", "tunelab study run"),
        (("list", "--out", "x"), "--out", "tunelab study run"),
        (("init", "--dry-run"), "--dry-run", "`tunelab study run FILE --dry-run` checks the file"),
        (("init", "--scale", "tiny"), "--scale", "give it to `tunelab study run FILE`"),
        (("init", "--executor", "ray"), "--executor", "give it to `tunelab study run FILE`"),
        (("init", "--batch-size", "8"), "--batch-size", "set the key in the file that it writes, under recipe"),
    ],
)
def test_flags_of_other_words_are_refused(tunelab: Command, words: tuple[str, ...], flag: str, remedy: str) -> None:
    found = tunelab("study", *words)
    assert found.code == 2 and f"error: {flag} is not for study {words[0]}\n" in found.err and remedy in found.err, (
        found.err
    )


def test_each_flag_of_study_is_of_all_its_words_or_refused_by_some() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = vars(parser.parse_args(["list"]))
    assert {name: flags.pop(name) for name in NOT_GIVEN} == NOT_GIVEN
    assert set(flags) == set(OF_ALL)
