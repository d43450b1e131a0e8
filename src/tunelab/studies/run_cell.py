"""Run one cell of a study in this process and record it; everything it needs is in the study's directory."""

from __future__ import annotations

import gc
import json
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunelab import plugins
from tunelab.allowed_code import Allowed, allow_copy, allowed_code, only_allowed
from tunelab.config import Recipe
from tunelab.config.questions import HELD_OUT
from tunelab.config.study import OF_EVERY_BENCHMARK, Study
from tunelab.config.types import shown
from tunelab.data.template_date import rendered_on
from tunelab.errors import SAME_COMMAND, Interrupted, RunError, TrainingError
from tunelab.files import read_json, write_text_atomically, write_text_once
from tunelab.progress import Progress, named, silent
from tunelab.records.cells import (
    RECORDS,
    Cell,
    asked_study,
    budgets_of_arm,
    evaluation_key,
    first_day,
    keep_cell,
    known_cell,
    own_template,
    read_cell,
    read_study,
    trained_study,
    training_key,
)
from tunelab.records.choices import try_recipe
from tunelab.records.runs import Run, open_run, remove_checkpoints, remove_weights
from tunelab.studies.study_trackers import tracked_evaluation
from tunelab.training.tracked_run import in_group

#: Peak in bytes, and how much of it the process had before the job began; None = of an accelerator, or unknown.
Memory = tuple[int, int | None]


#: In the study's directory: what `auto` became, for all of its jobs.
RESOLVED = "resolved.json"


def run_cell(
    folder: Path | str, job: Cell | str, *, allowed: Allowed | None = None, progress: Progress = silent
) -> Cell:
    """Run or resume a cell of the study in a directory, and write its record.

    A cell that fails (out of memory, a gated model, an evaluation whose training failed) is recorded as failed with its
    error; the traceback is next to the record (`cells/KEY.txt`).

    Args:
        job: the cell as the study has it; or its key: without a record, all of the study's cells are looked through.
        allowed: the code that the study may run (allowed_code.py), in a process of its own; None = what this one may.
            What the study's directory names does not add to it.

    Returns:
        The cell, done or failed; a cell that is already done is not run again.

    Raises:
        RunError: there is no study, or it has no such cell.
        Interrupted: Ctrl-C; finished work is kept, and the same call resumes.
    """
    folder = Path(folder)
    study, cell = _study_and_cell(folder, job)
    if cell.status == "done":
        return cell
    if cell.status == "waiting":
        keep_cell(folder, cell)  # what runs in it finds its own record, and need not look through the study's jobs
    _import_what_cells_use()
    began = time.monotonic()
    memory: list[Memory] = [] if cell.memory_bytes is None else [(cell.memory_bytes, cell.start_memory_bytes)]
    try:
        day = rendered_on(first_day(folder))
        with day, only_allowed(allowed_code() if allowed is None else allowed, is_closed=True):
            stage = named(progress, cell.title.removesuffix(": training"))
            if cell.lr is not None:
                cell = _try(cell, folder, memory, stage)
            else:
                cell = _with_inputs(study, cell)
                made = _make(study, cell, folder, memory, stage)
                cell = replace(cell, status="done", error="", folder=str(made.relative_to(folder)))
    except (Interrupted, KeyboardInterrupt) as stop:
        keep_cell(folder, replace(cell, seconds=cell.seconds + time.monotonic() - began))
        why = stop.message if isinstance(stop, Interrupted) else "stopped; finished work is kept"
        # The hint of a run on its own resumes that run alone.
        raise Interrupted(f"{cell.title}: {why}", f"{SAME_COMMAND} to resume") from None
    except Exception as error:
        cell = replace(cell, status="failed", error=f"{type(error).__name__}: {error}")
        (folder / RECORDS).mkdir(exist_ok=True)
        write_text_atomically(folder / RECORDS / f"{cell.key}.txt", traceback.format_exc())
    seconds = cell.seconds + time.monotonic() - began
    peak, start = max(memory, key=lambda one: one[0], default=(None, None))
    cell = replace(cell, seconds=seconds, memory_bytes=peak, start_memory_bytes=start)
    keep_cell(folder, cell)
    _free_memory()
    return cell


def _study_and_cell(folder: Path, job: Cell | str) -> tuple[Study, Cell]:
    """The study as it is trained, and one of its cells with its status."""
    if isinstance(job, Cell):
        study = trained_study(folder)
        return study, known_cell(study, job, folder)
    record = read_cell(folder, job)
    if record is not None and record.lr is None:  # what trials there are follows from the results of others
        study = trained_study(folder)
        if job == _key(study, record):
            return study, known_cell(study, record, folder)
    study, cells = read_study(folder)
    for cell in cells:
        if cell.key == job:
            return study, cell
    raise RunError(f"{folder}: the study has no job {job}", "`tunelab study run ... --dry-run` lists its jobs")


