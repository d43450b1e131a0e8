"""How a study runs: each cell (a job, in what users read) runs once, failures are recorded, one report covers all.

A cell's key is a hash of its inputs (cells.py): arms share the cells they have in common, and an interrupted study
resumes at the same cell, step and response. An executor runs the cells: here, on Ray or on Slurm.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tunelab import plugins
from tunelab.config.study import HELD_OUT, Study
from tunelab.errors import UsageError
from tunelab.progress import Progress, silent
from tunelab.records.cells import Cell, keep_study, known_cells
from tunelab.statistics.power import detectable_accuracy_difference, detectable_effect

BENCHMARKS, EXECUTORS = "evaluation/benchmarks", "studies/executors"

#: Assumed fraction of items that only one of two arms answers right, before there are results.
DISCORDANT = 0.2


def run_study(
    study: Study,
    out: Path | str,
    *,
    executor: str = "here",
    options: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> list[Cell]:
    """Run all cells that are not done; returns all cells with their status.

    A cell that fails (out of memory, a gated model) is recorded with its error, as are the cells that need it; the
    others run. The next call retries it.

    Args:
        executor: "here", "ray", "slurm", or your own .py file (studies/executors/_executor.py).
        options: executor options by name.

    Raises:
        UsageError: unknown executor, or unknown option of it.
        RunError: the directory contains another study.
        Interrupted: Ctrl-C; finished work is kept, and the same call resumes.
    """
    folder, chosen = Path(out), dict(options or {})
    module = plugins.load(EXECUTORS, executor)
    if strange := [name for name in chosen if name not in module.OPTIONS]:
        known = "; ".join(f"{name}: {what}" for name, what in module.OPTIONS.items())
        raise UsageError(f"{executor} has no option {strange[0]!r}", f"known: {known}")
    keep_study(study, folder)
    waiting = [cell for cell in known_cells(study, folder) if cell.status != "done"]
    if waiting:
        module.run_cells(folder, waiting, chosen, progress)
    return known_cells(study, folder)


def foreseen(study: Study) -> list[str]:
    """The smallest differences that the study can detect, one sentence per benchmark, before anything runs.

    At the level that Holm's correction requires of the smallest p. For right-or-wrong items, assumes that a fraction
    DISCORDANT of them is answered right by only one of two arms. For held-out rows, in standard deviations of the
    paired differences, whose size is not known beforehand.
    """
    family = max(1, len(study.comparisons))
    design = f"power 80 %, {family} comparison{'s' if family > 1 else ''}"
    said = []
    for name, options in study.benchmarks.items():
        items = _held_out_rows(study) if name == HELD_OUT else _items(name, options.get("limit"))
        if items is None or items < 2:
            said.append(f"{name}: the number of items, and so the detectable difference, is not known yet")
        elif name == HELD_OUT:
            smallest = detectable_effect(items, alpha=0.05 / family)
            deviations = f"{smallest:.2g} standard deviations of the paired differences or more"
            said.append(f"{name}: {items:,} rows can show a difference of {deviations} ({design})")
        else:
            share = detectable_accuracy_difference(items, DISCORDANT, alpha=0.05 / family)
            shown = "no difference" if share is None else f"differences of {100 * share:.1f} points or more"
            assumed = f"if {DISCORDANT:.0%} of items are right in only one arm"
            said.append(f"{name}: {items:,} items can show {shown} ({design}, {assumed})")
    return said


def _items(benchmark: str, limit: int | None) -> int | None:
    size = plugins.load(BENCHMARKS, benchmark).BENCHMARK.size
    return min((count for count in (limit, size) if count), default=None)


def _held_out_rows(study: Study) -> int | None:
    """Rows that all arms are evaluated on; None if they are a fraction of data that was not read yet."""
    recipe = study.arm_recipe(next(iter(study.arms)), study.seeds[0])
    held_out = recipe.data.held_out
    rows = int(held_out) if held_out >= 1 else None
    return min((count for count in (rows, recipe.evaluate.limit) if count), default=None)
