"""Write a finished study's answers, scores and costs to benchmarks/results/DATE-study-NAME.md.

Usage: python scripts/record_study.py DIR NAME COMMAND [--remark TEXT]

DIR is the study's directory, COMMAND what it was run with, REMARK what a reader must know beside it (what else the
machine did). The sections are those of the study's own report.md. The answers and the table of scores can be quoted in
documents (scripts/quote_results.py).
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.measuring import RESULTS, machine  # noqa: E402

#: The report's sections that are not recorded: every score and item once more, and what only that machine can use.
LEFT_OUT = ("All scores", "Flips", "Differences between arms", "Provenance")
QUOTABLE = ("answers", "quality")


def report_sections(report: str) -> tuple[str, dict[str, str]]:
    """A report's title, and its sections by heading in its order; what stands before the first is "Answers".

    Raises:
        ValueError: the text has no title.
    """
    top, *others = re.split(r"^## ", report, flags=re.MULTILINE)
    title = re.search(r"^# (.+)$", top, re.MULTILINE)
    if title is None:
        raise ValueError("report.md has no title: not the report of a study")
    answers = re.sub(r"^# .+\n+|^\d{4}-\d\d-\d\d .*\n+", "", top, flags=re.MULTILINE)
    sections = (section.partition("\n") for section in others)
    return title[1], {"Answers": answers.strip(), **{heading: text.strip() for heading, _, text in sections}}


def page(report: str, command: str, remark: str, here: dict[str, Any]) -> str:
    """The page of results."""
    title, sections = report_sections(report)
    libraries = ", ".join(f"{name} {version}" for name, version in here["libraries"].items())
    lines = [
        f"# {title}, {here['date']}",
        "",
        f"{here['processor']}, {here['cores']} cores; python {here['python']}, {libraries}. {remark}".rstrip(),
        "The sections below are those of the study's report.",
        "",
        f"```\n{command}\n```",
    ]
    for heading, text in sections.items():
        if heading in LEFT_OUT:
            continue
        if (name := heading.lower()) in QUOTABLE:
            text = f"<!-- block {name} -->\n{text}\n<!-- end {name} -->"
        lines += ["", f"## {heading}", "", text]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("name")
    parser.add_argument("command")
    parser.add_argument("--remark", default="")
    wanted = parser.parse_args()
    text = (wanted.study / "report.md").read_text(encoding="utf-8")
    target = RESULTS / f"{date.today()}-study-{wanted.name}.md"
    target.write_text(page(text, wanted.command, wanted.remark, machine()), encoding="utf-8")
    print(f"wrote {target.relative_to(REPOSITORY)}; now run scripts/quote_results.py")


if __name__ == "__main__":
    main()
