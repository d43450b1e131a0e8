"""The report for the console: plain rows in one line each, whose words a terminal does not break."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_reports import example_report

from tunelab.cli._console import print_table
from tunelab.report.console_page import ConsoleTable, answer_lines, caveat_lines, console_tables, note_lines
from tunelab.report.content import Arm, ArmScore, Question, StudyReport

REPORT = example_report()


class Terminal(io.StringIO):
    """What is written to it is laid out as for a person."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, table: ConsoleTable, width: int) -> list[list[str]]:
    """The words of each line that a terminal of this width shows of a table."""
    out = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "xterm")
        print_table(table.columns, table.rows)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    return [line.split() for line in lines]


def words_of(table: ConsoleTable) -> set[str]:
    return {word for row in (table.columns, *table.rows) for text in row for word in text.split()}


def test_tables_fit_print_table(capsys: pytest.CaptureFixture[str]) -> None:
    tables = console_tables(REPORT)
    assert [table.title for table in tables] == ["Quality", "Cost", "Comparisons", "Published and measured"]
    for table in tables:
        print_table(table.columns, table.rows)
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:5] == ["Arm", "mmlu", "(accuracy,", "0-1", "↑)"]
    assert out[3].startswith("lora r128 bf16") and "0.4194 ± 0.0042 (SE across 2 seeds: 0.0021)  " in out[3]
    assert out[5].startswith("full bf16 (failed) ")
    assert "published" not in "\n".join(out[:6])
    assert out[-2].split() == ["lora", "r128", "bf16", "held-out", "(bleu)", "15.1", "14.70", "±", "0.62", "0-100"]


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_terminal_breaks_no_word(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    for table in console_tables(REPORT, width):
        lines = on_terminal(monkeypatch, table, width)
        assert words_of(table) <= {word for line in lines for word in line}, table.title
        errors = [place for line in lines for place, word in pairwise(line) if word == "±"]
        if table.title.startswith("Quality"):
            values = [cell.split()[0] for row in table.rows for cell in row[1:] if "±" in cell]
            assert sorted(place for place in errors if place[0].isdigit()) == sorted(values)


def test_print_table_itself_breaks_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = console_tables(REPORT)[1]
    assert len(console_tables(REPORT, 80)) > len(console_tables(REPORT)), "too wide for one table"
    lines = on_terminal(monkeypatch, cost, 80)
    assert words_of(cost) <= {word for line in lines for word in line}
    assert sum(line[:1] == ["Arm"] for line in lines) == 2


def test_what_is_too_wide_goes_on_below_with_the_names_of_its_rows() -> None:
    tables = {table.title: table for table in console_tables(REPORT, 80)}
    assert tables["Cost"].columns == ["Arm", "Peak memory", "Training", "Evaluation", "Tokens/s"]
    assert tables["Cost (continued)"].columns == ["Arm", "Trainable (parameters)", "On disk", "Cost (USD)"]
    assert tables["Cost (continued)"].rows[2] == ["lora r128 bf16", "320 M", "610.0 MiB", "6.82"]
    first, more = tables["Comparisons"], tables["Comparisons (continued)"]
    assert first.columns == ["Comparison", "Difference", "95 % interval", "p (Holm)", "Result"], "the answer is in one"
    assert first.rows[1][0] == "mmlu (accuracy): base bf16 → lora r128 bf16" and first.rows[1][-1] == "not shown"
    assert more.columns[0] == "Comparison" and "Result" not in more.columns
    brief = [table.title for table in console_tables(REPORT, 80, brief=True)]
    assert brief == ["Quality", "Quality (continued)", "Cost", "Cost (continued)"]
    assert [table.title for table in console_tables(REPORT, 400)] == [table.title for table in console_tables(REPORT)]


NAMES = st.lists(
    st.lists(st.text("abcdefg", min_size=1, max_size=12), min_size=1, max_size=3).map(" ".join),
    min_size=2,
    max_size=9,
    unique=True,
)


@settings(max_examples=60, deadline=None)
@given(NAMES, st.integers(50, 140))
def test_no_word_is_broken_whatever_the_names(names: list[str], width: int) -> None:
    arm = Arm(names[0], "m", "none", "none", "")
    scores = tuple(
        ArmScore(names[0], benchmark, name, 0.5, 0.01, 0.02, 9, 2, "0-1", True, True)
        for benchmark, name in zip(names, names[::-1], strict=True)
    )
    report = StudyReport("t", "c", arms=(arm,), scores=scores)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for table in console_tables(report, width):
            shown = {word for line in on_terminal(monkeypatch, table, width) for word in line}
            assert words_of(table) <= shown


def test_a_table_that_fits_no_terminal_keeps_a_column_a_part() -> None:
    parts = console_tables(REPORT, 5, brief=True)
    assert {len(part.columns) for part in parts} == {2}
    assert len(parts) == 6 + 7


def test_answers_and_caveats_are_lines() -> None:
    assert answer_lines(REPORT)[3] == "Does NF4 alone cost quality? Yes: MMLU falls by 1.1 points."
    assert caveat_lines(REPORT)[0].startswith("full bf16 failed and has no result: CUDA out of memory")
    assert len(caveat_lines(REPORT)) == 3


def test_notes_say_what_the_tables_leave_out() -> None:
    costs = "Times and costs are per run, mean over seeds. Peak memory is of the accelerator; on a CPU, of the process"
    assert [line.startswith(costs) for line in note_lines(REPORT)] == [True]
    nothing = dataclasses.replace(REPORT.scores[0], value=0.0, error=0.0, n=25)
    report = dataclasses.replace(REPORT, scores=(nothing, dataclasses.replace(REPORT.scores[1], is_blind=True)))
    assert console_tables(report)[0].rows[0][1] == "0 (0 to 0.13)" and console_tables(report)[0].rows[1][1] == "n/a"
    assert (
        "every item scored the same" in note_lines(report)[1] and "cannot see the references" in note_lines(report)[1]
    )


def test_nothing_steers_the_terminal() -> None:
    arms = (dataclasses.replace(REPORT.arms[0], name="a\x1b[31m\nb"),)
    report = StudyReport("t", "c", (Question("q\x1b[2J?", "a\r\nb", "unknown"),), arms)
    assert answer_lines(report) == ["q[2J? a b"]
    assert console_tables(report)[0].rows[0][0] == "a[31m b"


def test_an_empty_report_has_no_tables() -> None:
    assert console_tables(StudyReport("t", "c")) == []
    assert console_tables(StudyReport("t", "c"), 80) == []
