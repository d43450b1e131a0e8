"""The section "Budgets": scores against tokens, time and cost, a table of all budgets, arms at equal cost."""

from __future__ import annotations

import dataclasses

from study_reports import example_report

from tunelab.report.budgets import budget_plots, budgets_table, equal_cost_table
from tunelab.report.budgets_content import AtEqualCost, BudgetPoint, Budgets, BudgetScore
from tunelab.report.console_page import console_tables
from tunelab.report.content import StudyReport
from tunelab.report.drawing import plot_style
from tunelab.report.markdown_page import markdown_page
from tunelab.report.plots import all_plots

LORA, QLORA = "lora r128 bf16", "qlora r128 nf4"


def with_budgets(price: float | None = None, points: int = 3) -> StudyReport:
    steps = [(f"{value} epochs", value) for value in (0.5, 2, 4)[:points]]
    seconds = {LORA: 3600.0, QLORA: 5400.0}
    found = [
        BudgetPoint(arm, words, 2, 1e6 * value, one * value, None if price is None else one * value / 3600 * price)
        for arm, one in seconds.items()
        for words, value in steps
    ]
    scores = [
        BudgetScore(
            *(arm, words, "held-out", "completion_perplexity", 3 - 0.1 * value, 2.9 - 0.1 * value, 3.1 - 0.1 * value),
            *(0.051, 0.013, 500, "per token", False),
        )
        for arm in seconds
        for words, value in steps
    ]
    equal = AtEqualCost(
        *("time", 14_400.0, LORA, QLORA, "at 4 epochs", "at about 2.7 epochs, between 2 and 4 epochs"),
        *("held-out", "completion_loss", "nats per token", 0.031, 0.011, 0.051, 0.004, 0.012, 500, "worse", -0.004),
    )
    budgets = Budgets(tuple(found), tuple(scores), (equal,), ("Each budget is a training of its own.",))
    return dataclasses.replace(example_report(1), budgets=budgets)


def test_the_table_has_a_row_for_each_budget_of_each_arm() -> None:
    table = budgets_table(with_budgets(price=2.5))
    assert [f"{one.title}|{one.unit}" for one in table.columns] == [
        *("Arm|", "Budget|", "Supervised tokens|in all steps", "Training time|of one run", "Cost of training|USD"),
        "held-out|completion perplexity ↓",
    ]
    first = table.rows[0]
    assert [cell.text for cell in first] == [LORA, "0.5 epochs", "500,000", "30 min 00 s", "1.25", "2.950 ± 0.051"]
    assert first[1].notes == ("2 seeds",) and first[-1].notes == ("SE across seeds: 0.013",)
    assert len(table.rows) == 6
    assert "Cost of training" not in [one.title for one in budgets_table(with_budgets()).columns]
    assert budgets_table(example_report(1)).rows == () == equal_cost_table(example_report(1)).rows


def test_a_budget_without_a_score_has_none() -> None:
    report = with_budgets()
    assert report.budgets is not None
    budgets = dataclasses.replace(report.budgets, scores=report.budgets.scores[1:])
    assert budgets_table(dataclasses.replace(report, budgets=budgets)).rows[0][-1].text == "–"


def test_arms_at_equal_cost_have_a_row() -> None:
    (row,) = equal_cost_table(with_budgets()).rows
    assert row[1].notes == ("time",)
    assert [cell.text for cell in row] == [
        *(f"{LORA} → {QLORA}", "4 h 00 min", "4 epochs", "about 2.7 epochs, between 2 and 4 epochs"),
        *("held-out: completion loss", "+0.031", "+0.011 to +0.051", "-0.004", "0.012", "worse"),
    ]


def test_scores_are_drawn_against_tokens_time_and_cost() -> None:
    names = [plot.name for plot in all_plots(with_budgets(price=2.5)) if plot.name.startswith("budgets-")]
    assert names == ["budgets-held-out-tokens", "budgets-held-out-time", "budgets-held-out-cost"]
    with plot_style():
        tokens, time = budget_plots(with_budgets())
    axes = time.figure.axes[0]
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]  # type: ignore[arg-type]
    assert [list(line.get_xdata()) for line in lines] == [[0.5, 2, 4], [0.75, 3, 6]], "hours"
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "training time (h)"
    assert "Dashed: where questions compare the arms." in time.caption and "Dashed" not in tokens.caption
    assert f"{LORA}, 0.5 epochs: 2.950 ± 0.051 at 30 min 00 s" in time.words
    assert time.caption.endswith("Beyond the axis, not tuned: base bf16 3.920 ± 0.071, base nf4 4.050 ± 0.071.")
    assert budget_plots(example_report(1)) == []


def test_it_is_in_markdown_and_on_the_console() -> None:
    report = with_budgets()
    text = markdown_page(report)
    assert "## Budgets" in text and "- Each budget is a training of its own." in text
    titles = [table.title for table in console_tables(report)]
    assert titles.index("Budgets") < titles.index("At equal tokens, time or cost")
    assert "Budgets" not in [table.title for table in console_tables(report, brief=True)]
