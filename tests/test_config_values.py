"""Recipes: unknown keys, and values that YAML, torch or the system cannot hold, are refused by key."""

from __future__ import annotations

import pytest

from tunelab.config import load_recipe
from tunelab.config.yaml_text import parse_yaml
from tunelab.errors import ConfigError, UsageError


def problems_of(override: str) -> dict[str, tuple[str, str]]:
    """Path -> (message, hint) of everything that is wrong."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(None, [override], {"model": "gpt2", "data": "alpaca"})
    return {problem.path: (problem.message, problem.hint) for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("lr=1e-4", "did you mean train.lr?"),
        ("train.shedule=linear", "did you mean train.schedule?"),
        ("trian.lr=1", "did you mean train?"),
        ("model.rank=8", "did you mean adapter.rank?"),
        ("evaluate.seed=8", "did you mean data.seed or train.seed?"),
        ("evaluate.droput=8", "did you mean adapter.dropout?"),
        ("data.sources.0.pth=8", "did you mean data.sources.0.path?"),
        ("evaluate.zzzzz=8", "known here: max_new_tokens, limit, micro_batch_tokens"),
    ],
)
def test_unknown_keys_get_the_nearest_name(override: str, hint: str) -> None:
    path = "trian" if override.startswith("trian") else override.partition("=")[0]
    assert problems_of(override) == {path: ("unknown key", hint)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {lr: !!int abc}", "abc is not a valid int"),
        ("train: {lr: !!float x}", "x is not a valid float"),
        ("a: !!timestamp 2020-13-45", "2020-13-45 is not a valid timestamp"),
        ("a: !!bool maybe", "maybe is not a valid bool"),
        ("train: {seed: " + "9" * 5000 + "}", r"9{40}\.\.\. \(5,000 characters\) is not a valid int"),
        ("[" * 3000, "nested too deeply"),
    ],
)
def test_a_value_that_its_yaml_tag_cannot_have(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_yaml(text, "recipe.yaml")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.seed=18446744073709551616", "expected at most 9.22337e+18, got 18446744073709551616"),
        ("train.lr=1e300", "expected at most 3.4e+38, got 1e+300"),
        ("adapter.alpha=1e300", "expected at most 3.4e+38, got 1e+300"),
    ],
)
def test_numbers_that_torch_cannot_hold(override: str, said: str) -> None:
    assert problems_of(override) == {override.partition("=")[0]: (said, "give a smaller number")}


def test_a_path_has_no_null_character() -> None:
    (message, _) = problems_of('out="a\\0b"')["out"]
    assert message == "expected a string, or null, got 'a\\x00b'"


def test_a_path_can_be_encoded() -> None:
    assert list(problems_of('model.name="\\ud800"')) == ["model.name"]
    for name in ("a\0b", "\ud800"):
        with pytest.raises(UsageError, match="is no file name: "):
            load_recipe(name)


def test_an_entry_is_numbered_in_plain_digits() -> None:
    assert "has no entry '²'" in problems_of("data.sources.²=x")["data.sources.²"][0]
