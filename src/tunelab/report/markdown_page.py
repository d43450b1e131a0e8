"""A study report as GitHub-flavored Markdown: the page without plots."""

from __future__ import annotations

import re

from tunelab.report.budgets import budgets_tables
from tunelab.report.content import Flip, StudyReport
from tunelab.report.forgetting import forgetting_table
from tunelab.report.study_tables import Cell, Column, StudyTable, tables, unfinished_arms
from tunelab.units import format_moment

MOST_FLIPS = 20

# Characters with a meaning in Markdown; underscores only at word boundaries.
_SPECIAL = re.compile(r"[\\`*<>\[\]|&~$]|(?<!\w)_|_(?!\w)")


def markdown_page(report: StudyReport, most_flips: int = MOST_FLIPS) -> str:
    """The report as Markdown with at most `most_flips` flips; it says how many are left out."""
    made = {table.title: table for table in tables(report)}
    note = [f"**{escaped(report.note)}**"] if report.note else []
    blocks = [f"# {escaped(report.title)}", *note, escaped(format_moment(report.created)), *_answers(report)]
    for title, table in made.items():
        if title != "Differences between arms":
            blocks += [f"## {title}", *_table(table)]
        if title == "Learning rates":
            blocks.append("\n".join(f"- {escaped(sentence)}" for sentence in report.rates_said))
    for table in budgets_tables(report):
        blocks += [f"## {table.title}", *_table(table)]
    if report.budgets is not None:
        blocks.append("\n".join(f"- {escaped(sentence)}" for sentence in report.budgets.said))
    if (forgetting := forgetting_table(report)).rows:
        blocks += [f"## {forgetting.title}", *_table(forgetting)]
    blocks += _flips(report, most_flips)
    blocks += _data_checks(report)
    caveats = [f"- {escaped(sentence)}" for sentence in (*unfinished_arms(report), *report.not_proved)]
    blocks += ["## Caveats", "\n".join(caveats)] if caveats else []
    if differences := made.get("Differences between arms"):
        blocks += [f"## {differences.title}", *_table(differences)]
    blocks += _provenance(report)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _answers(report: StudyReport) -> list[str]:
    answers = [f"**{escaped(one.question)}** {escaped(one.answer)}" for one in report.questions]
    return [*answers, escaped(report.rates_in_use)]


def _table(table: StudyTable) -> list[str]:
    rule = "|".join("---:" if column.is_number else "---" for column in table.columns)
    lines = [table_row([_heading(column) for column in table.columns]), f"|{rule}|"]
    lines += [table_row([_cell(cell) for cell in row]) for row in table.rows]
    return [escaped(table.caption), "\n".join(lines)]


def table_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _heading(column: Column) -> str:
    return escaped(column.title) + (f"<br>{escaped(column.unit)}" if column.unit else "")


def _cell(cell: Cell) -> str:
    return "<br>".join(escaped(line) for line in (cell.text, *cell.notes))


def _flips(report: StudyReport, most: int) -> list[str]:
    if not report.flips:
        return []
    shown = report.flips[:most]
    left_out = len(report.flips) - len(shown) + report.flips_left_out
    blocks = ["## Flips", "Items that only one of the two arms answered right."]
    for flip in shown:
        blocks += _flip(flip)
    return [*blocks, f"{left_out:,} more flips are left out here."] if left_out else blocks


def _flip(flip: Flip) -> list[str]:
    heading = f"### {flip.kind.capitalize()}: {escaped(flip.benchmark)}, {escaped(flip.item)}"
    parts = [("Question", flip.question), ("Target", flip.target), (flip.a, flip.text_a), (flip.b, flip.text_b)]
    return [heading, *(f"{escaped(name)}:\n\n{fenced(words)}" for name, words in parts)]


def _data_checks(report: StudyReport) -> list[str]:
    if report.data_checks is None:
        return []
    blocks = ["## Data checks", *map(escaped, report.data_checks.said)]
    for one in report.data_checks.findings:
        of = f", {one.trainings}" if one.trainings else ""
        reason = f"Why it matters: {one.why}. Remedy: {one.remedy}."
        examples = [": ".join(filter(None, (shown.row, shown.shown))) for shown in one.examples]
        blocks += [
            f"### {escaped(f'{one.check} ({one.tag}{of})')}",
            f"{escaped(one.what)}. {escaped(reason)}",
            "\n".join(f"- {escaped(line)}" for line in examples),
        ]
    return blocks


def _provenance(report: StudyReport) -> list[str]:
    blocks = ["## Provenance"] if report.provenance else []
    for section, values in report.provenance.items():
        blocks.append(f"### {escaped(section)}")
        for key, value in values.items():
            blocks.append(
                f"{escaped(key)}:\n\n{fenced(value)}"
                if "\n" in value.strip()
                else f"- {escaped(key)}: {escaped(value)}"
            )
    return blocks


def escaped(text: str) -> str:
    """Text in one line, escaped for Markdown."""
    line = _SPECIAL.sub(lambda found: "\\" + found.group(), " ".join(text.split()))
    return re.sub(r"^(#{1,6}(?= |$)|[+-](?= |$)|\d{1,9}(?=[.)](?: |$)))", _escaped_beginning, line)


def _escaped_beginning(found: re.Match[str]) -> str:
    """Escape the start of a line that would make a heading or a list."""
    return f"{found.group()}\\" if found.group().isdigit() else f"\\{found.group()}"


def fenced(text: str) -> str:
    """Text as a code block with a fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
