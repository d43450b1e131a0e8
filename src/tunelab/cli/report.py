"""Render the report of a study, or of a comparison, again from what it stored; no model is loaded.

Examples:
  tunelab report study-first
  tunelab report full-and-lora
  tunelab report study-first/report.json

Writes report.html (one file, no network), report.md and report.json into the study's directory, and shows the tables.
A report.json alone, as tunelab compare --out writes it, is rendered beside itself; the runs are not looked at.
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
    """The study's directory, or a report's."""
    made_by = "`tunelab study run` or `tunelab compare --out` made"
    parser.add_argument("path", metavar="DIR", help=f"directory that {made_by}, or a report.json")


def run(arguments: argparse.Namespace) -> int:
    """Put the report together, write it, show it."""
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
    """The report of a study's directory, in all its forms.

    Args:
        brief: show answers, scores and costs alone; the files hold all.

    Raises:
        RunError: there is no study.
    """
    from tunelab.report.content import write_report
    from tunelab.studies.study_report import study_report

    report = study_report(folder)
    write_report(folder / REPORT, report)
    render(report, folder, brief=brief)


def render(report: StudyReport, folder: Path, *, brief: bool = False) -> None:
    """report.html and report.md in a folder; answers and tables on stdout, doubts on stderr."""
    from tunelab.report.console_page import answer_lines, console_tables, doubt_lines

    page = write_pages(report, folder)
    width = console(sys.stdout).width
    for line in answer_lines(report):
        print_data(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False))
    doubts = doubt_lines(report)
    for table in console_tables(report, width, brief=brief):
        print_data(f"\n{table.title}")
        print_table(table.columns, table.rows)
    for line in () if brief else doubts:
        say(f"not proved: {line}")
    more = f" (it also lists {len(doubts)} points that are not proved)" if brief and doubts else ""
    say(f"the report: {page}{more}")


def write_pages(report: StudyReport, folder: Path) -> Path:
    """report.html, whose path is returned, and report.md in a folder."""
    from tunelab.report.html_page import html_page
    from tunelab.report.markdown_page import markdown_page

    page = folder / "report.html"
    write_text_atomically(page, html_page(report))
    write_text_atomically(folder / "report.md", markdown_page(report))
    return page
