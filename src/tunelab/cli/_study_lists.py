"""What `tunelab study` lists: the studies that ship, and the jobs of one study."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import console, print_data, print_table, say
from tunelab.cli._json import disk_usage_document, jobs_document, print_json, studies_document
from tunelab.config.shipped_studies import shipped_studies
from tunelab.errors import UsageError
from tunelab.units import UNKNOWN, format_bytes, format_duration

if TYPE_CHECKING:
    from tunelab.config.study import Study
    from tunelab.records.cells import Cell
    from tunelab.studies.toy_model import Toy


def show_shipped_studies(arguments: argparse.Namespace) -> int:
    """Name, title and needs of each study that ships, on stdout. Raises UsageError if a study is named."""
    from tunelab.config.study import load_study

    if arguments.file is not None:
        raise UsageError(f"study list takes no {arguments.file}", f"to run it: tunelab study run {arguments.file}")
    found = [(shipped, load_study(shipped.path).title) for shipped in shipped_studies()]
    if arguments.json:
        return print_json(studies_document(found))
    width = console(sys.stdout).width
    for shipped, title in found:
        print_data(shipped.name)
        for text in (title, f"needs: {shipped.needs}"):
            print_data(textwrap.indent(textwrap.fill(text, width - 2, break_on_hyphens=False), "  "))
    small = ", ".join(shipped.name for shipped in shipped_studies() if shipped.has_small_scale)
    say(f"with a real model of 135M, --scale small: {small}")
    say("run one: tunelab study run NAME; its jobs first: --dry-run")
    return 0


def _time_they_take(jobs: int, known: Sequence[float], rough: Sequence[float]) -> str:
    """What the jobs will take: `known` from similar jobs, `rough` from sizes and the speed of this machine."""
    if not known and not rough:
        return ""
    left = jobs - len(known) - len(rough)
    unknown = f", {left} of unknown time" if left else ""
    sources = ["similar jobs"] if known else []
    if rough:
        sources.append("the model's size, the rows and this machine's speed (to a factor of about 2)")
    return f"; about {format_duration(sum(known) + sum(rough))}{unknown}, estimated from {' and '.join(sources)}"


def _trainings(study: Study, cells: Sequence[Cell]) -> str:
    """How many trainings a study with a search or budgets takes: known trials, those that an edge may add, and the
    final ones, at how many budgets.
    """
    from tunelab.records.choices import most_tries

    tries = sum(cell.lr is not None for cell in cells)
    final = sum(cell.lr is None and not cell.benchmark for cell in cells)
    budgets = [budget.words for budget in study.trained_at]
    at = f" at {len(budgets)} budgets ({', '.join(budgets)}), each with a whole schedule of its own" if budgets else ""
    if study.search is None:
        return f"{final} trainings{at}"
    more = max(0, most_tries(study) - tries)
    edges = f", and up to {more} more while a best learning rate is at an edge" if more else ""
    of = f" at the largest budget, {budgets[-1]}" if budgets else ""
    trials = f"{tries} trials of learning rates{of}{edges}"
    return f"{tries + final} trainings: {trials}; then {final} with the rates chosen{at}"


def show_status(arguments: argparse.Namespace) -> int:
    """The jobs in a study's directory with their status, time and memory so far, and why some failed."""
    from tunelab.records.cells import read_study
    from tunelab.records.disk_usage import disk_usage

    folder = _directory(arguments)
    _, cells = read_study(folder)
    usage = disk_usage(folder, cells)
    if arguments.json:
        return print_json({**jobs_document(cells), **disk_usage_document(usage)})
    rows = []
    for cell in cells:
        time = format_duration(cell.seconds) if cell.seconds else UNKNOWN
        memory = UNKNOWN if cell.memory_bytes is None else format_bytes(cell.memory_bytes)
        rows.append([cell.title, cell.status, time, memory, cell.key])
    print_table(["job", "status", "time", "peak memory", "key"], rows)
    print_data("")
    print_table(
        ["disk usage", "size", "free with"],
        [[one.kind, format_bytes(one.bytes), one.freed_by or UNKNOWN] for one in usage],
    )
    counts = Counter(cell.status for cell in cells)
    say(f"{len(cells)} jobs: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    for cell in cells:
        if cell.status == "failed":
            say(f"failed: {cell.title}: {cell.error}")
    return 0


def clean_study(arguments: argparse.Namespace) -> int:
    """Remove the checkpoints of a study's finished trainings, and say how much that frees."""
    from tunelab.records.cells import read_study
    from tunelab.records.disk_usage import free_checkpoints

    folder = _directory(arguments)
    _, cells = read_study(folder)
    freed = free_checkpoints(folder, cells, dry_run=arguments.dry_run)
    if arguments.json:
        return print_json({"would_free_bytes" if arguments.dry_run else "freed_bytes": freed})
    say(f"{'would free' if arguments.dry_run else 'freed'} {format_bytes(freed)}: checkpoints of finished trainings")
    return 0


def _directory(arguments: argparse.Namespace) -> Path:
    if arguments.file is None:
        raise UsageError("no study's directory given", "give the directory that `tunelab study run` made")
    return Path(arguments.file)


def show_jobs(study: Study, out: Path, toys: Sequence[Toy], *, as_json: bool = False) -> int:
    """The jobs of a study with their status, expected time and memory: a table on stdout, a summary on stderr.

    Returns the exit code: 1 if something that the jobs need is missing; it is named. Toys are not written yet.
    """
    from tunelab.records.cells import known_cells
    from tunelab.records.expected_costs import expected_costs
    from tunelab.studies.benchmark_overlaps import study_overlaps
    from tunelab.studies.predicted_memory import predicted_memory
    from tunelab.studies.requirements import missing
    from tunelab.studies.rough_time import RoughTime, rough_time

    cells = known_cells(study, out)
    expected = expected_costs(cells)
    to_run = [cell for cell in cells if cell.key in expected]
    lacks = missing(study, to_run, out, to_be_made={str(toy.folder) for toy in toys})
    if as_json:
        print_json(jobs_document(cells, [f"{problem.path}: {problem.message}" for problem in lacks]))
        return 1 if lacks else 0
    open_cells = [cell for cell in to_run if expected[cell.key].seconds is None]
    rough = RoughTime({}, []) if toys or lacks else rough_time(study, open_cells)
    predicted = {} if toys or lacks else predicted_memory(study, open_cells)
    rows = []
    for cell in cells:
        cost = expected.get(cell.key, cell)
        seconds = rough.seconds.get(cell.key, cost.seconds)
        time = UNKNOWN if seconds is None else format_duration(seconds)
        peak = predicted.get(cell.key, cost.memory_bytes)
        memory = UNKNOWN if peak is None else format_bytes(peak)
        rows.append([cell.title, cell.status, time, memory, cell.key])
    print_table(["job", "status", "time", "peak memory", "key"], rows)
    known = [one.seconds for one in expected.values() if one.seconds is not None]
    time = _time_they_take(len(expected), known, list(rough.seconds.values()))
    say(f"{len(cells)} jobs, {len(expected)} to run{time}")
    for why in rough.unknown:
        say(f"unknown time: {why}")
    if predicted:
        say("peak memory of trainings that never ran: predicted for steps that fill train.micro_batch_tokens")
    if study.search is not None or study.trained_at:
        say(_trainings(study, cells))
    if not toys and not lacks and to_run and (overlaps := study_overlaps(study, out, keep=False)) is not None:
        for sentence in overlaps.sentences:
            say(sentence)
    for problem in lacks:
        say(f"missing: {problem.path}: {problem.message}" + (f"\n  {problem.hint}" if problem.hint else ""))
    return 1 if lacks else 0
