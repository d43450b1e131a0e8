"""What a study's jobs will need, checked before the first of them runs: data, models, benchmarks, trackers, disk."""

from __future__ import annotations

import datetime
import functools
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tunelab import plugins
from tunelab.allowed_code import code_hashes
from tunelab.answering.benchmark_items import load_benchmarks
from tunelab.config import Recipe
from tunelab.config.questions import HELD_OUT
from tunelab.config.study import Study
from tunelab.data.template_date import rendered_on
from tunelab.errors import ConfigError, Problem, TunelabError
from tunelab.files import file_sha256, read_json
from tunelab.models.digest import adapter_hash
from tunelab.models.gguf.reading import is_local_model, local_model
from tunelab.models.load import load_config, tokenizer_fingerprint, weights_digest
from tunelab.preparation.base import template_digest
from tunelab.preparation.rows import check_hub_rows_are_here, check_local_files
from tunelab.preparation.start import adapter_folder, with_start
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.records.cells import Cell
from tunelab.records.environment import environment
from tunelab.records.evaluation_files import SCORES
from tunelab.records.runs import Run
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


def check_unchanged(study: Study, cells: Sequence[Cell], folder: Path) -> None:
    """Check that files, code, local models and adapters are those that done jobs used: the others would use something
    else.

    Args:
        cells: all of the study, with their status.

    Raises:
        ConfigError: lists what has changed since.
    """
    found: dict[str, Problem] = {}
    digests, now = functools.cache(file_sha256), _AsNow()
    for cell in cells:
        if cell.status == "done":
            recipe = study.arm_recipe(cell.arm, study.seeds[0] if cell.seed is None else cell.seed)
            for place in _changed_since(cell, recipe, folder / cell.folder, digests, now):
                remedy = "restore it, or run the study in another directory (--out)"
                problem = Problem(f"arms.{cell.arm}", f"{place} has changed since the job {cell.title!r}", remedy)
                found.setdefault(place, problem)
    if found:
        raise ConfigError("before the first job", list(found.values()))


def _changed_since(
    cell: Cell, recipe: Recipe, folder: Path, digests: Callable[[Path], str], now: _AsNow
) -> Iterator[str]:
    """The files and folders of a recipe that are no longer what a done job used; what is gone or not known is none."""
    name, used = recipe.model.name, None
    code: Mapping[str, str] = {}
    if not cell.benchmark and Run(folder).manifest_file.exists():
        manifest = Run(folder).manifest
        used, code = manifest["model"].get("weights_sha256"), manifest.get("code", {})
        for source, record in zip(recipe.data.sources, manifest["data"]["sources"], strict=False):
            known = record.get("identity", "")
            path = Path(source.path or "")
            if known.startswith("sha256:") and path.is_file() and known != f"sha256:{digests(path)}":
                yield str(path)
        yield from _changed_config(name, manifest)
        yield from now.changed_start(recipe, manifest)
        yield from now.changed_tokenizer(recipe, manifest)
    elif cell.benchmark and (folder / SCORES).exists():
        scores = read_json(folder / SCORES)
        used, code = None if cell.needs else scores["header"].get("model"), scores.get("code", {})
    yield from (file for file, known in code.items() if code_hashes(file).get(file, known) != known)
    is_known = used is not None and used.startswith("sha256:") and is_local_model(Path(name))
    if is_known and weights_digest(Path(local_model(name))) != used:
        yield name


def _changed_config(name: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    file, known = Path(name) / "config.json", manifest["model"].get("config_sha256")
    if known is not None and file.is_file() and file_sha256(file) != known:
        yield str(file)


def _has_these_libraries(manifest: Mapping[str, Any]) -> bool:
    """Whether a training had today's versions of what writes a tokenizer as JSON, by which it is compared."""
    sessions: list[dict[str, Any]] = manifest.get("sessions") or [{}]
    used, own = sessions[-1].get("environment", {}).get("libraries", {}), environment()["libraries"]
    return all(used.get(name, own[name]) == own[name] for name in ("tokenizers", "transformers"))


class _AsNow:
    """The tokenizers, chat templates and adapters of recipes as they are now, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str] | None] = {}
        self._hash = functools.cache(adapter_hash)

    def changed_start(self, recipe: Recipe, manifest: Mapping[str, Any]) -> Iterator[str]:
        """The adapter that a training started from, if it is another one now."""
        known, place = (manifest.get("adapter") or {}).get("from"), recipe.adapter.from_
        if known is not None and place is not None:
            with suppress(TunelabError):  # it is gone: a job that needs it says so
                if self._hash(adapter_folder(Path(place))) != known["sha256"]:
                    yield place

    def changed_tokenizer(self, recipe: Recipe, manifest: Mapping[str, Any]) -> Iterator[str]:
        """The tokenizer's folder or the template's file, if a training used another content; hub names are pinned."""
        model, data = recipe.model, recipe.data
        folder, file = model.tokenizer or model.name, data.chat_template
        used, used_template = manifest.get("tokenizer"), manifest["data"].get("chat_template_sha256")
        if used is None or not (Path(folder).is_dir() or (file and Path(file).is_file())):
            return
        named = manifest.get("recipe", {}).get("model.new_tokens", model.new_tokens)
        model = model.model_copy(update={"new_tokens": tuple(named) if isinstance(named, list) else named})
        now = self._now(recipe.model_copy(update={"model": model}), manifest["data"].get("date"))
        if now is None:
            return
        if now[0] != used and _has_these_libraries(manifest):
            yield f"the tokenizer of {folder}"
        if used_template is not None and now[1] != used_template:
            yield file or f"the chat template of {folder}"

    def _now(self, recipe: Recipe, date: str | None) -> tuple[str, str] | None:
        """Digests of tokenizer and chat template, the template's date fixed to this one; None if they are gone."""
        key = repr((recipe.model, recipe.data, date))
        if key not in self._known:
            day = datetime.date.fromisoformat(date) if date else datetime.date.today()
            self._known[key] = None
            with suppress(TunelabError), rendered_on(day):
                tokenizer = load_recipe_tokenizer(recipe)
                self._known[key] = tokenizer_fingerprint(tokenizer), template_digest(tokenizer)
        return self._known[key]


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
    return sum(path.stat().st_size for path in Path(local_model(name)).glob("*.safetensors"))
