"""What `tunelab study` lists: the studies that ship, and the jobs of one study."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import console, print_data, print_table, say
from tunelab.config.shipped_studies import shipped_studies
from tunelab.units import UNKNOWN, format_bytes, format_duration

if TYPE_CHECKING:
    from tunelab.config.study import Study
    from tunelab.records.cells import Cell
    from tunelab.studies.toy_model import Toy


def show_shipped_studies() -> None:
    """Name, title and needs of each study that ships, on stdout."""
    from tunelab.config.study import load_study

    width = console(sys.stdout).width
    for shipped in shipped_studies():
        print_data(shipped.name)
        for text in (load_study(shipped.path).title, f"needs: {shipped.needs}"):
            print_data(textwrap.indent(textwrap.fill(text, width - 2, break_on_hyphens=False), "  "))
    say("run one: tunelab study run NAME; its jobs first: --dry-run")


def _trainings(study: Study, cells: Sequence[Cell]) -> str:
    """How many trainings a search takes: known tries, those that an edge may add, and the final ones."""
    from tunelab.records.choices import most_tries

    tries = sum(cell.lr is not None for cell in cells)
    final = sum(cell.lr is None and not cell.benchmark for cell in cells)
    more = max(0, most_tries(study) - tries)
    edges = f", and up to {more} more while a best learning rate is at an edge" if more else ""
    return f"{tries + final} trainings: {tries} tries of learning rates{edges}; then {final} with the rates chosen"


def show_jobs(study: Study, out: Path, toys: Sequence[Toy]) -> int:
    """The jobs of a study with their status, expected time and memory: a table on stdout, a summary on stderr.

    Returns the exit code: 1 if something that the jobs need is missing; it is named. Toys are not written yet.
    """
    from tunelab.records.cells import expected_costs, known_cells
    from tunelab.studies.requirements import missing

    cells = known_cells(study, out)
    expected = expected_costs(cells)
    rows = []
    for cell in cells:
        cost = expected.get(cell.key, cell)
        time = UNKNOWN if cost.seconds is None else format_duration(cost.seconds)
        memory = UNKNOWN if cost.memory_bytes is None else format_bytes(cost.memory_bytes)
        rows.append([cell.title, cell.status, time, memory, cell.key])
    print_table(["job", "status", "time", "peak memory", "key"], rows)
    known = [one.seconds for one in expected.values() if one.seconds is not None]
    unknown = f", {len(expected) - len(known)} of unknown time" if len(known) < len(expected) else ""
    took = f"; about {format_duration(sum(known))}{unknown}, estimated from similar jobs" if known else ""
    say(f"{len(cells)} jobs, {len(expected)} to run{took}")
    if study.search is not None:
        say(_trainings(study, cells))
    to_run = [cell for cell in cells if cell.key in expected]
    lacks = missing(study, to_run, out, to_be_made={str(toy.folder) for toy in toys})
    for problem in lacks:
        say(f"missing: {problem.path}: {problem.message}" + (f"\n  {problem.hint}" if problem.hint else ""))
    return 1 if lacks else 0
