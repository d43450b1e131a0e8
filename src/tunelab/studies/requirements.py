"""What a study's jobs will need, checked before the first of them runs: data, models, benchmarks, trackers, disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tunelab import plugins
from tunelab.answering.benchmark_items import load_benchmarks
from tunelab.config import Recipe
from tunelab.config.questions import HELD_OUT
from tunelab.config.study import Study
from tunelab.errors import ConfigError, Problem, TunelabError
from tunelab.models.gguf.reading import local_model
from tunelab.models.load import load_config
from tunelab.preparation.rows import check_hub_rows_are_here, check_local_files
from tunelab.preparation.start import with_start
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.records.cells import Cell
from tunelab.training.trackers import check_installed
from tunelab.units import format_bytes


def check_requirements(study: Study, cells: Sequence[Cell], folder: Path) -> None:
    """Check everything that these cells will need.

    Args:
        cells: those that are to run.
        folder: the study's directory; it need not exist yet.

    Raises:
        ConfigError: lists all that is missing.
    """
    if problems := missing(study, cells, folder):
        raise ConfigError("before the first job", problems)


def missing(study: Study, cells: Sequence[Cell], folder: Path, to_be_made: Collection[str] = ()) -> list[Problem]:
    """All that these cells will need and that is not there; each problem once, under the first key that has it.

    Args:
        to_be_made: folders of models that are written before the first job.
    """
    recipes = {cell.arm: study.arm_recipe(cell.arm, study.seeds[0]) for cell in cells}
    found: dict[tuple[str, str], Problem] = {}
    for path, check in _checks(study, cells, recipes, to_be_made):
        for problem in _problems(path, check):
            found.setdefault((problem.message, problem.hint), problem)
    return [*found.values(), *_lack_of_disk_space(cells, recipes, folder)]


def _checks(
    study: Study, cells: Sequence[Cell], recipes: Mapping[str, Recipe], to_be_made: Collection[str]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each check under the key of the study that it concerns."""
    reads_rows = {cell.arm for cell in cells if cell.benchmark in ("", HELD_OUT)}
    for arm, recipe in recipes.items():
        if arm in reads_rows:
            yield f"arms.{arm}: data", partial(check_local_files, recipe.data)
            yield f"arms.{arm}: data", partial(check_hub_rows_are_here, recipe.data)
        yield f"arms.{arm}: train", partial(check_installed, recipe.train.trackers)
        if recipe.model.name not in to_be_made:
            yield f"arms.{arm}: model", partial(_check_model, recipe)
            if study.arms[arm].tuned:
                yield f"arms.{arm}: adapter", partial(with_start, recipe)
    for name in dict.fromkeys(cell.benchmark for cell in cells):
        if name not in ("", HELD_OUT):
            options = {plugins.label(name): study.own_options(name)}
            yield f"benchmarks.{name}", partial(load_benchmarks, [name], options)


def _check_model(recipe: Recipe) -> None:
    """Raises ModelError if configuration or tokenizer is not available (no such folder, no network, gated)."""
    model = recipe.model
    load_config(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    load_recipe_tokenizer(recipe)


def _problems(path: str, check: Callable[[], Any]) -> Sequence[Problem]:
    try:
        check()
    except ConfigError as error:
        return [Problem(f"{path}: {one.path}", one.message, one.hint) for one in error.problems]
    except TunelabError as error:
        return [Problem(path, error.message, error.hint)]
    return []


def _lack_of_disk_space(cells: Sequence[Cell], recipes: Mapping[str, Recipe], folder: Path) -> Iterator[Problem]:
    """Full fine-tuning writes all weights at least once; models that are not in a folder are not counted."""
    trainings = [recipes[cell.arm] for cell in cells if not cell.benchmark and cell.lr is None]
    needed = sum(_weight_bytes(recipe.model.name) for recipe in trainings if recipe.method == "full")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        yield Problem(
            "out",
            f"{folder}: full fine-tuning will write at least {format_bytes(needed)}, but {format_bytes(free)} are free",
            "free some space, or choose a directory on another disk with --out",
        )


def _weight_bytes(name: str) -> int:
    """Of a local model; 0 for one that is not there, which is a problem of its own."""
    with suppress(TunelabError):
        return sum(path.stat().st_size for path in Path(local_model(name)).glob("*.safetensors"))
    return 0