def _key(study: Study, cell: Cell) -> str:
    """The key that a study gives to the job of a record; "" = it has no such arm, seed, budget or benchmark."""
    seed = study.seeds[0] if cell.seed is None else cell.seed
    if cell.arm not in study.arms or seed not in study.seeds or cell.budget not in budgets_of_arm(study, cell.arm):
        return ""
    study = study.at(cell.budget)
    if not cell.benchmark:
        return training_key(study, cell.arm, seed) if study.arms[cell.arm].tuned else ""
    return evaluation_key(study, cell.arm, seed, cell.benchmark) if cell.benchmark in study.benchmarks else ""


def _try(cell: Cell, folder: Path, memory: list[Memory], progress: Progress) -> Cell:
    """Train at a trial's rate, on validation rows alone; what diverges is a result as well. No weights are kept."""
    asked = asked_study(folder)
    recipe = _in_dtype_of_study(asked, try_recipe(asked, cell.arm, cell.lr or 0.0), folder)
    place = folder / "runs" / cell.key
    if place.exists() and not Run(place).is_done and not Run(place).tokenizer.exists():
        shutil.rmtree(place)  # it diverged, and a kill came between the removal of its weights and its record
    error, loss = "", None
    try:
        run = _train(in_group(asked, recipe), place, progress, measures_held_out=False)
        memory.append(run.peak_memory)
        loss = run.manifest["validation_loss_after"]
    except TrainingError as stop:
        if not stop.diverged:
            raise
        error = stop.message
    _clear(remove_weights, Run(place), progress)
    return replace(cell, status="done", error=error, folder=str(place.relative_to(folder)), validation_loss=loss)


def _with_inputs(study: Study, cell: Cell) -> Cell:
    """An evaluation of a model that is not tuned, with what it reads: no manifest says it."""
    from tunelab.studies.unchanged import untuned_inputs, untuned_recipe

    if not cell.benchmark or cell.needs:
        return cell
    return replace(cell, inputs=untuned_inputs(untuned_recipe(study, cell)))


def _make(study: Study, cell: Cell, folder: Path, memory: list[Memory], progress: Progress) -> Path:
    """Run the cell and return the path of its result; appends its peak memory to `memory`."""
    from tunelab.preparation.model import compute_device
    from tunelab.training.meter import Meter

    study = study.at(cell.budget)
    seed = study.seeds[0] if cell.seed is None else cell.seed
    recipe = _in_dtype_of_study(study, study.arm_recipe(cell.arm, seed), folder)
    if not cell.benchmark:
        run = _train(in_group(study, recipe), folder / "runs" / cell.key, progress)
        memory.append(run.peak_memory)
        if study.remove_checkpoints:
            _clear(remove_checkpoints, run, progress)
        return run.path
    run_of_cell = None
    if cell.needs:
        training = read_cell(folder, cell.needs)
        if training is None or training.status != "done":
            status = "has not run" if training is None else training.status
            raise RunError(f"its training {status}", "run the study again")
        run_of_cell = open_run(folder / training.folder)
        if recipe.model.trust_remote_code and run_of_cell.model.exists():
            _allow_code_of_trained(recipe, run_of_cell)
    with tracked_evaluation(study, cell, folder, recipe) as log_scores:
        meter = Meter(compute_device(recipe))
        try:
            made = _evaluate(study, cell, recipe, run_of_cell, folder, progress)
        finally:
            cost = meter.read()
            memory.append((cost.gpu_peak, None) if cost.gpu_peak else (cost.resident_peak, cost.resident_start))
        log_scores(made)
    return made


def _clear(remove: Callable[[Run], None], run: Run, progress: Progress) -> None:
    """Remove files of a run that is done; what cannot be removed is said: the job's result does not depend on it."""
    try:
        remove(run)
    except OSError as error:
        progress("could not be removed", 1, 1, str(error))


def _allow_code_of_trained(recipe: Recipe, run: Run) -> None:
    """The weights that this study trained come with a copy of their base's code, which may run where that may."""
    from huggingface_hub import snapshot_download

    name = recipe.model.name
    source = Path(name) if Path(name).is_dir() else None
    allow_copy(
        run.model, name, source or Path(snapshot_download(name, revision=recipe.model.revision, allow_patterns="*.py"))
    )


