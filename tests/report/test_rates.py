"""The section "Learning rates": what was tried and chosen, on the page, in Markdown, on the console, and as a plot."""

from __future__ import annotations

import dataclasses

import pytest
from study_reports import example_report, without_plots

from tunelab.errors import DataError
from tunelab.report.console_page import answer_lines, console_tables, note_lines
from tunelab.report.content import StudyReport
from tunelab.report.html_page import html_page
from tunelab.report.markdown_page import markdown_page
from tunelab.report.plots import figures
from tunelab.report.rates import rates_plot
from tunelab.report.rates_content import SearchedRate
from tunelab.report.study_tables import rates_table

LORA, QLORA = "lora r128 bf16", "qlora r128 nf4"
TRIED = ((2e-5, 2.1), (6.32e-5, 1.95), (2e-4, 1.91), (6.32e-4, 1.96), (2e-3, None))
IN_USE = "Each tuned arm has the learning rate that its validation rows chose: lora r128 bf16 6.32e-05."


def searched_report() -> StudyReport:
    rates = (
        SearchedRate(LORA, 2e-4, 2e-4, LORA, TRIED),
        SearchedRate(QLORA, 2e-4, 2e-4, LORA, TRIED),
        SearchedRate("full bf16", 2e-5, 2e-5, "full bf16", ((2e-6, 2.4), (6.32e-6, 2.2), (2e-5, 2.02)), "highest"),
    )
    said = ("8 trials: one training each.", "A sentence with -0.5 in it.")
    return dataclasses.replace(example_report(1), rates=rates, rates_said=said, rates_in_use=IN_USE)


REPORT = searched_report()


def test_the_table_has_a_row_for_each_arm() -> None:
    rows = [[cell.text for cell in row] for row in rates_table(REPORT).rows]
    assert rows == [
        [LORA, "0.0002", "0.0002", "1.9100", "1.9100", "5", "diverged at 0.002"],
        [QLORA, "0.0002", "0.0002", "1.9100", "1.9100", "5", "trials of lora r128 bf16; diverged at 0.002"],
        ["full bf16", "2e-05", "2e-05", "2.0200", "2.0200", "3", "the highest that was tried"],
    ]
    unknown = dataclasses.replace(REPORT, rates=(SearchedRate(LORA, 2e-4, None, LORA, ((2e-4, None),)),))
    assert [cell.text for cell in rates_table(unknown).rows[0]][1:5] == ["–", "0.0002", "–", "diverged"]


def test_it_is_on_the_page_in_markdown_and_on_the_console() -> None:
    report = dataclasses.replace(without_plots(REPORT), rates=REPORT.rates)
    page, text = html_page(report), markdown_page(report)
    assert '<section id="rates"' in page and '<a href="#rates">Learning rates</a>' in page
    assert 'id="plot-learning-rates"' in page and page.count('id="plot-learning-rates"') == 1
    assert "A sentence with −0.5 in it." in page
    lead = page[page.index('<div class="answers">') :]  # beside the plot, not in its place
    assert IN_USE in lead[: lead.index("</div>")]
    assert "## Learning rates" in text and "- 8 trials: one training each." in text and IN_USE in text
    assert "Learning rates" in [table.title for table in console_tables(REPORT)]
    assert answer_lines(REPORT)[-1] == IN_USE and note_lines(REPORT)[-2:] == list(REPORT.rates_said)
    plain = html_page(without_plots(example_report(1)))
    assert 'id="rates"' not in plain and "Learning rates" not in markdown_page(example_report(1))


def test_the_plot_has_a_line_for_each_arm_with_tries_of_its_own() -> None:
    axes = figures(dataclasses.replace(without_plots(REPORT), rates=REPORT.rates))["learning-rates"].axes[0]
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 1]  # type: ignore[arg-type]
    assert [list(line.get_ydata()) for line in lines] == [[2.1, 1.95, 1.91, 1.96], [2.4, 2.2, 2.02]]
    assert axes.get_xscale() == "log"
    plot = rates_plot(REPORT)
    assert plot is not None and "Crosses at the top: diverged." in plot.caption
    assert "2e-05 2.0200" in plot.words and "0.002 diverged" in plot.words
    nothing = dataclasses.replace(REPORT, rates=(SearchedRate(LORA, 2e-4, None, LORA, ((2e-4, None),)),))
    assert rates_plot(nothing) is None and rates_plot(example_report(1)) is None


def test_losses_far_apart_are_on_a_logarithmic_axis() -> None:
    far = SearchedRate(LORA, 2e-4, 2e-4, LORA, ((2e-4, 1.9), (2e-3, 11.0)))
    plot = rates_plot(dataclasses.replace(REPORT, rates=(far,)))
    assert plot is not None and plot.figure.axes[0].get_yscale() == "log"


def test_it_is_stored_and_reports_of_before_are_read() -> None:
    assert StudyReport.from_json(REPORT.to_json()) == REPORT
    before = {key: value for key, value in REPORT.to_json().items() if not key.startswith("rates")}
    assert StudyReport.from_json(before).rates == ()
    with pytest.raises(DataError, match="learning rates of the report name 'other'"):
        dataclasses.replace(REPORT, rates=(SearchedRate("other", 2e-4, None, LORA, ()),))
