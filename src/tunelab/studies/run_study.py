"""How a study runs: each cell (a job, in what users read) runs once, failures are recorded, one report covers all.

A cell's key is a hash of its inputs (cells.py): arms share the cells they have in common, and an interrupted study
resumes at the same cell, step and response. An executor runs the cells: here, on Ray or on Slurm.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from tunelab import plugins
from tunelab.allowed_code import allow_python_files
from tunelab.answering.benchmark_items import evenly_limited
from tunelab.config import with_code_allowed
from tunelab.config.questions import HELD_OUT
from tunelab.config.study import Study, as_study
from tunelab.errors import ConfigError, Problem, RunError, UsageError
from tunelab.evaluation.benchmark_files import is_items_file, load_benchmark, read_items
from tunelab.files import as_path
from tunelab.notebook import said_in_notebooks, shown_in_notebooks
from tunelab.progress import Progress
from tunelab.records.cells import Cell, keep_cell, keep_choices, keep_study, known_cells, known_choices
from tunelab.scoring.read_responses import checked_options
from tunelab.statistics.power import detectable_accuracy_difference, detectable_effect
from tunelab.studies.foreseen_margins import foreseen_margins, wrong_margins
from tunelab.studies.setting_warnings import setting_warnings
from tunelab.units import format_measured, format_number, format_share

EXECUTORS = "studies/executors"

#: Assumed fraction of items that only one of two arms answers right, before there are results.
DISCORDANT = 0.2


def run_study(
    study: Study | Mapping[str, Any] | Path | str,
    out: Path | str,
    *,
    executor: str = "here",
    options: Mapping[str, str] | None = None,
    progress: Progress = shown_in_notebooks,
    notify: Callable[[str], None] = said_in_notebooks,
) -> list[Cell]:
    """Run all cells that are not done; returns all cells with their status.

    What the cells need is checked before the first one. A cell that fails (out of memory) is recorded with its error,
    as are the cells that need it; the others run. The next call retries it.

    Args:
        study: its object, a mapping, or a YAML file's path.
        executor: "here", "ray", "slurm", or your own .py file (studies/executors/_executor.py).
        options: executor options by name.
        notify: called with sentences for a person: training rows that share text with items of the benchmarks.

    Raises:
        UsageError: unknown executor or benchmark, or unknown option of the executor.
        ConfigError: an option of a benchmark is wrong, or lists all that is missing: data files, models, benchmarks,
            trackers, disk space; or what has changed since jobs were done: data files, local models.
        DataError: a file of items cannot be used.
        RunError: the directory contains another study, or another process runs it.
        Interrupted: Ctrl-C; finished work is kept, and the same call resumes.
    """
    study = as_study(study)
    folder, chosen = as_path(out, "out"), dict(options or {})
    module = load_executor(executor, chosen)
    study = checked_study(study)
    from tunelab.studies.benchmark_overlaps import study_overlaps
    from tunelab.studies.requirements import check_requirements
    from tunelab.studies.unchanged import check_unchanged

    cells = known_cells(study, folder)
    waiting = [cell for cell in cells if cell.status != "done"]
    check_unchanged(study, cells, folder)
    check_requirements(study, waiting, folder)
    with _alone(folder):
        keep_study(study, folder)
        if waiting and (overlaps := study_overlaps(study, folder, progress)) is not None:
            for sentence in overlaps.sentences:
                notify(sentence)
        for wave in waves(study, folder):
            module.run_cells(folder, wave, chosen, progress)
    return known_cells(study, folder)


def load_executor(name: str, options: Mapping[str, str]) -> ModuleType:
    """The module of an executor, if it has all of these options.

    Raises:
        UsageError: it has not, or there is no such executor.
    """
    allow_python_files([name])
    module = plugins.load(EXECUTORS, name)
    if strange := [option for option in options if option not in module.OPTIONS]:
        known = "; ".join(f"{option}: {what}" for option, what in module.OPTIONS.items())
        raise UsageError(f"{name} has no option {strange[0]!r}", f"known: {known}")
    return module


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock a study's directory: a second process would record as failed what the first is doing.

    Raises:
        RunError: another process runs the study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another process runs this study", "wait for it, or stop it") from None
        yield


def waves(study: Study, folder: Path) -> Iterator[list[Cell]]:
    """The cells to run, wave by wave: trials until every arm has its learning rate, then all others.

    The next wave follows from the records that the last one left. Each cell is in one wave only: a trial that failed
    leaves its arm without a rate, and the arm's cells are recorded as failed.
    """
    given: set[str] = set()
    while tries := [cell for cell in _open(study, folder) if cell.lr is not None and cell.key not in given]:
        keep_choices(study, folder)
        given |= {cell.key for cell in tries}
        yield tries
    keep_choices(study, folder)
    without = {arm for arm, choice in known_choices(study, folder).items() if choice.lr is None}
    others = [cell for cell in _open(study, folder) if cell.lr is None]
    for cell in others:
        if cell.arm in without:
            why = "no learning rate was chosen for it: a trial failed"
            keep_cell(folder, replace(cell, status="failed", error=why))
    if ready := [cell for cell in others if cell.arm not in without]:
        yield ready


def _open(study: Study, folder: Path) -> list[Cell]:
    return [cell for cell in known_cells(study, folder) if cell.status != "done"]


def checked_study(study: Study) -> Study:
    """The study with its benchmarks checked before anything runs; a file of items is pinned to its present content.

    So a changed file makes new evaluations, and is refused while the study runs.

    Raises:
        UsageError, ConfigError, DataError: as run_study() does.
    """
    allow_python_files(study.benchmarks)
    if problems := [*_keys_without_effect(study), *wrong_margins(study)]:
        raise ConfigError("study", problems)
    for arm in study.arms:
        with_code_allowed(study.arm_recipe(arm, study.seeds[0]))
    benchmarks = dict(study.benchmarks)
    for name, given in study.benchmarks.items():
        if name == HELD_OUT:
            continue
        module = load_benchmark(name)
        options = checked_options(module, plugins.label(name), study.own_options(name))
        if is_items_file(name):
            _, pinned = read_items(name, module, options)
            benchmarks[name] = {**given, "sha256": pinned.model_dump()["sha256"]}
    return study.model_copy(update={"benchmarks": benchmarks})


def _keys_without_effect(study: Study) -> Iterator[Problem]:
    """Keys of recipes that a study sets itself."""
    remedies = {
        "train.seed": f"omit it; the study's seeds train each arm once per seed: seeds: {list(study.seeds)}",
        "out": "omit it; --out names the study's directory, which has the runs",
    }
    trees = {"recipe": study.recipe, **{f"arms.{name}.recipe": arm.recipe for name, arm in study.arms.items()}}
    for place, tree in trees.items():
        for key, remedy in remedies.items():
            section, _, name = key.rpartition(".")
            values = tree.get(section) if section else tree
            if isinstance(values, Mapping) and values.get(name) is not None:
                yield Problem(f"{place}.{key}", "has no effect in a study", remedy)


def foreseen(study: Study) -> list[str]:
    """The smallest differences that the study can detect, one sentence per benchmark, and what questions with a margin
    need, before anything runs; and settings that would decide in place of the methods.

    At the level that Holm's correction requires of the smallest p of the questions' comparisons. For right-or-wrong
    items, assumes that a fraction DISCORDANT of them is answered right by only one of two arms. For held-out rows, in
    standard deviations of the paired differences, whose size is not known beforehand; for texts the same, over their
    domains.
    """
    family = max(1, len(study.asked or study.comparisons))
    design = f"at 80 % power, {family} comparison{'s' if family > 1 else ''}"
    said = []
    domains = {name: None if name == HELD_OUT else _domains(study, name) for name in study.benchmarks}
    counts = {name: _held_out_rows(study) if name == HELD_OUT else _items(study, name) for name in study.benchmarks}
    for name, items in counts.items():
        items = domains[name] or items
        if items is None or items < 2:
            said.append(f"{name}: the number of items, and so the detectable difference, is not known yet")
        elif name == HELD_OUT or domains[name]:
            effect = detectable_effect(items, alpha=0.05 / family)
            said.append(f"{name}: {_foreseen_effect(items, 'domains' if domains[name] else 'rows', effect, design)}")
        else:
            share = detectable_accuracy_difference(items, DISCORDANT, alpha=0.05 / family)
            said.append(f"{name}: {_foreseen_share(items, share, design)}")
    warned = [f"warning: {one}" for one in setting_warnings(study)]
    return [*said, *foreseen_margins(study, counts, DISCORDANT), *warned]


def _foreseen_effect(units: int, what: str, effect: float | None, design: str) -> str:
    if effect is None:
        return f"no result can be significant with {units} {what} ({design})"
    deviations = f"{format_measured(effect, 'standard deviation')} of the paired differences"
    return f"{units:,} {what}, minimum detectable difference {deviations} ({design})"


def _foreseen_share(items: int, share: float | None, design: str) -> str:
    if share is None:
        return f"no result can be significant with {items} items ({design})"
    assumed = f"if {format_share(DISCORDANT, 0)} of items are right in only one arm"
    points = format_number(100 * share, 1)
    return f"{items:,} items, minimum detectable difference {points} points ({design}, {assumed})"


def _domains(study: Study, benchmark: str) -> int | None:
    """The domains of a benchmark that measures texts, its independent units; None for any other."""
    module = load_benchmark(benchmark)
    if module.BENCHMARK.kind != "text":
        return None
    options = checked_options(module, plugins.label(benchmark), study.own_options(benchmark))
    items = evenly_limited(read_items(benchmark, module, options)[0], study.benchmarks[benchmark].get("limit"))
    return len({item.cluster for item in items})


def _items(study: Study, benchmark: str) -> int | None:
    module = load_benchmark(benchmark)
    size = module.BENCHMARK.size
    if is_items_file(benchmark) or module.BENCHMARK.kind == "text":
        options = checked_options(module, plugins.label(benchmark), study.own_options(benchmark))
        size = len(read_items(benchmark, module, options)[0])
    return min((count for count in (study.benchmarks[benchmark].get("limit"), size) if count), default=None)


def _held_out_rows(study: Study) -> int | None:
    """Rows that all arms are evaluated on; None if they are a fraction of data that was not read yet."""
    recipe = study.arm_recipe(next(iter(study.arms)), study.seeds[0])
    held_out = recipe.data.held_out
    rows = int(held_out) if held_out >= 1 else None
    return min((count for count in (rows, recipe.evaluate.limit) if count), default=None)
