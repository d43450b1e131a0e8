"""The report's plots as small SVG texts: scores with intervals, loss curves, quality against what it costs.

In the page they take their colours from its variables; `plot_files` gives them as files of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tunelab.files import file_stem
from tunelab.report.content import ArmScore, Curve, StudyReport
from tunelab.report.drawing import (
    FONT,
    INTERVAL,
    SMALL,
    WIDTH,
    Plot,
    canvas,
    horizontal_axis,
    line,
    score_range,
    score_title,
    series_class,
    text,
    vertical_axis,
)
from tunelab.report.markup import Markup, element, join, number
from tunelab.report.pareto import COSTS, pareto_plot
from tunelab.report.scales import Scale, padded_range, shortened, text_width
from tunelab.units import format_with_error

ASSETS = Path(__file__).parents[1] / "assets" / "report"

# A curve with more points is thinned to about these, which is more than its pixels on a phone.
_CURVE_POINTS = 200


def all_plots(report: StudyReport) -> list[Plot]:
    """Every plot that the report has data for: scores, loss curves, quality against memory and against time."""
    plots = [scores_plot(report, benchmark) for benchmark in report.benchmarks]
    if any(curve.points for curve in report.curves):
        plots.append(curves_plot(report))
    pareto = (pareto_plot(report, benchmark, cost) for cost in COSTS for benchmark in report.benchmarks)
    return _with_unique_names([*plots, *(plot for plot in pareto if plot is not None)])


def _with_unique_names(plots: Sequence[Plot]) -> list[Plot]:
    """Plots of benchmarks whose names differ in signs alone ("a.b", "a b") get a number."""
    taken: Counter[str] = Counter()
    unique = []
    for plot in plots:
        taken[plot.name] += 1
        count = taken[plot.name]
        unique.append(plot if count == 1 else replace(plot, name=f"{plot.name}-{count}"))
    return unique


def plot_files(report: StudyReport) -> dict[str, str]:
    """Every plot as the text of an SVG file, by its file name."""
    return {f"{plot.name}.svg": svg_file(plot) for plot in all_plots(report)}


def svg_file(plot: Plot) -> str:
    """The plot as a file of its own, with its colours."""
    style = element("style", Markup((ASSETS / "plots.css").read_text(encoding="utf-8")))
    body = plot.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    place = body.index(">") + 1
    return f"{body[:place]}{style}{body[place:]}\n"


def scores_plot(report: StudyReport, benchmark: str) -> Plot:
    """Main scores of one benchmark: a row an arm, the value with its 95 % interval, published values as diamonds."""
    scores = [one for arm in report.arms if (one := report.main_score(arm.name, benchmark)) is not None]
    published = [one.value for score in scores for one in report.published_of(score.arm, benchmark)]
    scale = Scale(*score_range(scores, published), 10, WIDTH - 10)
    rows, top = [], 6.0
    for score in scores:
        rows.append(_score_row(report, score, scale, top))
        top += 38
    axis = horizontal_axis(scale, 6, top, score_title(scores[0]))
    words = "; ".join(f"{score.arm} {format_with_error(score.value, score.error)}" for score in scores)
    caption = "Lines are 95 % intervals between items (± 1.96 standard errors)."
    if unknown := [score.arm for score in scores if score.error is None]:
        caption += f" Not known for {', '.join(unknown)}."
    caption += " Diamonds are published values." if published else ""
    if absent := [arm.name for arm in report.arms if arm.name not in {score.arm for score in scores}]:
        caption += f" No score: {', '.join(absent)}."
    title = f"{benchmark}: {scores[0].name.replace('_', ' ')}"
    svg = canvas(top + 40, f"{title} with standard errors. {words}", axis, *rows)
    return Plot(f"scores-{file_stem(benchmark)}", title, caption, svg)


def _score_row(report: StudyReport, score: ArmScore, scale: Scale, top: float) -> Markup:
    """An arm's name and value above its interval, 38 high."""
    value, y = format_with_error(score.value, score.error), top + 27
    room = scale.end - scale.start - text_width(value, SMALL) - 12
    parts = [
        text(scale.start, top + 13, shortened(score.arm, room, FONT), "name"),
        text(scale.end, top + 13, value, "value", "end", SMALL),
    ]
    if score.error is not None:
        low, high = scale(score.value - INTERVAL * score.error), scale(score.value + INTERVAL * score.error)
        parts += [line(low, y, high, y, "interval"), line(low, y - 4, low, y + 4, "interval")]
        parts.append(line(high, y - 4, high, y + 4, "interval"))
    parts.append(element("circle", cx=scale(score.value), cy=y, r=4.5, class_="dot"))
    for one in report.published_of(score.arm, score.benchmark):
        x = scale(one.value)
        path = f"M{number(x)} {number(y - 6)}l5 6l-5 6l-5 -6z"
        parts.append(element("path", element("title", f"published: {one.value:g}"), d=path, class_="published"))
    return element("g", element("title", f"{score.arm}: {value}"), *parts, class_=series_class(report, score.arm))


