"""Paired differences with their intervals (a forest plot): what the answers argue from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunelab.report.content import PairedComparison, StudyReport
from tunelab.report.drawing import (
    COLOURS,
    INK,
    MUTED,
    SMALL,
    STRONG_LINE,
    WIDTH,
    Plot,
    new_panels,
    seed_points,
    set_tooltip,
)
from tunelab.report.labels import shortened, text_width
from tunelab.units import format_interval, format_number, interval_decimals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Units that are shares or percentages, and how many points one of them is.
POINTS = {"0-1": 100.0, "0-100": 1.0}

_ROW = 31.0  # height per comparison, in points
_TOP, _BOTTOM = 20.0, 20.0  # room for a panel's title and its ticks
_COLOURS = {"better": COLOURS["good"][0], "worse": COLOURS["bad"][0]}


def forest_plots(report: StudyReport) -> list[Plot]:
    """The comparisons that the questions are about, then all comparisons if there are others."""
    about = {one.about for one in report.questions}
    asked = [one for one in report.comparisons if (one.a, one.b, one.benchmark, one.metric) in about]
    plots = [_forest(asked, "differences-asked", "Differences that the answers rest on")] if asked else []
    if len(asked) < len(report.comparisons):
        plots.append(_forest(report.comparisons, "differences", "All differences"))
    return plots


def _forest(comparisons: Sequence[PairedComparison], name: str, title: str) -> Plot:
    """One panel per metric, since metrics have their own units; one row per comparison."""
    panels: dict[tuple[str, str], list[PairedComparison]] = {}
    for one in comparisons:
        panels.setdefault((one.benchmark, one.metric), []).append(one)
    heights = [_ROW * len(rows) for rows in panels.values()]
    figure, all_axes = new_panels(heights, left=10, right=10, top=_TOP, bottom=_BOTTOM)
    for axes, rows in zip(all_axes, panels.values(), strict=True):
        _draw_panel(axes, rows)
    caption = (
        "Second arm minus first on the same items, with 95 % intervals of one comparison each, over trainings too if "
        "each arm has several. Green: better, red: worse, gray: no difference shown (after Holm's correction)."
    )
    if any(len(one.by_seed) > 1 for one in comparisons):
        caption += " Small circles are the seeds."
    words = "; ".join(
        f"{one.a} → {one.b}, {one.benchmark} {one.metric}: {_value(one)}, {one.outcome}" for one in comparisons
    )
    return Plot(name, title, caption, f"{title}. {words}", figure)


def _draw_panel(axes: Axes, rows: Sequence[PairedComparison]) -> None:
    axes.axvline(0, color=STRONG_LINE, linewidth=1.25, zorder=1)
    for row, one in enumerate(rows):
        _draw_row(axes, one, row)
    axes.set_ylim(len(rows) - 0.55, -0.75)
    axes.set_yticks([])
    axes.margins(x=0.06)
    axes.grid(axis="x")
    axes.set_title(shortened(_panel_title(rows[0]), WIDTH - 20, SMALL), loc="left", fontsize=SMALL, color=MUTED, pad=5)


def _draw_row(axes: Axes, one: PairedComparison, row: int) -> None:
    """Draw a comparison's arms and value above its interval."""
    scale = POINTS.get(one.unit, 1.0)
    colour = _COLOURS.get(one.outcome, MUTED)
    value, low, high = (scale * end for end in (one.difference, one.low, one.high))
    kind: dict[str, Any] = {"color": colour, "capsize": 4, "elinewidth": 2, "capthick": 2, "zorder": 3}
    point, *_ = axes.errorbar(value, row, xerr=[[value - low], [high - value]], fmt="o", markersize=7, **kind)
    set_tooltip(point, f"{one.a} → {one.b}: {_value(one)}")
    if len(one.by_seed) > 1:
        seed_points(axes, [scale * value for value in one.by_seed], row, colour)
    edge, shown = axes.get_yaxis_transform(), _value(one)
    above: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 8), "va": "baseline", "fontsize": SMALL}
    name = shortened(f"{one.a} → {one.b}", WIDTH - 20 - text_width(shown, SMALL) - 12, SMALL)
    axes.annotate(name, (0, row), xycoords=edge, ha="left", color=INK, **above)
    axes.annotate(shown, (1, row), xycoords=edge, ha="right", color=MUTED, **above)


def _panel_title(one: PairedComparison) -> str:
    unit = "points" if one.unit in POINTS else one.unit
    better = {True: "right is better", False: "left is better", None: ""}[one.higher_is_better]
    return ", ".join(part for part in (f"{one.benchmark}: {one.metric.replace('_', ' ')}", unit, better) if part)


def _value(one: PairedComparison) -> str:
    scale = POINTS.get(one.unit, 1.0)
    shift, low, high = (scale * end for end in (one.difference, one.low, one.high))
    decimals = interval_decimals(low, high)
    shown = format_number(shift, decimals, signed=True)
    return f"{shown} ({format_interval(low, high, decimals)})".replace("-", "\N{MINUS SIGN}")
