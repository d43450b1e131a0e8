"""What a study's jobs will need, checked before the first of them runs: data, models, benchmarks, trackers, disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tunelab import plugins
from tunelab.answering.benchmark_items import load_benchmarks
from tunelab.config import Recipe
from tunelab.config.study import HELD_OUT, OF_EVERY_BENCHMARK, Study
from tunelab.errors import ConfigError, Problem, TunelabError
from tunelab.models.load import load_config, load_tokenizer
from tunelab.preparation.rows import check_local_files
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


def missing(study: Study, cells: Sequence[Cell], folder: Path) -> list[Problem]:
    """All that these cells will need and that is not there; each problem once, under the first key that has it."""
    found: dict[tuple[str, str], Problem] = {}
    for path, check in _checks(study, cells):
        for problem in _problems(path, check):
            found.setdefault((problem.message, problem.hint), problem)
    return [*found.values(), *_lack_of_room(study, cells, folder)]


def _checks(study: Study, cells: Sequence[Cell]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each check under the key of the study that it concerns, once."""
    seen = set()
    for cell in cells:
        recipe = study.arm_recipe(cell.arm, study.seeds[0])
        if cell.benchmark in ("", HELD_OUT):
            yield f"arms.{cell.arm}: data", partial(check_local_files, recipe.data)
        yield f"arms.{cell.arm}: train", partial(check_installed, recipe.train.trackers)
        if (model := recipe.model) not in seen:
            seen.add(model)
            yield f"arms.{cell.arm}: model", partial(_check_model, recipe)
    for name in dict.fromkeys(cell.benchmark for cell in cells):
        if name not in ("", HELD_OUT):
            given = study.benchmarks[name]
            own = {key: value for key, value in given.items() if key not in OF_EVERY_BENCHMARK}
            options = {plugins.label(name): own}
            yield f"benchmarks.{name}", partial(load_benchmarks, [name], options)


def _check_model(recipe: Recipe) -> None:
    """Raises ModelError if configuration or tokenizer is not available (no such folder, no network, gated)."""
    model = recipe.model
    load_config(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    if model.tokenizer is None:
        load_tokenizer(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    else:
        load_tokenizer(model.tokenizer, trust_remote_code=model.trust_remote_code)


def _problems(path: str, check: Callable[[], Any]) -> Sequence[Problem]:
    try:
        check()
    except ConfigError as error:
        return [Problem(f"{path}: {one.path}", one.message, one.hint) for one in error.problems]
    except TunelabError as error:
        return [Problem(path, error.message, error.hint)]
    return []


def _lack_of_room(study: Study, cells: Sequence[Cell], folder: Path) -> Iterator[Problem]:
    """Full fine-tuning writes all weights at least once; models that are not in a folder are not counted."""
    trainings = [study.arm_recipe(cell.arm, study.seeds[0]) for cell in cells if not cell.benchmark]
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
    return sum(path.stat().st_size for path in Path(name).glob("*.safetensors"))
