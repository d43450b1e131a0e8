"""The report's plots as matplotlib figures: scores with intervals, loss curves, quality against cost.

`figures` is for notebooks, `svg_files` for files; the page uses `all_plots`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tunelab.files import file_stem
from tunelab.report.content import ArmScore, Curve, StudyReport
from tunelab.report.drawing import (
    FONT,
    INK,
    MUTED,
    PAPER,
    SMALL,
    WIDTH,
    Plot,
    add_legend,
    new_axes,
    plot_style,
    score_title,
    series,
    set_tooltip,
    title_above,
    title_below,
    within_bounds,
)
from tunelab.report.labels import shortened, text_width
from tunelab.report.pareto import COSTS, pareto_plot
from tunelab.report.svg import svg_file
from tunelab.units import format_with_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Curves are reduced to this many points, more than the pixels on a phone. The smoothed line has fewer, so that arms
# with similar losses can be told apart.
_CURVE_POINTS = 200
_LINE_POINTS = 40

Point = tuple[float, float]

_ROW = 38.0  # height per arm in a plot of scores


def figures(report: StudyReport) -> dict[str, Figure]:
    """All plots as figures, by name ("scores-mmlu", "training-loss"), to show and restyle."""
    return {plot.name: plot.figure for plot in all_plots(report)}


def svg_files(report: StudyReport) -> dict[str, str]:
    """All plots as SVG source, by name."""
    return {plot.name: svg_file(plot) for plot in all_plots(report)}


def all_plots(report: StudyReport) -> list[Plot]:
    """All plots that the report has data for: scores, loss curves, quality against memory and against time."""
    if not report.benchmarks and not report.curves:
        return []
    with plot_style():
        plots = [scores_plot(report, benchmark) for benchmark in report.benchmarks]
        if any(curve.points for curve in report.curves):
            plots.append(curves_plot(report))
        pareto = [pareto_plot(report, benchmark, cost) for cost in COSTS for benchmark in report.benchmarks]
    return _with_unique_names([*plots, *(plot for plot in pareto if plot is not None)])


def _with_unique_names(plots: Sequence[Plot]) -> list[Plot]:
    """Number the plots of benchmarks whose names give the same file name ("a.b", "a b")."""
    taken: Counter[str] = Counter()
    unique = []
    for plot in plots:
        taken[plot.name] += 1
        count = taken[plot.name]
        unique.append(plot if count == 1 else replace(plot, name=f"{plot.name}-{count}"))
    return unique


def scores_plot(report: StudyReport, benchmark: str) -> Plot:
    """Main scores of one benchmark: one row per arm, with 95 % intervals, and published values as diamonds."""
    scores = [one for arm in report.arms if (one := report.main_score(arm.name, benchmark)) is not None]
    figure, axes = new_axes(_ROW * len(scores) + 44, left=10, right=10, top=4, bottom=40)
    for row, score in enumerate(scores):
        _draw_score(axes, report, score, row)
    axes.set_ylim(len(scores) - 0.7, -0.7)
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.set_xlim(within_bounds(scores[0].unit, *axes.get_xlim()))
    title_below(axes, score_title(scores[0]))
    words = "; ".join(f"{score.arm} {format_with_error(score.value, score.error)}" for score in scores)
    caption = "Lines are 95 % intervals over items (± 1.96 standard errors)."
    if unknown := [score.arm for score in scores if score.error is None]:
        caption += f" Unknown for {', '.join(unknown)}."
    if any(report.published_of(score.arm, benchmark) for score in scores):
        caption += " Diamonds are published values."
    if absent := [arm.name for arm in report.arms if arm.name not in {score.arm for score in scores}]:
        caption += f" No score: {', '.join(absent)}."
    title = f"{benchmark}: {scores[0].name.replace('_', ' ')}"
    name = f"scores-{file_stem(benchmark)}"
    return Plot(name, title, caption, f"{title} with standard errors. {words}", figure)


def _draw_score(axes: Axes, report: StudyReport, score: ArmScore, row: int) -> None:
    """Draw an arm's name and value above its interval."""
    value, (colour, _) = format_with_error(score.value, score.error), series(report, score.arm)
    ends = None if score.interval is None else [[abs(score.value - end)] for end in score.interval]
    kind: dict[str, Any] = {"color": colour, "capsize": 4, "elinewidth": 2, "capthick": 2, "zorder": 3}
    point, *_ = axes.errorbar(score.value, row, xerr=ends, fmt="o", markersize=9, **kind)
    set_tooltip(point, f"{score.arm}: {value}")
    edge = axes.get_yaxis_transform()
    name = shortened(score.arm, WIDTH - 20 - text_width(value, SMALL) - 12, FONT)
    above: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 13), "va": "baseline"}
    axes.annotate(name, (0, row), xycoords=edge, ha="left", fontsize=FONT, **above)
    axes.annotate(value, (1, row), xycoords=edge, ha="right", color=MUTED, **above)
    for one in report.published_of(score.arm, score.benchmark):
        face: dict[str, Any] = {"markerfacecolor": PAPER, "markeredgecolor": INK, "markeredgewidth": 1.4}
        (diamond,) = axes.plot(one.value, row, "D", markersize=7.5, zorder=4, **face)
        set_tooltip(diamond, f"published: {one.value:g}")


