"""A word that names an existing file or directory is that path, never an override: in every verb. Flags for recipe keys
reach the recipe, and are refused where they would have no effect."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from verbs import Bench, Command

from tunelab.cli import _recipe_arguments as recipe_arguments
from tunelab.cli._benchmarks import sorted_words
from tunelab.cli._words import is_change, is_recipe_file
from tunelab.config.reference import keys
from tunelab.config.study import parse_study
from tunelab.errors import ConfigError, UsageError

SMALL: dict[str, Any] = {"model": "m", "data": "alpaca"}


def test_what_is_an_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("lr=2e-4", "./lr=2e-4", "epoch=3-step=100.yaml", "x" * 5000):
        assert is_change(word) == (word[0] != "." and "=" in word)
    (tmp_path / "lr=2e-4").mkdir()
    (tmp_path / "epoch=3-step=100.yaml").touch()
    assert not is_change("lr=2e-4") and not is_change("epoch=3-step=100.yaml")
    assert is_recipe_file("epoch=3-step=100.yaml") and is_recipe_file("new.yml") and not is_recipe_file("a=b.yaml")
    (tmp_path / "run.yaml").mkdir()
    assert not is_recipe_file("run.yaml")


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "PATH"],
        ["eval", "./PATH"],
        ["eval", "PATH", "--check"],
        ["generate", "PATH", "--prompt", "x"],
        ["chat", "PATH"],
        ["merge", "PATH", "--compare"],
        ["export", "PATH", "--to", "hf", "--out", "x"],
        ["compare", "PATH"],
        ["report", "PATH"],
        ["score", "PATH"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["train.lr=2e-4", "mmlu.shots=5", "run.yaml"])
def test_a_directory_with_an_equals_sign_is_that_directory(words: list[str], name: str, tunelab: Command) -> None:
    Path(name).mkdir()
    said = tunelab(*(word.replace("PATH", name) for word in words))
    lines = said.err.splitlines()
    assert said.code in (1, 2) and name in lines[0] and "unknown" not in said.err and "no run or model" not in said.err
    assert "nothing to" not in said.err and "no responses to score" not in said.err, lines


def test_with_benchmarks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train.lr=2e-4", "mmlu.shots=5"]
    assert sorted_words(words, ["mmlu"]) == ({"mmlu": {"shots": "5"}}, ["train.lr=2e-4"], [])
    for word in words:
        Path(word).mkdir()
    assert sorted_words(words, ["mmlu"]) == ({}, [], words)


def test_a_recipe_with_an_equals_sign_is_that_file(tunelab: Command, bench: Bench) -> None:
    name = "epoch=3-step=100.yaml"
    tree = yaml.safe_load(bench.recipe.read_text(encoding="utf-8"))
    Path(name).write_text(yaml.safe_dump({**tree, "lrr": 1}), encoding="utf-8")
    for verb in ("train", "prepare", "inspect", "eval"):
        said = tunelab(verb, name)
        assert said.code == 2 and f"error: {name}: 1 problem\n  lrr: unknown key" in said.err
    assert "error: epoch=3-step=101.yaml" not in tunelab("train", "epoch=3-step=101.yaml").err


def test_an_override_that_is_a_file_here_is_refused_with_another_spelling(tunelab: Command, bench: Bench) -> None:
    Path("train.lr=1e-4").mkdir()
    said = tunelab("train", bench.recipe, "train.lr=1e-4")
    assert said.code == 2 and "error: train.lr=1e-4 is a file or directory here, not an override\n" in said.err
    assert 'hint: to override the key, write it with a space: "train.lr= 1e-4"\n' in said.err
    assert is_change("train.lr= 1e-4")
    said = tunelab("quantize", "train.lr=1e-4", "more", "--precision", "nf4", "--out", "x")
    assert said.code == 2 and "error: more: expected key=value\n" in said.err


def parsed(add: Callable[..., None], *words: str, **options: bool) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add(parser, **options)
    return parser.parse_intermixed_args(list(words))


def test_flags_set_the_keys_they_name() -> None:
    words = (
        "--model m --data a --size 9 --template plain --method lora --precision nf4 --rank 4 --lr 1e-3 --epochs 0.5 "
    )
    words += "--batch-size 2 --dtype bf16 --seed 3 --limit 5 --out o --allow no-end-token"
    recipe = recipe_arguments.recipe_of(parsed(recipe_arguments.add_recipe_arguments, *words.split()))
    assert (recipe.adapter.rank, recipe.train.lr, recipe.train.epochs) == (4, 1e-3, 0.5)
    assert (recipe.train.batch_size, recipe.train.dtype, recipe.precision.name) == (2, "bf16", "nf4")
    assert {flag.key for flag in recipe_arguments.KEY_FLAGS} <= set(keys())
    given = [word for word in words.split() if word.startswith("--")]
    assert sorted(given) == sorted(f"--{flag.name}" for flag in recipe_arguments.KEY_FLAGS), "all were tried"


def test_a_wrong_value_of_a_flag_is_the_recipe_s_error() -> None:
    with pytest.raises(ConfigError, match=r"adapter.rank: expected a positive integer, got 0"):
        recipe_arguments.recipe_of(parsed(recipe_arguments.add_recipe_arguments, "--rank", "0", "--model", "m"))


def test_what_only_training_uses_is_no_flag_of_eval(tunelab: Command) -> None:
    assert "error: unknown flag --lr\n" in tunelab("eval", "--model", "m", "--lr", "1").err


@pytest.mark.parametrize("flag", ["--precision", "--dtype", "--template", "--seed"])
def test_a_run_is_evaluated_with_its_own_settings(tunelab: Command, bench: Bench, flag: str) -> None:
    said = tunelab("eval", bench.lora, flag, "1")
    assert said.code == 2 and f"a run is evaluated with its own recipe; {flag} cannot change it" in said.err


def test_flags_of_a_study_are_for_all_arms() -> None:
    arguments = parsed(recipe_arguments.add_study_flags, "--lr=1e-3", "--model=small", "--rank=4", "--dtype=bf16")
    assert recipe_arguments.study_changes(arguments) == [
        'model="small"',
        "recipe.adapter.rank=4",
        "recipe.train.lr=0.001",
        'recipe.train.dtype="bf16"',
    ]
    tree = {"title": "t", "recipe": SMALL, "arms": {"a": {}}, "benchmarks": {"held-out": {}}}
    recipe_arguments.check_arms_follow(parse_study(tree), arguments)
    own = {**tree, "arms": {"a": {}, "r8": {"recipe": {"adapter": {"rank": 8}}}}}
    with pytest.raises(UsageError, match=r"--rank is for all arms, but r8 set adapter.rank themselves") as caught:
        recipe_arguments.check_arms_follow(parse_study(own), arguments)
    assert caught.value.hint == "set it per arm: --set arms.r8.recipe.adapter.rank=VALUE"
