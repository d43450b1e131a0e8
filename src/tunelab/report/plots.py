"""The report's plots as matplotlib figures: differences, scores with intervals, loss curves, quality against cost.

`figures` is for notebooks, `svg_files` for files; the page uses `plots_in_turn`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tunelab.files import file_stem
from tunelab.report.budgets import budget_plots
from tunelab.report.content import ArmScore, StudyReport
from tunelab.report.curves import curves_plot
from tunelab.report.drawing import (
    FONT,
    INK,
    MUTED,
    PAPER,
    SMALL,
    WIDTH,
    Plot,
    has_log_axis,
    new_axes,
    plot_style,
    score_title,
    seed_points,
    series,
    set_tooltip,
    title_below,
    use_log_axis,
    within_bounds,
)
from tunelab.report.forest import forest_plots
from tunelab.report.forgetting import forgetting_plot
from tunelab.report.labels import shortened, text_width
from tunelab.report.pareto import COSTS, pareto_plot
from tunelab.report.rates import rates_plot
from tunelab.report.svg import svg_file
from tunelab.report.table import score_text
from tunelab.units import format_significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 38.0  # height per arm in a plot of scores


def figures(report: StudyReport) -> dict[str, Figure]:
    """All plots as figures, by name ("scores-mmlu", "training-loss"), to show and restyle."""
    return {plot.name: plot.figure for plot in all_plots(report)}


def svg_files(report: StudyReport) -> dict[str, str]:
    """All plots as SVG source, by name."""
    return {plot.name: svg_file(plot) for plot in all_plots(report)}


def all_plots(report: StudyReport) -> list[Plot]:
    """All plots that the report has data for: differences (those of the answers first), scores, learning against
    forgetting, scores by budget, loss curves, loss by learning rate, quality against memory and against time."""
    return list(plots_in_turn(report))


def plots_in_turn(report: StudyReport) -> Iterator[Plot]:
    """Those of all_plots(), each made when it is asked for.

    Plots of benchmarks whose names give the same file name ("a.b", "a b") are numbered.
    """
    if not (report.benchmarks or report.curves or report.comparisons or report.forgetting or report.rates):
        return
    made, taken = _made(report), Counter[str]()
    while True:
        with plot_style():  # of the whole process, so not while the caller has the plot
            plot = next(made, None)
        if plot is None:
            return
        taken[plot.name] += 1
        count = taken[plot.name]
        yield plot if count == 1 else replace(plot, name=f"{plot.name}-{count}")


def _made(report: StudyReport) -> Iterator[Plot]:
    yield from forest_plots(report)
    for benchmark in report.benchmarks:
        yield scores_plot(report, benchmark)
    if (forgetting := forgetting_plot(report)) is not None:
        yield forgetting
    yield from budget_plots(report)
    if any(curve.points for curve in report.curves):
        yield curves_plot(report)
    if (rates := rates_plot(report)) is not None:
        yield rates
    for cost in COSTS:
        for benchmark in report.benchmarks:
            if (pareto := pareto_plot(report, benchmark, cost)) is not None:
                yield pareto


def scores_plot(report: StudyReport, benchmark: str) -> Plot:
    """Main scores of one benchmark: one row per arm, with 95 % intervals, and published values as diamonds."""
    scores = [one for arm in report.arms if (one := report.main_score(arm.name, benchmark)) is not None]
    figure, axes = new_axes(_ROW * len(scores) + 44, left=10, right=10, top=4, bottom=40)
    for row, score in enumerate(scores):
        _draw_score(axes, report, score, row)
    axes.set_ylim(len(scores) - 0.7, -0.7)
    axes.set_yticks([])
    axes.grid(axis="x")
    if has_log_axis(scores):
        use_log_axis(axes, "x")
    axes.set_xlim(within_bounds(scores[0].unit, *axes.get_xlim()))
    title_below(axes, score_title(scores[0]))
    words = "; ".join(f"{score.arm} {score_text(score)}" for score in scores)
    caption = "Lines are 95 % intervals over items (± 1.96 standard errors)."
    if unknown := [score.arm for score in scores if score.error is None]:
        caption += f" Unknown for {', '.join(unknown)}."
    if any(len(score.by_seed) > 1 for score in scores):
        caption += " Small circles are the seeds."
    if has_log_axis(scores):
        caption += " The axis is logarithmic."
    if any(report.published_of(score.arm, benchmark) for score in scores):
        caption += " Diamonds are published values."
    if absent := [arm.name for arm in report.arms if arm.name not in {score.arm for score in scores}]:
        caption += f" No score: {', '.join(absent)}."
    title = f"{benchmark}: {scores[0].name.replace('_', ' ')}"
    name = f"scores-{file_stem(benchmark)}"
    return Plot(name, title, caption, f"{title} with standard errors. {words}", figure)


def _draw_score(axes: Axes, report: StudyReport, score: ArmScore, row: int) -> None:
    """Draw an arm's name and value above its interval."""
    value, (colour, _) = score_text(score), series(report, score.arm)
    ends = None if score.interval is None else [[abs(score.value - end)] for end in score.interval]
    kind: dict[str, Any] = {"color": colour, "capsize": 4, "elinewidth": 2, "capthick": 2, "zorder": 3}
    point, *_ = axes.errorbar(score.value, row, xerr=ends, fmt="o", markersize=9, **kind)
    set_tooltip(point, f"{score.arm}: {value}")
    if len(score.by_seed) > 1:
        seed_points(axes, score.by_seed, row, colour)
    edge = axes.get_yaxis_transform()
    name = shortened(score.arm, WIDTH - 20 - text_width(value, SMALL) - 12, FONT)
    above: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 13), "va": "baseline"}
    axes.annotate(name, (0, row), xycoords=edge, ha="left", fontsize=FONT, **above)
    axes.annotate(value, (1, row), xycoords=edge, ha="right", color=MUTED, **above)
    for one in report.published_of(score.arm, score.benchmark):
        face: dict[str, Any] = {"markerfacecolor": PAPER, "markeredgecolor": INK, "markeredgewidth": 1.4}
        (diamond,) = axes.plot(one.value, row, "D", markersize=7.5, zorder=4, **face)
        set_tooltip(diamond, f"published: {format_significant(one.value, 6)}")
