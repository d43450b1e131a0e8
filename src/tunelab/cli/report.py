"""Render the report of a study or a comparison again from its stored results; no model is loaded.

Examples:
  tunelab report study-first
  tunelab report full-and-lora
  tunelab report study-first/report.json

Writes report.html (one file, no network), report.md and report.json to the study's directory, and prints the tables.
A report.json alone, as written by tunelab compare --out, is rendered next to itself; the runs are not read.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import console, print_data, print_table, say
from tunelab.files import write_text_atomically

if TYPE_CHECKING:
    from tunelab.report.content import StudyReport

REPORT = "report.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The directory of a study or a report."""
    known = "output directory of `tunelab study run` or `tunelab compare --out`, or a report.json"
    parser.add_argument("path", metavar="DIR", help=known)


def run(arguments: argparse.Namespace) -> int:
    """Build the report, write it, print it."""
    from tunelab.records.cells import STUDY_FILE

    path = Path(arguments.path)
    stored = path if path.suffix == ".json" else path / REPORT
    if path.suffix == ".json" or (stored.exists() and not (path / STUDY_FILE).exists()):
        from tunelab.report.content import read_report

        render(read_report(stored), stored.parent)
    else:
        report_study(path)
    return 0


def report_study(folder: Path, *, brief: bool = False) -> None:
    """Write a study's report in all formats and print it.

    Args:
        brief: print only answers, scores and costs; the files contain everything.

    Raises:
        RunError: there is no study.
    """
    from tunelab.report.content import write_report
    from tunelab.studies.study_report import study_report

    report = study_report(folder)
    write_report(folder / REPORT, report)
    render(report, folder, brief=brief)


def render(report: StudyReport, folder: Path, *, brief: bool = False) -> None:
    """Write report.html and report.md; print answers and tables on stdout, caveats on stderr."""
    from tunelab.report.console_page import answer_lines, caveat_lines, console_tables, note_lines

    page = write_pages(report, folder)
    width = console(sys.stdout).width
    for line in answer_lines(report):
        print_data(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False))
    caveats = caveat_lines(report)
    for table in console_tables(report, width, brief=brief):
        print_data(f"\n{table.title}")
        print_table(table.columns, table.rows)
    for line in (*note_lines(report), *(() if brief else (f"caveat: {one}" for one in caveats))):
        say(line)
    more = f" (it also lists {len(caveats)} caveats)" if brief and caveats else ""
    say(f"report: {page}{more}")


def write_pages(report: StudyReport, folder: Path) -> Path:
    """Write report.html and report.md to a folder; returns the path of report.html."""
    from tunelab.report.html_page import html_page
    from tunelab.report.markdown_page import markdown_page

    page = folder / "report.html"
    write_text_atomically(page, html_page(report))
    write_text_atomically(folder / "report.md", markdown_page(report))
    return page