def _in_dtype_of_study(study: Study, recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with `train.dtype: auto` as the study's first job resolved it, on whatever machine this one runs."""
    from tunelab.models.load import DTYPES
    from tunelab.preparation.model import with_dtype

    if recipe.train.dtype != "auto":
        return recipe
    path = folder / RESOLVED
    if not path.exists():
        write_text_once(path, json.dumps({"train.dtype": _dtype_of_all(study)}) + "\n")  # the first job's stays
    dtype = read_json(path).get("train.dtype")
    if dtype not in DTYPES:
        raise RunError(
            f"{path}: train.dtype is {shown(dtype)}, expected one of {', '.join(DTYPES)}", "restore it from a copy"
        )
    return with_dtype(recipe.model_copy(update={"train": recipe.train.model_copy(update={"dtype": dtype})}))


def _dtype_of_all(study: Study) -> str:
    """What `train.dtype: auto` is on this machine for every arm that has it; fp32 where that differs, as it does
    between models with checkpoints in 16 and in 32 bits: results are compared at one dtype."""
    from tunelab.preparation.model import compute_dtype

    recipes = [study.arm_recipe(arm, study.seeds[0]) for arm in study.arms]
    found = {compute_dtype(recipe) for recipe in recipes if recipe.train.dtype == "auto"}
    return found.pop() if len(found) == 1 else "fp32"


def _import_what_cells_use() -> None:
    """Import before the clock starts, so that the first cell is not charged for it."""
    import tunelab.answering.benchmark_responses
    import tunelab.answering.held_out_evaluation
    import tunelab.training.finetune  # noqa: F401


def _free_memory() -> None:
    """Free this cell's memory for the next cell of this process, also after it ran out of memory."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()  # does nothing if CUDA was never used


def _train(recipe: Recipe, path: Path, progress: Progress, *, measures_held_out: bool = True) -> Run:
    from tunelab.training.finetune import finetune, resume

    if Run(path).recipe_file.exists():
        if not Run(path).is_done:
            resume(path, measures_held_out=measures_held_out, progress=progress)
    else:
        changed = recipe.model_copy(update={"out": str(path)})
        finetune(changed, measures_held_out=measures_held_out, progress=progress)
    return open_run(path)


def _evaluate(study: Study, cell: Cell, recipe: Recipe, run: Run | None, folder: Path, progress: Progress) -> Path:
    arm = "base" if run is None else "tuned"
    if cell.benchmark == HELD_OUT:
        from tunelab.answering.held_out_evaluation import evaluate, evaluate_model

        if run is not None:
            return evaluate(run, settings=recipe.evaluate, arms=("tuned",), progress=progress).folders[arm]
        return evaluate_model(recipe, out=folder / "evaluations", progress=progress).folders[arm]
    from tunelab.answering.benchmark_responses import evaluate_benchmarks
    from tunelab.answering.benchmark_settings import BenchmarkSettings

    given = study.benchmarks[cell.benchmark]
    common: dict[str, Any] = {key: given[key] for key in OF_EVERY_BENCHMARK if key in given}
    if run is None:
        template = tuple(f"{key}={json.dumps(value)}" for key, value in own_template(study, cell.arm).items())
        common |= {"out": folder / "evaluations", "changes": (*_changes(recipe), *template)}
    options = {plugins.label(cell.benchmark): study.own_options(cell.benchmark)}
    settings = BenchmarkSettings(options=options, arms=(arm,), **common)
    subject: Run | str = run if run is not None else recipe.model.name
    (found,) = evaluate_benchmarks(subject, [cell.benchmark], settings, progress=progress)
    return found.arms[arm].scores_path.parent


def _changes(recipe: Recipe) -> tuple[str, ...]:
    """The keys of an arm's recipe that affect an untuned model, as command-line overrides."""
    model, precision = recipe.model, recipe.precision.model_dump(mode="json")
    values: dict[str, Any] = {"precision": precision}
    values |= {"train.dtype": recipe.train.dtype, "train.device": recipe.train.device}
    values |= {"model.revision": model.revision, "model.tokenizer": model.tokenizer}
    values |= {"model.trust_remote_code": model.trust_remote_code}
    if recipe.data.date is not None and _writes_date(recipe):
        values["data.date"] = recipe.data.date
    return tuple(f"{key}={json.dumps(value)}" for key, value in values.items())


def _writes_date(recipe: Recipe) -> bool:
    """Whether the chat template of the recipe's model, in which an untuned model is asked, writes a date of its own."""
    from tunelab.data.template_date import fixed_date, writes_date
    from tunelab.preparation.tokenizer import load_recipe_tokenizer

    own = recipe.model_copy(update={"data": recipe.data.model_copy(update={"chat_template": None})})
    template = load_recipe_tokenizer(own, keep_date=True).chat_template
    template = template.get("default") if isinstance(template, dict) else template
    return writes_date(template) and fixed_date(template) is None
