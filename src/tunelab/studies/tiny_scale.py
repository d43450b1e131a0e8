"""A study at tiny scale: toys of its models, a few rows, a few items, all on this machine.

It shows that a study runs, and nothing about its models. What is on this machine, or named with `--set`, is used; for
the rest stand-ins ship (stand_ins.py). The network is needed only for what was named and is not here, and for models
that the table of families does not have.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tunelab.config import Recipe
from tunelab.config.study import Study, parse_study
from tunelab.config.study_tree import Tree, merged
from tunelab.config.types import TARGET_WORDS
from tunelab.data.reader import check_hub_rows
from tunelab.errors import DataError, ModelError
from tunelab.evaluation.benchmark_files import are_complete, benchmark_files, load_benchmark
from tunelab.hub import cache_only
from tunelab.studies.stand_ins import FAMILIES, ITEMS, ROWS, stand_in_config, stand_in_tokenizer
from tunelab.studies.toy_model import Toy, shrunk, toy_model


def at_tiny_scale(study: Study, folder: Path, changes: Sequence[str] = ()) -> tuple[Study, list[Toy]]:
    """The study on toys and stand-ins, with a note that says so; and the toys, to be written before it runs.

    Args:
        study: as load_study gives it with scale="tiny".
        folder: the study's directory; toys go below it.
        changes: the `--set` changes that were applied: what they name is used, even if it has to be fetched.

    Raises:
        ModelError: a model is neither on this machine nor in the table of families, and cannot be fetched.
    """
    keys = [change.partition("=")[0].strip() for change in changes]
    models_named = any("model" in key.split(".") for key in keys)
    rows_named = any("sources" in key.split(".") for key in keys)
    tree = study.model_dump(mode="json")
    toys: dict[Path, Toy] = {}
    replaced: dict[str, None] = {}  # stand-ins, in words
    random: list[str] = []
    for arm in study.arms:
        recipe = study.arm_recipe(arm, study.seeds[0])
        toy, is_stand_in = _toy(recipe, folder, named=models_named)
        own: Tree = {}
        if toy is not None:
            toys.setdefault(toy.folder, toy)
            random.append(arm)
            own["model"] = {"name": str(toy.folder), "revision": None, "tokenizer": None}
            own |= _adapter_of_a_toy(recipe)
        if is_stand_in:
            replaced["the tokenizer"] = None
        if not rows_named and (sources := _sources(recipe, replaced)):
            own["data"] = {"sources": sources}
        tree["arms"][arm]["recipe"] = merged(tree["arms"][arm]["recipe"], own)
    for name, options in tree["benchmarks"].items():
        if name in ITEMS and not options.get("data") and not _has_items(name):
            options["data"] = str(ITEMS[name])
            replaced[f"the items of {name}"] = None
    tree["note"] = " ".join(filter(None, (_note(random, list(study.arms), list(replaced)), study.note)))
    return parse_study(tree, study.title), list(toys.values())


def _toy(recipe: Recipe, folder: Path, *, named: bool) -> tuple[Toy | None, bool]:
    """The toy of a recipe's model, None if the model is small enough; and whether it is from the table of families."""
    name, revision = recipe.model.name, recipe.model.revision
    place = folder / "models" / f"tiny-random-{name.strip('/').replace('/', '--')}"
    if not named and name in FAMILIES and not Path(name).is_dir():
        try:
            with cache_only():
                return toy_model(name, place, revision=revision), False
        except ModelError:
            family = FAMILIES[name]
            tokenizer = stand_in_tokenizer(family)
            config = shrunk(stand_in_config(family, tokenizer))
            return Toy(place, config, tokenizer, zlib.crc32(name.encode())), True
    return toy_model(name, place, revision=revision), False


def _adapter_of_a_toy(recipe: Recipe) -> Tree:
    """Keys with which the recipe's adapter fits a toy of two layers: no numbers of layers, no adapter of its model."""
    adapter = recipe.adapter
    is_expression = isinstance(adapter.targets, str) and adapter.targets not in TARGET_WORDS
    if adapter.layers or adapter.from_ or is_expression or isinstance(adapter.exclude, str):
        return {"adapter": {"targets": "all-linear", "layers": None, "exclude": [], "from": None}}
    return {}


def _sources(recipe: Recipe, replaced: dict[str, None]) -> list[dict[str, Any]]:
    """The recipe's sources, with stand-ins for those that are not here; empty if all are. Adds to `replaced`."""
    sources, missing = [], False
    for source in recipe.data.sources:
        settings = source.model_dump(mode="json")
        name = source.name.replace("_", "-")
        rows = ROWS.get(source.repository or name, ROWS.get(name))
        if rows and not source.path and not _has_rows(source):
            settings |= {"path": str(rows), **dict.fromkeys(("repository", "subset", "revision", "split"))}
            replaced[f"the rows of {source.repository or name}"] = None
            missing = True
        sources.append(settings)
    return sources if missing else []


def _has_rows(source: Any) -> bool:
    """Whether a source's hub dataset is in the cache."""
    place = source.model_dump(include={"revision", "split", "repository", "subset"})
    try:
        with cache_only():
            check_hub_rows(source.name, **place)
    except DataError:
        return False
    return True


def _has_items(name: str) -> bool:
    """Whether a benchmark's files are in the cache, all of them."""
    benchmark = load_benchmark(name).BENCHMARK
    try:
        with cache_only():
            return are_complete(benchmark, benchmark_files(benchmark, None, name=name))
    except DataError:
        return False


def _note(random: Collection[str], arms: Collection[str], replaced: Sequence[str]) -> str:
    """What the report opens with: what is random, what are stand-ins, and that no figure means anything."""
    weights = "the weights are random" if len(random) == len(arms) else f"the weights of {', '.join(random)} are random"
    parts = [weights] if random else ["a few steps on a few rows"]
    if replaced:
        parts.append("stand-ins replace " + " and ".join(filter(None, [", ".join(replaced[:-1]), replaced[-1]])))
    return f"Tiny scale, a smoke test: {'; '.join(parts)}. No figure here means anything."
