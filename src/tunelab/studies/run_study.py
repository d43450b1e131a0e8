"""The story of a study: every cell is run once, what failed is written down, and one report is made of all.

Cells are keyed by what they are made of (cells.py): what two arms share runs once, and a study that was stopped goes on
at the cell, the step and the response where it stood. Where cells run is an executor's: here, on Ray, on Slurm.
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

#: Share of items that one of two arms alone answers right, as it is assumed before anything is known.
DISCORDANT = 0.2


def run_study(
    study: Study,
    out: Path | str,
    *,
    executor: str = "here",
    options: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> list[Cell]:
    """Run every cell that is not done yet; gives all of them as they then stand.

    A cell that fails (out of memory, a model that may not be had) is recorded with its error, what needs it too, and
    the rest goes on; the next call tries it again.

    Args:
        executor: where cells run: "here", "ray", "slurm", or a .py file of one's own (studies/executors/_executor.py).
        options: of the executor, by its own names.

    Raises:
        UsageError: there is no such executor, or it has no such option.
        RunError: the directory holds another study.
        Interrupted: Ctrl-C; what was made is kept, and the same call goes on.
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
    """What the study's comparisons will be able to show, in a sentence a benchmark, before anything runs.

    At the level that Holm's correction asks of its smallest p. For figures of right and wrong under an assumption: that
    DISCORDANT of the items are answered right by one of two arms alone. For held-out rows in deviations of the rows'
    differences, since how much rows differ is not known beforehand.
    """
    family = max(1, len(study.comparisons))
    design = f"power 80 %, {family} comparison{'s' if family > 1 else ''}"
    said = []
    for name, options in study.benchmarks.items():
        items = _held_out_rows(study) if name == HELD_OUT else _items(name, options.get("limit"))
        if items is None or items < 2:
            said.append(f"{name}: how many items there are is not known beforehand, nor what they can show")
        elif name == HELD_OUT:
            smallest = detectable_effect(items, alpha=0.05 / family)
            deviations = f"{smallest:.2g} standard deviations of the rows' differences or more"
            said.append(f"{name}: {items:,} rows can show a difference of {deviations} ({design})")
        else:
            share = detectable_accuracy_difference(items, DISCORDANT, alpha=0.05 / family)
            shown = "no difference whatever" if share is None else f"differences of {100 * share:.1f} points or more"
            assumed = f"if {DISCORDANT:.0%} of items are right in one arm alone"
            said.append(f"{name}: {items:,} items can show {shown} ({design}, {assumed})")
    return said


def _items(benchmark: str, limit: int | None) -> int | None:
    size = plugins.load(BENCHMARKS, benchmark).BENCHMARK.size
    return min((count for count in (limit, size) if count), default=None)


def _held_out_rows(study: Study) -> int | None:
    """Rows that all arms are measured on; None where they are a share of data that was not read yet."""
    recipe = study.arm_recipe(next(iter(study.arms)), study.seeds[0])
    held_out = recipe.data.held_out
    rows = int(held_out) if held_out >= 1 else None
    return min((count for count in (rows, recipe.evaluate.limit) if count), default=None)
