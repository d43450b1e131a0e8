"""A study's cells: each training and each evaluation once, keyed by its inputs, with its status.

A cell is a training (an arm with a seed), an evaluation (an arm with a seed on a benchmark), or a trial (a training
that helps to choose an arm's learning rate). A study's directory holds `study.json` and one record per cell
(`cells/KEY.json`), so that no two machines write to the same file. `choices.json` is written from the trials' records.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from tunelab.config.budgets import Budget
from tunelab.config.questions import HELD_OUT
from tunelab.config.renamed import recipe_as_before, study_renamed
from tunelab.config.study import Study, parse_study
from tunelab.data.select import are_sampled_apart
from tunelab.errors import RunError
from tunelab.failures import explained
from tunelab.files import read_json, write_json_atomically
from tunelab.records.asked import ASKED_FILE, keep_asked
from tunelab.records.choices import (
    DIGITS,
    Choice,
    Loss,
    Losses,
    choices,
    rates_to_try,
    try_recipe,
    with_rates,
)
from tunelab.records.evaluation_files import SCORES
from tunelab.records.old_format import stamped, unstamped
from tunelab.records.runs import now
from tunelab.units import format_significant

STUDY_FILE, CREATED_FILE, CHOICES_FILE, RECORDS = "study.json", "created.json", "choices.json", "cells"

#: Begins the keys of trials.
TRY = "try-"

Status = Literal["waiting", "done", "failed"]

#: Trackers do not change a run's result.
_NOT_OF_A_TRAINING: dict[str, Any] = {
    "out": True,
    "evaluate": True,
    "train": {"trackers", "tracker_project", "tracker_group"},
}


@dataclass(frozen=True)
class Cell:
    """One job of a study.

    Args:
        key: hash of its inputs, and the name of its record.
        arm: the first arm that needs it.
        seed: None = nothing in it depends on a seed.
        benchmark: "" = training.
        needs: key of the training that it evaluates; "" = none.
        error: why it failed.
        seconds: total time over all sessions.
        memory_bytes: peak memory of the accelerator (of the process on a CPU); None = unknown.
        start_memory_bytes: how much of it the process had before the job; None = of an accelerator, or unknown.
        folder: its output, relative to the study's directory.
        lr: of a trial, the learning rate that it tries.
        validation_loss: of a trial that is done, in nats per token; None = it diverged, as `error` says.
        inputs: of a model that is not tuned: digests of what it reads besides weights, as in a manifest.
        budget: of a tuned arm, how long it is trained (of a trial, the study's largest); None = as its recipe says.
    """

    key: str
    arm: str
    seed: int | None
    benchmark: str
    needs: str = ""
    status: Status = "waiting"
    error: str = ""
    seconds: float = 0.0
    memory_bytes: int | None = None
    folder: str = ""
    start_memory_bytes: int | None = None
    lr: float | None = None
    validation_loss: float | None = None
    budget: Budget | None = None
    inputs: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        """The displayed name: "lora, seed 0: mmlu", "lora, 2 epochs, seed 0: mmlu", "lora, lr 0.0002: trial"."""
        if self.lr is not None:
            return f"{self.arm}, lr {format_significant(self.lr, DIGITS)}: trial"
        seed = "" if self.seed is None else f", seed {self.seed}"
        budget = "" if self.budget is None else f", {self.budget.words}"
        return f"{self.arm}{budget}{seed}: {self.benchmark or 'training'}"


def cells_of(study: Study) -> list[Cell]:
    """All cells, each once, in execution order: an arm's training, then its evaluations; the smallest budget first.

    Raises:
        ConfigError: an arm's recipe is wrong.
    """
    found: dict[str, Cell] = {}
    for arm in study.arms:
        for budget in budgets_of_arm(study, arm):
            for seed in seeds_of(study, arm):
                for cell in _cells_of_training(study.at(budget), arm, budget, seed):
                    found.setdefault(cell.key, cell)
    return list(found.values())


def _cells_of_training(study: Study, arm: str, budget: Budget | None, seed: int) -> Iterator[Cell]:
    """A training and its evaluations; the evaluations alone of a model that is not tuned."""
    key, tuned = training_key(study, arm, seed), study.arms[arm].tuned
    if tuned:
        yield Cell(key, arm, seed, "", budget=budget)
    for benchmark in study.benchmarks:
        one = evaluation_key(study, arm, seed, benchmark)
        yield Cell(one, arm, seed if tuned else None, benchmark, key if tuned else "", budget=budget)


def budgets_of_arm(study: Study, arm: str) -> tuple[Budget | None, ...]:
    """The budgets that an arm is trained at, the largest last; (None,) = as its recipe says, or not at all."""
    return (study.trained_at if study.arms[arm].tuned else ()) or (None,)


def seeds_of(study: Study, arm: str) -> tuple[int, ...]:
    """The seeds of an arm: a single one for a model that is not tuned."""
    return study.seeds if study.arms[arm].tuned else study.seeds[:1]


def training_key(study: Study, arm: str, seed: int) -> str:
    """Key of an arm's weights: its whole recipe and seed, or only the model if nothing is trained."""
    recipe = study.arm_recipe(arm, seed)
    if study.arms[arm].tuned:
        return "train-" + _hash(_of_recipe(recipe.model_dump(mode="json", exclude=_NOT_OF_A_TRAINING)))
    precision = recipe.precision.model_dump(mode="json")
    computing = {"dtype": recipe.train.dtype, "device": recipe.train.device}
    model = recipe_as_before({"model": recipe.model.model_dump(mode="json")})["model"]
    return "model-" + _hash({"model": model, "precision": precision, **computing})


def evaluation_key(study: Study, arm: str, seed: int, benchmark: str) -> str:
    """Key of an arm's evaluation on a benchmark."""
    made_of: dict[str, Any] = {"weights": training_key(study, arm, seed), "options": study.benchmarks[benchmark]}
    recipe = study.arm_recipe(arm, seed)
    if benchmark == HELD_OUT:
        made_of |= _of_recipe(recipe.model_dump(mode="json", include={"data", "evaluate"}))
    else:
        made_of["template"] = recipe.data.template if study.arms[arm].tuned else None
        if recipe.data.date is not None:  # of a model that is not tuned: the key of a training covers it
            made_of["date"] = recipe.data.date
        if own := own_template(study, arm):
            made_of["own_template"] = own
    return f"{Path(benchmark).stem}-{_hash({**made_of, 'benchmark': benchmark})}"


def own_template(study: Study, arm: str) -> dict[str, Any]:
    """The template that an arm which is not tuned sets itself, as recipe keys: benchmarks prompt it in that one.

    Without, they prompt a model that is not tuned as its tokenizer does, whatever template the study trains in.
    """
    one = study.arms[arm]
    data = one.recipe.get("data")
    given = data if not one.tuned and isinstance(data, Mapping) else {}
    own = {f"data.{name}": given[name] for name in ("template", "chat_template") if given.get(name) is not None}
    new_tokens = study.arm_recipe(arm, study.seeds[0]).model.new_tokens if own else None
    return own if new_tokens is None else {**own, "model.new_tokens": new_tokens}


def known_cells(study: Study, folder: Path) -> list[Cell]:
    """The study's cells, with the status stored in the directory: trials first, then those of the rates they chose.

    The cells of an arm without a rate so far are those of its own rate.
    """
    return _cells_by_losses(study, folder, recorded_losses(study, folder))


def _cells_by_losses(study: Study, folder: Path, losses: Losses) -> list[Cell]:
    """A record says how a job went, the study what it is: since then an arm may have been renamed, or its name given to
    another one.
    """
    chosen = with_rates(study, choices(study, losses))
    return [known_cell(study, cell, folder) for cell in (*tries_of(study, losses), *cells_of(chosen))]


def known_cell(study: Study, cell: Cell, folder: Path) -> Cell:
    """One of the study's cells, with the status stored in the directory."""
    record = read_cell(folder, cell.key)
    if record is None:
        return cell
    if cell.benchmark == HELD_OUT and record.status == "done" and not _has_own_limit(study, cell, record, folder):
        record = replace(record, status="waiting")
    return replace(
        record,
        key=cell.key,
        arm=cell.arm,
        seed=cell.seed,
        benchmark=cell.benchmark,
        needs=cell.needs,
        lr=cell.lr,
        budget=cell.budget,
    )


def _has_own_limit(study: Study, cell: Cell, record: Cell, folder: Path) -> bool:
    """Whether the scores of held-out rows in a done job's folder are its own: evaluations with other limits share the
    folder, so that no answer is generated twice, and the last one's scores are in it. Those of before do not say.
    """
    path = folder / record.folder / SCORES
    found = read_json(path) if path.exists() else {}
    own = study.arm_recipe(cell.arm, study.seeds[0]).evaluate.limit
    return found.get("limit", own) == own


def tries_of(study: Study, losses: Losses) -> list[Cell]:
    """The trials that are known to be needed by now, each once."""
    found: dict[str, Cell] = {}
    seed = study.search.seed if study.search else None
    for arm, rates in rates_to_try(study, losses).items():
        for lr in rates:
            key = try_key(study, arm, lr)
            found.setdefault(key, Cell(key, arm, seed, "", lr=lr, budget=budgets_of_arm(study, arm)[-1]))
    return list(found.values())


def try_key(study: Study, arm: str, lr: float) -> str:
    """Key of a trial: the arm's whole recipe with this rate and the search's seed."""
    recipe = try_recipe(study, arm, lr)
    return TRY + _hash(_of_recipe(recipe.model_dump(mode="json", exclude=_NOT_OF_A_TRAINING)))


def recorded_losses(study: Study, folder: Path) -> Losses:
    """The losses of a study's trials, from their records, each of which is read once."""

    @cache
    def loss(arm: str, lr: float) -> Loss:
        cell = read_cell(folder, try_key(study, arm, lr))
        if cell is None or cell.status == "waiting":
            return "waiting"
        if cell.status == "failed":
            return "failed"
        return math.inf if cell.validation_loss is None else cell.validation_loss

    return loss


def known_choices(study: Study, folder: Path) -> dict[str, Choice]:
    """Tuned arm -> its learning rate and the trials that choose it; empty without a search."""
    return choices(study, recorded_losses(study, folder))


def keep_choices(study: Study, folder: Path) -> None:
    """Write choices.json for people and other programs; tunelab itself reads the trials' records."""
    if study.search is not None:
        found = {arm: choice.to_json() for arm, choice in known_choices(study, folder).items()}
        write_json_atomically(folder / CHOICES_FILE, found)


_RECORD = TypeAdapter(Cell)


def read_cell(folder: Path, key: str) -> Cell | None:
    """A cell's record; None if there is none yet.

    Raises:
        RunError: a later version of tunelab wrote it, or it is damaged.
    """
    path = folder / RECORDS / f"{key}.json"
    if not path.exists():
        return None
    content, _ = unstamped(read_json(path), path)
    with explained(f"{path}: not the record of a job", RunError, "remove it: the job then runs again"):
        cell = _RECORD.validate_python(content)
        if not all(map(math.isfinite, (cell.seconds, cell.lr or 0.0, cell.validation_loss or 0.0))):
            raise ValueError("expected finite numbers")
        return cell


def keep_cell(folder: Path, cell: Cell) -> None:
    """Write a cell's record."""
    (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    write_json_atomically(folder / RECORDS / f"{cell.key}.json", stamped(asdict(cell)))


def keep_study(study: Study, folder: Path) -> None:
    """Write a study into its directory, created if needed: its settings, its start time and its id.

    Raises:
        RunError: the directory contains another study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STUDY_FILE
    if path.exists() and unstamped(read_json(path), path)[0].get("title") != study.title:
        raise RunError(f"{folder}: contains another study", "choose another directory with --out")
    if not (folder / CREATED_FILE).exists():
        write_json_atomically(folder / CREATED_FILE, {"created": now(), "id": uuid.uuid4().hex})
    _keep_questions(study, folder)
    write_json_atomically(path, stamped(study.model_dump(mode="json", by_alias=True)))


def _keep_questions(study: Study, folder: Path) -> None:
    """Write down what is asked before the first evaluation is done; of an earlier study, what it had asked by then."""
    done = [path for path in (folder / RECORDS).glob("*.json") if _is_result(folder, path.stem)]
    if not done:
        keep_asked(study.questions, folder)
    elif not (folder / ASKED_FILE).exists() and (folder / STUDY_FILE).exists():
        keep_asked(read_study(folder)[0].questions, folder)


def _is_result(folder: Path, key: str) -> bool:
    cell = read_cell(folder, key)
    return cell is not None and cell.status == "done" and bool(cell.benchmark)


def began_at(folder: Path) -> str:
    """When the study in a directory began: UTC, ISO 8601.

    Raises:
        RunError: the directory does not say.
    """
    found = read_json(folder / CREATED_FILE).get("created")
    try:
        datetime.fromisoformat(str(found))
    except ValueError:
        raise RunError(
            f"{folder / CREATED_FILE}: created: expected a date, got {found!r}", "restore it from a copy"
        ) from None
    return str(found)


def first_day(folder: Path) -> date:
    """The date (UTC) on which the study in a directory began: the one that its chat templates write.

    Raises:
        RunError: the directory does not say.
    """
    return datetime.fromisoformat(began_at(folder)).date()


def read_study(folder: Path | str) -> tuple[Study, list[Cell]]:
    """The study in a directory as it is trained, each arm with the rate that was chosen for it; and its cells.

    Raises:
        RunError: there is none, or a later version of tunelab wrote it.
    """
    study, place = asked_study(folder), Path(folder)
    losses = recorded_losses(study, place)
    return with_rates(study, choices(study, losses)), _cells_by_losses(study, place, losses)


def trained_study(folder: Path | str) -> Study:
    """The study of read_study(), without its cells, of which each has a record to be read.

    Raises:
        RunError: as read_study() does.
    """
    study = asked_study(folder)
    return with_rates(study, known_choices(study, Path(folder)))


def asked_study(folder: Path | str) -> Study:
    """The study in a directory as it was asked for.

    Raises:
        RunError: as read_study() does.
    """
    path = Path(folder) / STUDY_FILE
    if not path.exists():
        raise RunError(
            f"{folder}: no study there (no {STUDY_FILE})",
            "give the directory that `tunelab study run` or `tunelab compare --out` wrote",
        )
    tree, version = unstamped(read_json(path), path)
    return parse_study(study_renamed(tree) if version == 1 else tree, str(path), is_asked=False)


def _of_recipe(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What the key of a job has of a recipe: its keys of format 1, and a mark where these now choose other rows."""
    found = recipe_as_before(tree)
    if are_sampled_apart([source["size"] for source in tree["data"]["sources"]]):
        found["sources"] = "sampled apart"
    return found


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
