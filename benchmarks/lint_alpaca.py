"""What `tunelab lint` finds in alpaca-cleaned (51,941 rows), and what it costs, by check.

Usage: python benchmarks/lint_alpaca.py [--data ../shared/data] [--size N]

Reads alpaca/alpaca_cleaned.json and the tokenizer of models/tinystories656k in that folder, prepares the rows, and
times each check on them. The table counts rows; whether a row is a false positive is for a reader to judge: three of
each are printed to stderr. Writes benchmarks/results/DATE-lint-alpaca.md.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from datetime import date
from pathlib import Path

from measuring import RESULTS

from tunelab.config import as_recipe, resolve
from tunelab.linting import lint as checks
from tunelab.linting.finding import found_by
from tunelab.linting.rows import LintedRows
from tunelab.preparation import linted
from tunelab.preparation.rows import fit_to_model, lint_rows, prepare_with
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.progress import Progress, silent
from tunelab.units import format_bytes, format_duration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--size", type=int)
    arguments = parser.parse_args()
    source = {"name": "auto", "path": str(arguments.data / "alpaca" / "alpaca_cleaned.json")}
    tree = {
        "model": str(arguments.data / "models" / "tinystories656k"),
        "data": {"sources": [source], "size": arguments.size},
    }
    recipe = resolve(as_recipe(tree, {}))
    tokenizer = load_recipe_tokenizer(recipe)
    recipe = fit_to_model(recipe, tokenizer)
    began = time.process_time()
    data = prepare_with(tokenizer, recipe)
    prepared = time.process_time() - began
    lines: list[str] = []

    def timed(rows: LintedRows, progress: Progress = silent) -> checks.Lint:
        for check in checks.CHECKS:
            began = time.process_time()
            finding = found_by(check, rows)
            took = time.process_time() - began
            count = finding.count if finding else 0
            lines.append(f"| {check.name} | {count:,} | {took:.2f} |")
            for one in finding.examples if finding else ():
                print(f"{check.name}: {one.row}: {one.shown}", file=sys.stderr)
        return checks.Lint({name: len(places) for name, places in rows.splits.items()}, ())

    linted.checks.lint, original = timed, linted.checks.lint  # type: ignore[assignment]
    (linted.cache_directory() / data.key / linted.LINT_FILE).unlink(missing_ok=True)
    began, wall = time.process_time(), time.perf_counter()
    found = lint_rows(tokenizer, recipe, data)
    took, waited = time.process_time() - began, time.perf_counter() - wall
    linted.checks.lint = original
    (linted.cache_directory() / data.key / linted.LINT_FILE).unlink(missing_ok=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    today = date.today().isoformat()
    page = [
        "# Data checks on alpaca-cleaned",
        "",
        f"{today}, `python benchmarks/lint_alpaca.py`: {sum(found.rows.values()):,} rows of an early alpaca-cleaned, "
        "the tokenizer of TinyStories-656K, the alpaca template. Seconds of processor time, on one core.",
        "",
        "<!-- block found -->",
        "| check | rows | s |",
        "|---|---:|---:|",
        *lines,
        "<!-- end found -->",
        "",
        "<!-- block cost -->",
        f"All checks, with reading the texts again, take {format_duration(took)} of processor time ("
        f"{format_duration(waited)} by the clock) and at most {format_bytes(peak)} of memory; "
        f"preparing the rows takes {format_duration(prepared)}.",
        "<!-- end cost -->",
    ]
    (RESULTS / f"{today}-lint-alpaca.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    print("\n".join(page))


if __name__ == "__main__":
    main()
