"""A resolved recipe is complete and loads back; YAML survives the round; JSON Schema and reference page are current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.config import Recipe, json_schema, load_recipe, parse_recipe, reference_markdown, resolve, to_yaml
from tunelab.config.reference import keys
from tunelab.config.yaml_text import dump_yaml, parse_yaml
from tunelab.errors import TunelabError

SMALL: dict[str, Any] = {"model": "gpt2", "data": "alpaca"}


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# Back to YAML.


@pytest.mark.parametrize(("overrides", "lr"), [([], 2e-4), (["method=full"], 2e-5), (["train.lr=3e-4"], 3e-4)])
def test_resolve_fills_the_learning_rate(overrides: list[str], lr: float) -> None:
    assert resolve(load_recipe(None, overrides, SMALL)).train.lr == lr


def test_resolve_fills_the_step() -> None:
    assert resolve(parse_recipe(SMALL)).train.batch_size == 16
    assert resolve(load_recipe(None, ["train.batch_tokens=999"], SMALL)).train.batch_size is None


def test_a_resolved_recipe_is_complete_in_the_tree_s_order_and_loads_back(tmp_path: Path) -> None:
    overrides = [
        "train.lr=1e-5",
        "train.trackers=[wandb]",
        "adapter.targets=[q_proj]",
        "model.revision='1e5'",
        "data=[a, b.csv]",
    ]
    recipe = resolve(load_recipe(None, overrides, SMALL))
    text = to_yaml(recipe)
    assert load_recipe(written(tmp_path, text)) == recipe == resolve(recipe)
    assert list(yaml.safe_load(text)) == list(Recipe.model_fields)
    assert yaml.safe_load(text)["train"]["batch_size"] == 16


texts = st.text(min_size=1) | st.sampled_from(
    ["1e5", "no", "null", "1_0", "0x1", "12:30", "~", "2024-01-01", "=", "<<", " a", "a: b"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)


@settings(deadline=None, max_examples=60)
@given(value=values)
def test_what_is_dumped_is_read_back(value: Any) -> None:
    assert parse_yaml(dump_yaml(value), "test") == value


@settings(deadline=None, max_examples=100)
@given(tree=st.dictionaries(st.sampled_from(list(Recipe.model_fields)) | texts, values, max_size=5), override=values)
def test_whatever_stands_in_a_recipe_is_read_or_refused_in_words(tree: dict[str, Any], override: Any) -> None:
    try:
        recipe = load_recipe(None, [f"train.lr={json.dumps(override)}"], {"model": "m", "data": "a", **tree})
    except TunelabError as error:
        assert error.message
    else:
        assert recipe.model.name


# Schema and reference page.


@pytest.mark.parametrize(
    ("tree", "valid"),
    [
        (SMALL, True),
        ({"model": {"name": "x"}, "data": ["a", {"path": "b.json"}], "method": "full"}, True),
        ({**SMALL, "adapter": "none"}, False),
        ({**SMALL, "train": {"lr": 1e-4, "warmup": 10}}, True),
        ({**SMALL, "train": {"lr": 0}}, False),
        ({**SMALL, "train": {"warmup": -0.1}}, False),
        ({**SMALL, "tarin": {}}, False),
        ({"model": "x"}, False),
    ],
)
def test_json_schema(tree: dict[str, Any], valid: bool) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(tree) is valid


def test_a_resolved_recipe_fits_the_schema() -> None:
    tree = yaml.safe_load(to_yaml(resolve(parse_recipe(SMALL))))
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(tree)


def test_every_key_is_described() -> None:
    page = reference_markdown()
    for key in keys():
        assert f"| `{key.replace('sources.', 'sources.N.')}` |" in page
    assert "| None |" not in page
