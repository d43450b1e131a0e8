"""Compare two runs, or a run with its base, item by item: differences with confidence intervals.

Examples:
  tunelab compare runs/full runs/lora
  tunelab compare runs/lora
  tunelab compare runs/full runs/lora --out full-and-lora
  tunelab compare runs/lora --benchmarks mmlu --metrics brier,calibration_error
  tunelab compare evaluations/FIRST evaluations/SECOND --allow-diff template

Both must have been evaluated on the same benchmarks with the same protocol (tunelab eval RUN --benchmarks mmlu,ifeval),
or on the same held-out rows (tunelab eval RUN): completion loss, BLEU, ROUGE-L. One run is compared with its base.
--out writes the same report as a study: report.html (one file, no network), report.md, report.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._comparison_table import show_comparisons
from tunelab.cli._console import say
from tunelab.cli._json import add_json_flag, comparisons_document, print_json
from tunelab.cli._words import comma_separated
from tunelab.errors import UsageError

if TYPE_CHECKING:
    from tunelab.comparison.compare_runs import Compared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One or two runs or evaluation folders."""
    parser.add_argument("words", nargs="+", metavar="RUN", help="run directory or evaluation folder")
    parser.add_argument("--benchmarks", "--tasks", metavar="NAMES", help="comma-separated, also held-out; default: all")
    parser.add_argument("--metrics", metavar="NAMES", help="comma-separated, besides the headline metric: brier, ...")
    parser.add_argument("--allow-diff", metavar="KEYS", help="comma-separated settings that may differ: template, ...")
    parser.add_argument("--common-items-only", action="store_true", help="ignore items that only one of them has")
    parser.add_argument("--flips", action="store_true", help="list the items that only one of them gets right")
    parser.add_argument("--out", metavar="DIR", help="write the report (HTML, Markdown, JSON) into this directory")
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print the numbers and the verdicts, and write the report if --out is given."""
    if len(arguments.words) > 2:
        raise UsageError(f"{len(arguments.words)} runs given", "give two, or one to compare with its base")
    from tunelab.comparison.compare_runs import compared
    from tunelab.studies.comparison_report import report_folder

    out = report_folder(arguments.out) if arguments.out else None
    found = compared(
        *arguments.words,
        benchmarks=comma_separated(arguments.benchmarks),
        metrics=comma_separated(arguments.metrics),
        allow_diff=comma_separated(arguments.allow_diff),
        common_items_only=arguments.common_items_only,
    )
    if not arguments.json:
        show_comparisons(found.comparisons, flips=arguments.flips)
    for said in found.remarks:
        say(said)
    if out:
        _write_report(found, out)
    else:
        say("for costs, settings and answers side by side, add --out DIR")
    return print_json(comparisons_document(found.comparisons)) if arguments.json else 0


def _write_report(found: Compared, folder: Path) -> None:
    from tunelab.cli.report import REPORT, write_pages
    from tunelab.report.content import write_report
    from tunelab.studies.comparison_report import report_of

    report = report_of(found)
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder / REPORT, report)
    say(f"report: {write_pages(report, folder)}")
