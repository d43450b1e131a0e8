"""A flag that was renamed is wrong usage, and the error says its new name."""

from __future__ import annotations

import argparse

import pytest
from verbs import Command

from tunelab import plugins
from tunelab.cli._renamed_flags import RENAMED
from tunelab.cli.main import FOLDER

FLAGS = [(verb, old, new) for verb, flags in RENAMED.items() for old, new in flags.items()]


@pytest.mark.parametrize(("verb", "old", "new"), FLAGS)
def test_an_old_flag_is_an_error_that_names_the_new_one(tunelab: Command, verb: str, old: str, new: str) -> None:
    for words in ([old, "x"], [f"{old}=x"]):
        said = tunelab(verb, "somewhere", *words)
        assert said.code == 2
        assert f"error: {old} is renamed: {new}" in said.err and f"hint: write {new}" in said.err


@pytest.mark.parametrize(("verb", "old", "new"), FLAGS)
def test_the_new_flag_is_there_and_the_old_one_is_not(verb: str, old: str, new: str) -> None:
    parser = argparse.ArgumentParser()
    plugins.load(FOLDER, verb).add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert new in flags and old not in flags


@pytest.mark.parametrize("verb", ["eval", "generate", "compare"])
def test_tasks_is_another_name_of_benchmarks(verb: str) -> None:
    parser = argparse.ArgumentParser()
    plugins.load(FOLDER, verb).add_arguments(parser)
    assert parser.parse_intermixed_args(["RUN", "--tasks", "mmlu,ifeval"]).benchmarks == "mmlu,ifeval"


def test_a_flag_of_another_verb_is_not_taken_for_a_renamed_one(tunelab: Command) -> None:
    said = tunelab("train", "recipe.yaml", "--on", "mmlu")
    assert said.code == 2 and "unknown flag --on\n" in said.err
