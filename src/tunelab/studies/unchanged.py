"""What done jobs of a study read of this machine, and whether it is still the same: rows, code, models, adapters,
tokenizers, chat templates. The manifest of a training says it; the job's record, where no model was tuned.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunelab.allowed_code import code_hashes
from tunelab.config import Recipe
from tunelab.config.questions import HELD_OUT
from tunelab.config.study import Study
from tunelab.data.template_date import day_of_rendering, rendered_on
from tunelab.errors import ConfigError, Problem, TunelabError
from tunelab.files import file_sha256, read_json
from tunelab.models.digest import adapter_hash
from tunelab.models.gguf.reading import is_local_model, local_model
from tunelab.models.load import tokenizer_fingerprint, weights_digest
from tunelab.preparation.base import template_digest
from tunelab.preparation.start import adapter_folder
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.records.cells import Cell, own_template
from tunelab.records.environment import environment
from tunelab.records.evaluation_files import SCORES
from tunelab.records.runs import Run

#: Libraries whose versions write a tokenizer's JSON, by which it is compared.
WRITERS = ("tokenizers", "transformers")


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
            for place in _changed_since(study, cell, folder / cell.folder, digests, now):
                remedy = "restore it, or run the study in another directory (--out)"
                problem = Problem(f"arms.{cell.arm}", f"{place} has changed since the job {cell.title!r}", remedy)
                found.setdefault(place, problem)
    if found:
        raise ConfigError("before the first job", list(found.values()))


def _changed_since(
    study: Study, cell: Cell, folder: Path, digests: Callable[[Path], str], now: _AsNow
) -> Iterator[str]:
    """The files and folders of a recipe that are no longer what a done job used; what is gone or not known is none."""
    recipe = study.arm_recipe(cell.arm, study.seeds[0] if cell.seed is None else cell.seed)
    name, used = recipe.model.name, None
    code: Mapping[str, str] = {}
    if not cell.benchmark and Run(folder).manifest_file.exists():
        manifest = Run(folder).manifest
        used, code = manifest["model"].get("weights_sha256"), manifest.get("code", {})
        yield from _changed_inputs(recipe, manifest, digests, now)
    elif cell.benchmark and (folder / SCORES).exists():
        scores = read_json(folder / SCORES)
        used, code = None if cell.needs else scores["header"].get("model"), scores.get("code", {})
        if cell.inputs is not None:
            yield from _changed_inputs(untuned_recipe(study, cell), cell.inputs, digests, now)
    yield from (file for file, known in code.items() if code_hashes(file).get(file, known) != known)
    if used is not None and used.startswith("sha256:"):
        with suppress(TunelabError):  # it is gone: a job that needs it says so
            if is_local_model(Path(name)) and weights_digest(Path(local_model(name))) != used:
                yield name


def _changed_inputs(
    recipe: Recipe, manifest: Mapping[str, Any], digests: Callable[[Path], str], now: _AsNow
) -> Iterator[str]:
    """The rows, configuration, adapter, tokenizer and chat template that are not those of a manifest."""
    for source, record in zip(recipe.data.sources, manifest["data"]["sources"], strict=False):
        known = record.get("identity", "")
        path = Path(source.path or "")
        if known.startswith("sha256:") and path.is_file() and known != f"sha256:{digests(path)}":
            yield str(path)
    yield from _changed_config(recipe.model.name, manifest)
    yield from now.changed_start(recipe, manifest)
    yield from now.changed_tokenizer(recipe, manifest)


def _changed_config(name: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    file, known = Path(name) / "config.json", manifest["model"].get("config_sha256")
    if known is not None and file.is_file() and file_sha256(file) != known:
        yield str(file)


def _has_these_libraries(manifest: Mapping[str, Any]) -> bool:
    """Whether a training had today's versions of what writes a tokenizer as JSON, by which it is compared."""
    sessions: list[dict[str, Any]] = manifest.get("sessions") or [{}]
    used, own = sessions[-1].get("environment", {}).get("libraries", {}), environment()["libraries"]
    return all(used.get(name, own[name]) == own[name] for name in WRITERS)


def untuned_recipe(study: Study, cell: Cell) -> Recipe:
    """The recipe of an evaluation of a model that is not tuned: benchmarks prompt it in a template of the arm's own,
    if it sets one, and not in the one that the study trains in."""
    recipe = study.arm_recipe(cell.arm, study.seeds[0])
    if cell.benchmark == HELD_OUT:
        return recipe
    own = own_template(study, cell.arm)
    data = recipe.data.model_copy(update={"chat_template": own.get("data.chat_template"), "sources": ()})
    model = recipe.model.model_copy(update={"new_tokens": own.get("model.new_tokens")})
    return recipe.model_copy(update={"data": data, "model": model})


def untuned_inputs(recipe: Recipe) -> dict[str, Any]:
    """What such an evaluation reads of this machine besides weights, by digest, as a run's manifest has it.

    Args:
        recipe: of untuned_recipe().

    Raises:
        ModelError: the tokenizer cannot be loaded.
    """
    config = Path(recipe.model.name) / "config.json"
    files = [Path(source.path or "") for source in recipe.data.sources]
    data: dict[str, Any] = {"date": day_of_rendering().isoformat()}
    data["sources"] = [{"identity": f"sha256:{file_sha256(file)}"} if file.is_file() else {} for file in files]
    found: dict[str, Any] = {"model": {}, "data": data}
    if config.is_file():
        found["model"]["config_sha256"] = file_sha256(config)
    if _has_local_tokenizer(recipe):
        tokenizer = load_recipe_tokenizer(recipe)
        found["tokenizer"] = tokenizer_fingerprint(tokenizer)
        data["chat_template_sha256"] = template_digest(tokenizer)
    libraries = {name: environment()["libraries"][name] for name in WRITERS}
    return {**found, "sessions": [{"environment": {"libraries": libraries}}]}


def _has_local_tokenizer(recipe: Recipe) -> bool:
    """Whether tokenizer or chat template are files on this machine; a hub name is pinned."""
    file = recipe.data.chat_template
    return Path(recipe.model.tokenizer or recipe.model.name).is_dir() or bool(file and Path(file).is_file())


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
        if used is None or not _has_local_tokenizer(recipe):
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
