"""Every recipe that ships: short, honest in its header, and each trains on a small model of its family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from tiny_tokenizers import byte_tokenizer

from tunelab.config import Recipe, load_recipe, resolve
from tunelab.data.reader import load_source
from tunelab.training.finetune import finetune

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
GATED = "meta-llama/"
#: Which small model stands in for which.
FAMILIES = {"distilgpt2": "gpt2", "meta-llama/": "llama", "HuggingFaceTB/SmolLM2": "llama", "microsoft/Phi-3": "phi3"}
LONGEST = {"gpt2": "n_positions", "llama": "max_position_embeddings", "phi3": "max_position_embeddings"}


#: Trained in `make test`; the others in `make test-slow`.
SAMPLE = ("distilgpt2-alpaca-full", "own-data")


@pytest.fixture(params=RECIPES, ids=[path.stem for path in RECIPES])
def path(request: pytest.FixtureRequest) -> Path:
    value: Path = request.param
    return value


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").strip() for line in lines[:end])


def test_the_recipes_of_the_first_guide_are_there() -> None:
    names = {path.stem for path in RECIPES}
    assert names >= {"distilgpt2-alpaca-lora", "distilgpt2-alpaca-full", "llama2-oasst1-lora", "own-data"}
    assert names >= {"phi3-alpaca-cleaned-lora", "llama31-alpaca-cleaned-lora"}


def test_short_and_with_a_header(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40 and max(map(len, lines)) <= 120
    said = header(path)
    for part in ("What it does: ", "Needs: ", "Expect: ", "Run: "):
        assert f"\n{part}" in f"\n{said}", part
    assert f"tunelab train recipes/{path.name}" in said


def test_the_header_names_what_is_gated_and_what_was_not_measured(path: Path) -> None:
    said = " ".join(header(path).split())
    name = load_recipe(path).model.name
    assert ("is gated" in said and "hf auth login" in said) == name.startswith(GATED)
    assert not name.startswith(GATED) or f"{name}, which is gated" in said
    assert "easured" in said, "a header says where its numbers were measured, or that they were not"
    assert "Memory: not measured yet" in said or "GiB peak" in said


def test_it_says_only_what_differs_from_the_defaults(path: Path) -> None:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe = load_recipe(path)
    for section, entries in tree.items():
        if section == "model" or not isinstance(entries, dict):
            assert section != "adapter" or entries != "lora"
            continue
        fields = type(getattr(recipe, section)).model_fields
        for key in entries:
            assert getattr(getattr(recipe, section), key) != fields[key].default, f"{section}.{key} is the default"


def test_phi3_has_the_settings_that_it_promises() -> None:
    adapter = resolve(load_recipe(FOLDER / "phi3-alpaca-cleaned-lora.yaml")).adapter
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.targets) == (16, 32, 0.05, "attention")


def test_the_two_of_distilgpt2_hold_out_the_same_rows() -> None:
    lora, full = (load_recipe(FOLDER / f"distilgpt2-alpaca-{method}.yaml") for method in ("lora", "full"))
    assert lora.data == full.data and (lora.method, full.method) == ("lora", "full")


def small_model(recipe: Recipe, folder: Path) -> Path:
    """A random model of the recipe's family with a window as long as the rows of bytes are."""
    family = next(family for start, family in FAMILIES.items() if recipe.model.name.startswith(start))
    tiny.model_folder(folder, family, **{LONGEST[family]: 1024})
    byte_tokenizer().save_pretrained(folder)
    return folder


def small_rows(recipe: Recipe, path: Path) -> Path:
    """As many rows as the recipe asks for, in the format of its source."""
    name = recipe.data.sources[0].name
    name = "prompt-completion" if name == "auto" else name
    count = (recipe.data.size or 40) // len(load_source(name).EXAMPLE) + 1
    lines = []
    for number in range(count):
        for row in load_source(name).EXAMPLE:
            lines.append(json.dumps(numbered(row, number)) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The row with its ids and prompts made its own, so that rows are different groups."""
    changed = dict(row)
    for key in ("instruction", "prompt", "text"):
        if key in row:
            changed[key] = f"{number}: {row[key]}"
    for key in ("message_id", "parent_id"):
        if row.get(key):
            changed[key] = f"{row[key]}{number}"
    return changed


@pytest.mark.parametrize(
    "path",
    [pytest.param(one, marks=() if one.stem in SAMPLE else pytest.mark.slow, id=one.stem) for one in RECIPES],
)
def test_it_trains_with_only_model_and_data_swapped(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    small = load_recipe(
        path,
        [
            f"model.name={small_model(recipe, tmp_path / 'base')}",
            f"data.sources.0.path={small_rows(recipe, tmp_path / 'rows.jsonl')}",
            "train.steps=2",
            f"out={tmp_path / 'run'}",
        ],
    )
    assert small.adapter == recipe.adapter and small.evaluate == recipe.evaluate
    assert small.train == recipe.train.model_copy(update={"steps": 2})
    run = finetune(small)
    manifest = run.manifest
    assert manifest["trained"]["steps"] == 2 and manifest["trained"]["targets"] > 0
    assert manifest["data"]["train"]["dropped_too_long"] == 0 and manifest["data"]["bad_rows"] == []
    assert run.model.exists() == (recipe.method == "full") != run.adapter.exists()
