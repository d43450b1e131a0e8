"""Compare two runs, or a run with its base, item by item: differences with confidence intervals.

Examples:
  tunelab compare runs/full runs/lora
  tunelab compare runs/lora
  tunelab compare runs/full runs/lora --out full-and-lora
  tunelab compare evaluations/FIRST evaluations/SECOND --allow-diff template

Both must have been evaluated on the same benchmarks with the same protocol (tunelab eval RUN --benchmarks mmlu,ifeval),
or on the same held-out rows (tunelab eval RUN): completion loss, BLEU, ROUGE-L. One run is compared with its base.
--out writes the same report as a study: report.html (one file, no network), report.md, report.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import print_table, say
from tunelab.cli._json import add_json_flag, comparisons_document, print_json
from tunelab.cli._words import comma_separated
from tunelab.errors import UsageError

if TYPE_CHECKING:
    from tunelab.comparison.compare_runs import Compared
    from tunelab.comparison.paired_comparison import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One or two runs or evaluation folders."""
    parser.add_argument("words", nargs="+", metavar="RUN", help="run directory or evaluation folder")
    parser.add_argument("--benchmarks", "--tasks", metavar="NAMES", help="comma-separated, also held-out; default: all")
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
        allow_diff=comma_separated(arguments.allow_diff),
        common_items_only=arguments.common_items_only,
    )
    if not arguments.json:
        _show(found.comparisons, flips=arguments.flips)
    for said in found.not_seen:
        say(said)
    if out:
        _write_report(found, out)
    else:
        say("for costs, settings and answers side by side, add --out DIR")
    return print_json(comparisons_document(found.comparisons)) if arguments.json else 0


def _show(found: list[Comparison], *, flips: bool) -> None:
    from tunelab.comparison.verdict import verdict

    rows = []
    for one in found:
        shown = [one.benchmark, one.metric.replace("_", " "), f"{one.a_value:.4f}", f"{one.b_value:.4f}"]
        shown += [f"{one.difference:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}"]
        rows.append([*shown, f"{one.p if one.p_holm is None else one.p_holm:.2g}", f"{one.n:,}"])
    p = "p" if len(found) == 1 else f"p (Holm over {len(found)})"
    named = [found[0].a_name, found[0].b_name, "difference", "95 % interval", p, "items"]
    print_table(["benchmark", "metric", *named], rows)
    said: set[tuple[str, str]] = set()
    for one in found:
        say(f"{one.benchmark}, {one.metric.replace('_', ' ')}: {verdict(one)}")
        for key, (a, b) in one.differing.items():
            of_the_model = key.split(".")[0] in ("model_name", "revision", "model", "weights", "adapter", "arm")
            if not of_the_model and (one.benchmark, key) not in said:
                say(f"  {key} differs: {a} and {b}")
                said.add((one.benchmark, key))
        if flips and one.gained is not None and one.lost is not None:
            flipped = [*([item, one.b_name] for item in one.gained), *([item, one.a_name] for item in one.lost)]
            print_table(["item", "only right in"], flipped)


def _write_report(found: Compared, folder: Path) -> None:
    from tunelab.cli.report import REPORT, write_pages
    from tunelab.report.content import write_report
    from tunelab.studies.comparison_report import report_of

    report = report_of(found)
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder / REPORT, report)
    say(f"report: {write_pages(report, folder)}")
