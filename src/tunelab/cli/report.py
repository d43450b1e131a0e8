"""Render the report of a study again, from what it stored; no model is loaded.

Examples:
  tunelab report study-first
  tunelab report study-first/report.json

Writes report.html (one file, no network), report.md and report.json into the study's directory, and shows the tables.
A report.json alone is rendered beside itself.
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

#: Scores and costs; comparisons come after them.
BRIEF_TABLES = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study's directory."""
    parser.add_argument("path", metavar="DIR", help="directory that `tunelab study run` made, or a report.json")


def run(arguments: argparse.Namespace) -> int:
    """Put the report together, write it, show it."""
    path = Path(arguments.path)
    if path.suffix == ".json":
        from tunelab.report.content import read_report

        render(read_report(path), path.parent)
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
    from tunelab.workflows.study_report import study_report

    report = study_report(folder)
    write_report(folder / REPORT, report)
    render(report, folder, brief=brief)


def render(report: StudyReport, folder: Path, *, brief: bool = False) -> None:
    """report.html and report.md in a folder; answers and tables on stdout, doubts on stderr."""
    from tunelab.report.console_page import answer_lines, console_tables, doubt_lines
    from tunelab.report.html_page import html_page
    from tunelab.report.markdown_page import markdown_page

    write_text_atomically(folder / "report.html", html_page(report))
    write_text_atomically(folder / "report.md", markdown_page(report))
    for line in answer_lines(report):
        print_data(textwrap.fill(line, console(sys.stdout).width, subsequent_indent="  ", break_on_hyphens=False))
    tables, doubts = console_tables(report), doubt_lines(report)
    for table in tables[:BRIEF_TABLES] if brief else tables:
        print_data(f"\n{table.title}")
        print_table(table.columns, table.rows)
    for line in () if brief else doubts:
        say(f"not proved: {line}")
    more = f" (it also lists {len(doubts)} points that are not proved)" if brief and doubts else ""
    say(f"the report: {folder / 'report.html'}{more}")