def curves_plot(report: StudyReport) -> Plot:
    """Training loss over steps, a line for each arm and seed."""
    drawn = [(curve, *_thinned(curve)) for curve in report.curves if curve.points]
    left, bottom = 44.0, 232.0
    losses = [loss for _, points, _ in drawn for _, loss in points]
    steps = [step for _, points, _ in drawn for step, _ in points]
    across = Scale(0, max(max(steps), 1), left, WIDTH - 12)
    up = Scale(*padded_range(losses), bottom, 24)
    lines = [_curve_line(report, curve, points, across, up) for curve, points, _ in drawn]
    axes = [vertical_axis(up, left, WIDTH - 12, "training loss (nats per target token)")]
    axes.append(horizontal_axis(across, bottom, bottom, "optimiser step"))
    legend, height = _legend(report, list(dict.fromkeys(curve.arm for curve, *_ in drawn)), bottom + 54)
    most = max(bucket for _, _, bucket in drawn)
    caption = f"Each point is the mean of up to {most} logged steps." if most > 1 else "Every logged step."
    caption += " Seeds of an arm share its colour; later seeds are drawn thinner." if _has_seeds(report) else ""
    ends = "; ".join(f"{curve.arm}, seed {curve.seed}: ends at {points[-1][1]:.3g}" for curve, points, _ in drawn)
    return Plot(
        "training-loss", "Training loss", caption, canvas(height, f"Training loss. {ends}", *axes, *lines, legend)
    )


def _has_seeds(report: StudyReport) -> bool:
    return len({curve.arm for curve in report.curves}) < len(report.curves)


def _thinned(curve: Curve) -> tuple[list[tuple[float, float]], int]:
    """At most _CURVE_POINTS points, each the mean of as many neighbours as the second value says."""
    bucket = math.ceil(len(curve.points) / _CURVE_POINTS)
    parts = [curve.points[start : start + bucket] for start in range(0, len(curve.points), bucket)]
    means = [
        (math.fsum(step for step, _ in part) / len(part), math.fsum(loss for _, loss in part) / len(part))
        for part in parts
    ]
    return means, bucket


def _curve_line(
    report: StudyReport, curve: Curve, points: Sequence[tuple[float, float]], across: Scale, up: Scale
) -> Markup:
    first = next(one for one in report.curves if one.arm == curve.arm)
    path = " ".join(f"{number(across(step))},{number(up(loss))}" for step, loss in points)
    kind = f"curve {series_class(report, curve.arm)}" + ("" if first is curve else " later")
    return element("polyline", element("title", f"{curve.arm}, seed {curve.seed}"), points=path, class_=kind)


def _legend(report: StudyReport, arms: Sequence[str], top: float) -> tuple[Markup, float]:
    """A key of arms in as many rows as it needs, and where the next thing may begin."""
    parts, x, y = [], 8.0, top
    for arm in arms:
        name = shortened(arm, WIDTH - 50, SMALL)
        width = 26 + text_width(name, SMALL) + 14
        if x > 8 and x + width > WIDTH:
            x, y = 8.0, y + 18
        parts += [line(x, y - 4, x + 18, y - 4, f"curve {series_class(report, arm)}")]
        parts += [text(x + 24, y, name, "name", None, SMALL)]
        x += width
    return join(*parts), y + 10
