"""Train and evaluate every arm of a study and write one report; resumes an interrupted study.

Examples:
  tunelab study run studies/distilgpt2-qlora-vs-full.yaml --dry-run
  tunelab study run studies/distilgpt2-qlora-vs-full.yaml --out studies/first
  tunelab study run study.yaml --scale tiny --set model=my-small-model --out tried
  tunelab study run study.yaml --executor slurm --option partition=gpu --option gpus_per_node=1

Jobs that are done are not run again. The exit code is 1 if a job failed: the report says which.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import print_table, progress_bar, say
from tunelab.errors import UsageError
from tunelab.units import format_bytes, format_duration

if TYPE_CHECKING:
    from tunelab.config.study import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`run`, the study file, and options."""
    parser.add_argument("what", choices=("run",), help="run: run every job that is not done")
    parser.add_argument("file", metavar="STUDY.yaml")
    parser.add_argument("--out", metavar="DIR", help="study directory (default: study-NAME)")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs, run nothing")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full", help="tiny: the study's `tiny` settings")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", help="override a key; model=NAME: of all arms")
    parser.add_argument("--executor", default="here", metavar="NAME", help="where jobs run: here, ray or slurm")
    parser.add_argument("--option", metavar="KEY=VALUE", action="append", help="of the executor; a wrong one lists all")


def run(arguments: argparse.Namespace) -> int:
    """Load the study, run it, render its report."""
    from tunelab.config.study import load_study

    if not Path(arguments.file).is_file():
        raise UsageError(f"{arguments.file}: no such study", "give the path of a study YAML file")
    study = load_study(arguments.file, arguments.set or (), tiny=arguments.scale == "tiny")
    tiny = "-tiny" if arguments.scale == "tiny" else ""
    out = Path(arguments.out or f"study-{Path(arguments.file).stem}{tiny}")
    _say_foreseen(study)
    if arguments.dry_run:
        return _list_cells(study, out)
    from tunelab.cli.report import report_study
    from tunelab.studies.run_study import run_study
    from tunelab.studies.study_trackers import log_report

    if tiny:
        from tunelab.studies.toy_model import with_toy_models

        study = with_toy_models(study, out)
    with progress_bar() as progress:
        cells = run_study(study, out, executor=arguments.executor, options=_pairs(arguments.option), progress=progress)
    report_study(out)
    failed = [cell for cell in cells if cell.status == "failed"]
    for cell in failed:
        say(f"failed: {cell.title}: {cell.error}")
    log_report(out)
    return 1 if failed else 0


def _pairs(words: list[str] | None) -> dict[str, str]:
    pairs = [word.partition("=") for word in words or ()]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise UsageError(f"--option {name}: expected KEY=VALUE", "for example --option workers=2")
    return {name: value for name, _, value in pairs}


def _list_cells(study: Study, out: Path) -> int:
    from tunelab.records.cells import expected_costs, known_cells

    cells = known_cells(study, out)
    expected = expected_costs(cells)
    rows = []
    for cell in cells:
        cost = expected.get(cell.key, cell)
        time = "-" if cost.seconds is None else format_duration(cost.seconds)
        memory = "-" if cost.memory_bytes is None else format_bytes(cost.memory_bytes)
        rows.append([cell.title, cell.status, time, memory, cell.key])
    print_table(["job", "status", "time", "peak memory", "key"], rows)
    known = [one.seconds for one in expected.values() if one.seconds is not None]
    unknown = f", {len(expected) - len(known)} of unknown time" if len(known) < len(expected) else ""
    took = f"; about {format_duration(sum(known))}{unknown}, estimated from similar jobs" if known else ""
    say(f"{len(cells)} jobs, {len(expected)} to run{took}")
    return 0


def _say_foreseen(study: Study) -> None:
    from tunelab.studies.run_study import foreseen

    for sentence in foreseen(study):
        say(sentence)