def curves_plot(report: StudyReport) -> Plot:
    """Training loss over steps: a smoothed line per arm and seed, the unsmoothed curve faintly behind it."""
    drawn = {curve: _means(curve.points, _CURVE_POINTS) for curve in report.curves if curve.points}
    arms = list(dict.fromkeys(curve.arm for curve in drawn))
    names = [shortened(arm, WIDTH - 60, SMALL) for arm in arms]
    columns = max(1, int(WIDTH / (max(text_width(name, SMALL) for name in names) + 55)))
    figure, axes = new_axes(276, left=44, right=12, top=24, bottom=44)
    lines: dict[str, Line2D] = {}
    for curve, (points, _) in drawn.items():
        line = _draw_curve(axes, report, curve, points, is_first=curve.arm not in lines)
        lines.setdefault(curve.arm, line)
    axes.set_xlim(0, max(*axes.dataLim.intervalx, 1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y")
    title_above(axes, "training loss (nats per target token)")
    title_below(axes, "optimizer step")
    add_legend(axes, list(lines.values()), names, columns)
    ends = "; ".join(f"{one.arm}, seed {one.seed}: ends at {points[-1][1]:.3g}" for one, (points, _) in drawn.items())
    return Plot("training-loss", "Training loss", _curves_caption(report, drawn), f"Training loss. {ends}", figure)


def _draw_curve(axes: Axes, report: StudyReport, curve: Curve, points: Sequence[Point], *, is_first: bool) -> Line2D:
    colour, dashes = series(report, curve.arm)
    if len(points) > _LINE_POINTS:
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.75, alpha=0.3)
        points, _ = _means(points, _LINE_POINTS)
    width, zorder = (1.75, 3) if is_first else (1.0, 2.5)
    (line,) = axes.plot(*zip(*points, strict=True), color=colour, linestyle=dashes, linewidth=width, zorder=zorder)
    set_tooltip(line, f"{curve.arm}, seed {curve.seed}")
    return line


def _curves_caption(report: StudyReport, drawn: Mapping[Curve, tuple[Sequence[Point], int]]) -> str:
    most = max(bucket for _, bucket in drawn.values())
    caption = f"Each point is the mean of up to {most} logged steps." if most > 1 else "Every logged step."
    if (longest := max(len(points) for points, _ in drawn.values())) > _LINE_POINTS:
        steps = most * math.ceil(longest / _LINE_POINTS)
        caption += f" Lines are means of up to {steps} steps; faint lines are the points."
    has_seeds = len({curve.arm for curve in report.curves}) < len(report.curves)
    return caption + (" Seeds of an arm share its color; later seeds are drawn thinner." if has_seeds else "")


def _means(points: Sequence[Point], most: int) -> tuple[list[Point], int]:
    """At most `most` points, each the mean of about equally many neighbors; and how many that are at most."""
    count = min(most, len(points))
    ends = [place * len(points) // count for place in range(count + 1)]
    parts = [points[start:end] for start, end in pairwise(ends)]
    means = [(math.fsum(x for x, _ in part) / len(part), math.fsum(y for _, y in part) / len(part)) for part in parts]
    return means, math.ceil(len(points) / count)
