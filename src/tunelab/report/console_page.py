"""A study report for the console: lines of text and tables. Nothing is printed here."""

from __future__ import annotations

from dataclasses import dataclass

from tunelab.report.budgets import budgets_table, equal_cost_table
from tunelab.report.content import StudyReport
from tunelab.report.forgetting import forgetting_table
from tunelab.report.study_tables import (
    PUBLISHED,
    Cell,
    Column,
    StudyTable,
    arms_table,
    comparisons_table,
    notes,
    published_table,
    rates_table,
    unfinished_arms,
)
from tunelab.report.table_layout import column_parts
from tunelab.units import UNKNOWN


@dataclass(frozen=True, slots=True)
class ConsoleTable:
    """Columns and rows of plain strings; each row has one cell per column."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def answer_lines(report: StudyReport) -> list[str]:
    """The report's note, if it has one; one line per question, with its answer; and the learning rates they hold at."""
    answers = [f"{one.question} {one.answer}" for one in report.questions]
    return [_one_line(line) for line in (report.note, *answers, report.rates_in_use) if line]


def caveat_lines(report: StudyReport) -> list[str]:
    """One line per caveat, including arms without a result."""
    return [_one_line(sentence) for sentence in (*unfinished_arms(report), *report.not_proved)]


def note_lines(report: StudyReport) -> list[str]:
    """One line per note on the tables, and per sentence about budgets and learning rates."""
    budgets = () if report.budgets is None else report.budgets.said
    return [_one_line(sentence) for sentence in (*notes(report), *budgets, *report.rates_said)]


def console_tables(report: StudyReport, width: int | None = None, *, brief: bool = False) -> list[ConsoleTable]:
    """Scores, costs, comparisons and published values; tables without rows or columns are omitted.

    Args:
        width: terminal width in columns; a table that would break words is split into several with the same rows, and
            comparisons have their result in the first of them. None = no limit.
        brief: only scores and costs.
    """
    made = [(_plain(arms_table(report, group)), 1) for group in ("Quality", "Cost")]
    if not brief:
        made.append(_comparisons(comparisons_table(report), width))
        made.append((_plain(budgets_table(report)), 2))
        made.append((_plain(equal_cost_table(report)), 2))
        made.append((_plain(forgetting_table(report)), 1))
        made.append((_plain(rates_table(report)), 1))
        # Sources are long: they are only in the HTML page and in Markdown.
        made.append((_without_last(_plain(published_table(report))), 2))
    shown = [(table, keys) for table, keys in made if table.rows and len(table.columns) > 1]
    return [part for table, keys in shown for part in (_split(table, keys, width) if width else [table])]


def _comparisons(table: StudyTable, width: int | None) -> tuple[ConsoleTable, int]:
    """Comparisons, and the number of key columns: where they are too wide, what is compared is one column, the result
    comes before the rest, and notes are a column.
    """
    whole = _plain(table)
    if width is None or len(column_parts(whole.columns, whole.rows, 2, width)) == 1:
        return whole, 2
    place = whole.columns.index("Items")
    columns = ["Comparison", *whole.columns[2:place], whole.columns[-1], *whole.columns[place:-1], "Note"]
    rows = []
    for row in table.rows:
        texts = [_one_line(cell.text) for cell in row]
        notes = "; ".join(_one_line(note) for cell in row[1:] for note in cell.notes) or UNKNOWN
        compared = f"{_text(row[0], table.columns[0])}: {texts[1]}"
        result = texts[-1].removeprefix("no difference ").replace("shown", "not shown")
        rows.append([compared, *texts[2:place], result, *texts[place:-1], notes])
    return ConsoleTable(whole.title, columns, rows), 1


def _plain(table: StudyTable) -> ConsoleTable:
    rows = [[_text(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
    return ConsoleTable(table.title, [_heading(column) for column in table.columns], rows)


def _without_last(table: ConsoleTable) -> ConsoleTable:
    return ConsoleTable(table.title, table.columns[:-1], [row[:-1] for row in table.rows])


def _split(table: ConsoleTable, keys: int, width: int) -> list[ConsoleTable]:
    """Split the table into as few parts as possible without breaking words; each repeats the key columns."""
    return [
        ConsoleTable(
            table.title if number == 0 else f"{table.title} (continued)",
            [table.columns[place] for place in part],
            [[row[place] for place in part] for row in table.rows],
        )
        for number, part in enumerate(column_parts(table.columns, table.rows, keys, width))
    ]


def _heading(column: Column) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


def _text(cell: Cell, column: Column) -> str:
    """A cell in one line, without an arm's parts (its name identifies it) and published values (they have a table)."""
    notes = tuple(note for note in cell.notes if not note.startswith(PUBLISHED))
    notes = () if column.title == "Arm" and not column.group else notes
    failed = [note for note in cell.notes if not notes and note.startswith(("failed", "has not run"))]
    shown = [_one_line(cell.text), *(f"({_one_line(note)})" for note in notes)]
    return " ".join(shown + [f"({note.partition(':')[0]})" for note in failed])


def _one_line(text: str) -> str:
    """Text without line breaks and control characters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
