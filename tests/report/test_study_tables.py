"""Tables: every figure with its error, what is unknown as unknown."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from study_reports import example_report

from tunelab.report.content import Published, StudyReport, read_report, write_report
from tunelab.report.study_tables import (
    StudyTable,
    all_scores_table,
    arms_table,
    arms_tables,
    comparisons_table,
    differences_table,
    format_probability,
    published_table,
    tables,
    unfinished_arms,
)
from tunelab.units import MIB

REPORT = example_report()


def row(table: StudyTable, name: str) -> dict[str, str]:
    """The cells of the row with this name by their columns, those of a benchmark in several columns by its figures."""
    cells = next(cells for cells in table.rows if cells[0].text == name)
    titles = [column.title for column in table.columns]
    names = [
        column.title if titles.count(column.title) == 1 else f"{column.title}, {column.unit.partition(',')[0]}"
        for column in table.columns
    ]
    return {name: cell.text for name, cell in zip(names, cells, strict=True)}


def test_every_row_has_all_columns() -> None:
    for table in tables(REPORT):
        assert {len(cells) for cells in table.rows} == {len(table.columns)}, table.title


def test_an_arm_shows_scores_and_costs() -> None:
    assert row(arms_table(REPORT, "Quality", "Cost"), "lora r128 bf16") == {
        "Arm": "lora r128 bf16",
        "mmlu": "0.4194 ± 0.0042",
        "ifeval": "0.287 ± 0.019",
        "gsm8k": "0.1490 ± 0.0098",
        "held-out, completion perplexity": "2.400 ± 0.071",
        "held-out, bleu": "14.70 ± 0.62",
        "held-out, rougeL": "30.10 ± 0.62",
        "Peak memory": "18.89 GiB",
        "Training": "2 h 42 min",
        "Evaluation": "42 min 35 s",
        "Tokens/s": "3,412",
        "Trainable": "320 M",
        "On disk": "610.0 MiB",
        "Cost": "6.82",
    }


def test_unknown_is_not_zero() -> None:
    cost = arms_table(REPORT, "Cost")
    assert set(row(cost, "full bf16").values()) == {"full bf16", "–"}
    assert row(cost, "base bf16")["Training"] == "none"
    assert row(cost, "base bf16")["Trainable"] == "0"
    assert row(cost, "qlora r128 nf4")["Cost"] == "–"


def test_memory_says_what_else_it_holds() -> None:
    assert "on a CPU, of the process with Python and libraries" in arms_table(REPORT, "Cost").caption
    started = [
        dataclasses.replace(arm, start_memory_bytes=(600 + place) * MIB) for place, arm in enumerate(REPORT.arms)
    ]
    known = dataclasses.replace(REPORT, arms=tuple(started))
    assert "of the process and includes about 600.0 MiB of Python and libraries" in arms_table(known, "Cost").caption


def test_money_is_shown_only_where_a_price_is_known() -> None:
    free = dataclasses.replace(REPORT, arms=tuple(dataclasses.replace(arm, cost=None) for arm in REPORT.arms))
    titles = [column.title for column in arms_table(free, "Cost").columns]
    assert titles[-1] == "On disk"
    assert arms_table(REPORT, "Cost").columns[-1].unit == "USD"


def test_seeds_and_published_values_stand_below_a_score() -> None:
    cells = arms_table(REPORT, "Quality").rows[2]
    assert cells[1].notes == ("SE across 2 seeds: 0.0021", "published 0.45")
    assert cells[2].notes == ("SE across 2 seeds: 0.0021",)
    assert cells[4].notes == ("SE across 2 seeds: 0.013",)
    assert cells[5].notes == ("SE across 2 seeds: 0.31", "published 15.1")
    failed = arms_table(REPORT, "Quality").rows[4]
    assert (failed[1].text, failed[1].notes) == ("–", ("published 0.46",))
    alone = dataclasses.replace(REPORT.scores[2], seed_error=None)
    scores = tuple(alone if score is REPORT.scores[2] else score for score in REPORT.scores)
    assert (
        arms_table(dataclasses.replace(REPORT, scores=scores), "Quality").rows[2][1].notes[0] == "SE across 2 seeds: ?"
    )


def test_directions_stand_in_the_heading() -> None:
    units = [column.unit for column in arms_table(REPORT, "Quality").columns]
    assert units == [
        "",
        "accuracy, 0-1 ↑",
        "prompt strict, 0-1 ↑",
        "exact match, 0-1 ↑",
        "completion perplexity, per token ↓",
        "bleu, 0-100 ↑",
        "rougeL, 0-100 ↑",
    ]


def test_a_benchmarks_figures_stand_together_the_main_one_first() -> None:
    of_two = [one for one in REPORT.scores if one.arm == "base nf4" and one.benchmark in ("mmlu", "held-out")]
    report = dataclasses.replace(REPORT, scores=(*of_two[::-1], *REPORT.scores[:1]))
    assert [(one.benchmark, one.name) for one in report.table_scores()] == [
        ("held-out", "completion_perplexity"),
        *(("held-out", "rougeL"), ("held-out", "bleu"), ("mmlu", "accuracy")),
    ]
    assert report.benchmarks == ["held-out", "mmlu"]


def test_many_columns_make_two_tables() -> None:
    few = dataclasses.replace(REPORT, scores=tuple(one for one in REPORT.scores if one.benchmark in ("mmlu", "ifeval")))
    assert [table.title for table in arms_tables(REPORT)] == ["Quality", "Cost"]
    assert [table.title for table in arms_tables(few)] == ["Quality and cost"]
    alone = dataclasses.replace(REPORT, scores=tuple(one for one in REPORT.scores if one.benchmark == "held-out"))
    assert [table.title for table in arms_tables(alone)] == ["Quality", "Cost"]


def test_comparisons() -> None:
    table = comparisons_table(REPORT)
    assert [cell.text for cell in table.rows[1][1:]] == [
        *("base bf16 → lora r128 bf16", "+0.0067", "-0.0009 to +0.0143", "0.261", "14,042", "675 / 581", "0.011"),
        "no difference shown",
    ]
    assert table.rows[1][4].notes == ("0.087 uncorrected",)
    assert [cell.text for cell in table.rows[3][4:]] == ["0.210", "500", "–", "–", "no difference shown"]
    assert table.rows[3][4].notes == ("uncorrected",)
    loss = comparisons_table(dataclasses.replace(REPORT, comparisons=REPORT.comparisons[3:]))
    assert "Gained / lost" not in [column.title for column in loss.columns], "a column that would be empty"
    assert table.rows[0][0].notes == ("prompt strict",)
    same = dataclasses.replace(REPORT.comparisons[0], difference=0.0, low=0.0, high=0.0)
    cells = comparisons_table(dataclasses.replace(REPORT, comparisons=(same,))).rows[0]
    assert (cells[2].text, cells[3].text) == ("0", "0 to 0")


def test_comparisons_say_which_test_and_what_items_are_clustered_by() -> None:
    first, second, *_ = REPORT.comparisons
    clustered = dataclasses.replace(first, test="permutation test, items clustered by subject")
    plain = dataclasses.replace(second, test="McNemar's exact test")
    table = comparisons_table(dataclasses.replace(REPORT, comparisons=(clustered, plain)))
    place = [column.title for column in table.columns].index("Test")
    assert (table.rows[0][place].text, table.rows[0][place].notes) == (
        "permutation test",
        ("items clustered by subject",),
    )
    assert (table.rows[1][place].text, table.rows[1][place].notes) == ("McNemar's exact test", ())
    assert "before Holm's correction" in table.caption


def test_a_bound_is_no_value_and_what_cannot_be_significant_has_no_detectable_difference() -> None:
    bound = dataclasses.replace(REPORT.comparisons[0], p=2e-4, p_holm=0.0208, p_is_bound=True)
    few = dataclasses.replace(REPORT.comparisons[1], n=4, detectable=None, could_be_shown=False)
    table = comparisons_table(dataclasses.replace(REPORT, comparisons=(bound, few)))
    assert (table.rows[0][4].text, table.rows[0][4].notes) == ("< 0.021", ("< 0.001 uncorrected",))
    assert table.rows[1][-2].text == "none" and "no result could be significant" in table.caption


def test_a_report_of_before_says_no_difference_shown_too(tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", REPORT)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert '"no difference shown"' in text
    (tmp_path / "report.json").write_text(text.replace('"no difference shown"', '"no difference"'), encoding="utf-8")
    assert read_report(tmp_path / "report.json") == REPORT


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (0.0, "< 0.001"), (0.001, "0.001"), (0.0229, "0.023"), (1, "1.000")]
)
def test_probabilities(p: float | None, text: str) -> None:
    assert format_probability(p) == text


def test_published_figures_stand_beside_measured_ones() -> None:
    table = published_table(REPORT)
    rows = [[cell.text for cell in cells] for cells in table.rows]
    assert rows[1] == ["lora r128 bf16", "mmlu", "0.45", "0.4194 ± 0.0042", "0-1", "arXiv:2511.04214, table 2"]
    assert rows[2][:5] == ["full bf16", "mmlu", "0.46", "–", "0-1"]
    assert rows[3][:5] == ["lora r128 bf16", "held-out", "15.1", "14.70 ± 0.62", "0-100"]
    assert rows[4][:5] == ["qlora r128 nf4", "peak memory", "11.09", "11.91", "GB"]
    assert [cells[1].notes for cells in table.rows] == [("accuracy",)] * 3 + [("bleu",), ()]
    assert table.caption.endswith("GB: 10⁹ bytes.")
    nothing = dataclasses.replace(REPORT.scores[0], value=0.0, error=0.0, n=25)
    published = dataclasses.replace(REPORT.published[0], measured=0.0, error=0.0)
    bound = published_table(dataclasses.replace(REPORT, scores=(nothing,), published=(published,)))
    assert bound.rows[0][3].text == "0 (0 to 0.13)"
    assert "GB" not in published_table(dataclasses.replace(REPORT, published=REPORT.published[:1])).caption


def test_reports_of_before_show_the_main_score_beside_a_published_one() -> None:
    old = dataclasses.replace(REPORT, published=(Published("base bf16", "mmlu", 0.4, "a paper"),))
    assert [cell.text for cell in published_table(old).rows[0]][2:5] == ["0.4", "0.4127 ± 0.0042", "0-1"]
    assert arms_table(old, "Quality").rows[0][1].notes == ("published 0.4",)


def test_all_scores_and_differences() -> None:
    rows = [[cell.text for cell in cells] for cells in all_scores_table(REPORT).rows]
    assert len(rows) == len(REPORT.scores)
    assert rows[2] == [
        "mmlu",
        "accuracy",
        "lora r128 bf16",
        "0.4194 ± 0.0042",
        "0.0021",
        "14,042",
        "2",
        "0-1",
        "higher",
    ]
    assert [cell.text for cell in differences_table(REPORT).rows[0]] == ["precision", "none", "nf4", "–", "nf4", "–"]


def test_arms_without_a_result_are_told() -> None:
    missing = dataclasses.replace(REPORT.arms[1], status="missing")
    failed = dataclasses.replace(REPORT.arms[4], error="")
    report = dataclasses.replace(REPORT, arms=(REPORT.arms[0], missing, *REPORT.arms[2:4], failed))
    assert unfinished_arms(report) == ["base nf4 has not run.", "full bf16 failed and has no result."]
    assert unfinished_arms(REPORT)[0].startswith("full bf16 failed and has no result: CUDA out of memory")
    notes = [cells[0].notes[1:] for cells in arms_table(report, "Cost").rows]
    assert notes == [(), ("has not run",), (), (), ("failed: reason unknown",)]


def test_an_empty_report_has_no_tables() -> None:
    assert tables(StudyReport("t", "c")) == []
