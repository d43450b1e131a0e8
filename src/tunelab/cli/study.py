"""Train and evaluate every arm of a study and write one report; resumes an interrupted study.

Examples:
  tunelab study init study.yaml --model distilgpt2 --data rows.jsonl
  tunelab study list
  tunelab study run distilgpt2-qlora-vs-full --dry-run
  tunelab study run distilgpt2-qlora-vs-full --scale small --out first
  tunelab study run study.yaml --scale tiny --model my-small-model --out tried
  tunelab study run study.yaml --executor slurm --option partition=gpu
  tunelab study status first --json

`init` writes a study's file, `list` shows the studies that ship and what each needs, `status` the jobs in a study's
directory and its disk usage, `clean` removes the checkpoints of finished trainings. Jobs that are done are not run
again. The exit code is 1 if a job failed: the report says which.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import progress_bar, quick_imports, say
from tunelab.cli._json import add_json_flag
from tunelab.cli._recipe_arguments import add_code_argument, add_study_flags, check_arms_follow, study_changes
from tunelab.cli._study_flags import refuse_flags_of_other_words
from tunelab.cli._study_init import add_init_arguments, init_study
from tunelab.cli._study_lists import clean_study, show_jobs, show_shipped_studies, show_status
from tunelab.cli._words import option_pairs
from tunelab.config.shipped_studies import study_file
from tunelab.errors import UsageError

if TYPE_CHECKING:
    from tunelab.studies.toy_model import Toy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`run` with a study and options, `status` and `clean` with a directory, or `list`."""
    parser.add_argument("what", choices=("init", "run", "list", "status", "clean"), help="see above")
    study = "a YAML file (init: to write), or a study that ships; for status and clean: a study's directory"
    parser.add_argument("file", nargs="?", metavar="STUDY", help=study)
    parser.add_argument("--out", metavar="DIR", help="study directory (default: study-NAME)")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs, run nothing; clean: remove nothing")
    scale = "small: 135M, few rows; tiny: a smoke test on toys, offline"
    parser.add_argument("--scale", choices=("full", "small", "tiny"), default="full", help=scale)
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", help="override a key; model=NAME: of all arms")
    parser.add_argument("--executor", default="here", metavar="NAME", help="where jobs run: here, ray or slurm")
    parser.add_argument("--option", metavar="KEY=VALUE", action="append", help="of the executor; a wrong one lists all")
    add_code_argument(parser)
    add_study_flags(parser)
    add_init_arguments(parser)
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """List the studies that ship, or the jobs of one; or load a study, run it, render its report."""
    refuse_flags_of_other_words(arguments)
    others = {"init": init_study, "list": show_shipped_studies, "status": show_status, "clean": clean_study}
    if other := others.get(arguments.what):
        return other(arguments)
    if arguments.json and not arguments.dry_run:
        raise UsageError("study run --json needs --dry-run", "report.json in the study's directory has the results")
    if arguments.file is None or not study_file(arguments.file).is_file():
        what = "no study given" if arguments.file is None else f"{arguments.file}: no such study"
        raise UsageError(what, "give the path of a study YAML file, or a name that `tunelab study list` shows")
    from tunelab.config.study import load_study

    changes = (*study_changes(arguments), *(arguments.set or ()))
    study = load_study(arguments.file, changes, scale=arguments.scale)
    check_arms_follow(study, arguments)
    out = Path(arguments.out or f"study-{Path(arguments.file).stem}-{arguments.scale}".removesuffix("-full"))
    with quick_imports():
        from tunelab.studies.run_study import checked_study, foreseen, load_executor, run_study

    options = option_pairs(arguments.option)
    load_executor(arguments.executor, options)
    study = checked_study(study)
    toys: list[Toy] = []
    if arguments.scale == "tiny":
        from tunelab.studies.tiny_scale import at_tiny_scale

        study, toys = at_tiny_scale(study, out, changes)
    for sentence in [study.note] * bool(study.note) + ([] if arguments.scale == "tiny" else foreseen(study)):
        say(sentence)
    if arguments.dry_run:
        return show_jobs(study, out, toys, as_json=arguments.json)
    from tunelab.cli.report import report_study
    from tunelab.studies.study_trackers import log_report

    for toy in toys:
        toy.write()
    with progress_bar() as progress:
        cells = run_study(study, out, executor=arguments.executor, options=options, progress=progress, notify=say)
    report_study(out)
    failed = [cell for cell in cells if cell.status == "failed"]
    for cell in failed:
        say(f"failed: {cell.title}: {cell.error}")
    log_report(out)
    return 1 if failed else 0
