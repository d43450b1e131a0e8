"""Loss over steps, one panel per arm: its curve among the others', with its loss on held-out and validation rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tunelab.report.content import Curve, StudyReport
from tunelab.report.drawing import COLOURS, INK, PAPER, SMALL, Plot, new_panels, series, set_tooltip
from tunelab.report.labels import shortened
from tunelab.units import format_significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[float, float]

# Curves are reduced to this many points, more than the pixels on a phone. The smoothed line has fewer.
_CURVE_POINTS = 200
_LINE_POINTS = 40
#: Points of all curves together, which share them where they are many.
_ALL_POINTS = 20_000
#: Arms of a plot in which each panel shows the other arms in gray.
_MOST_TOGETHER = 12

_HEIGHT = 112.0  # of a panel
_OTHERS = COLOURS["strong-line"][0]


def curves_plot(report: StudyReport) -> Plot:
    """Small multiples: per arm a smoothed line over its faint steps, other arms gray behind, losses on other rows."""
    each = max(_LINE_POINTS, min(_CURVE_POINTS, _ALL_POINTS // max(1, len(report.curves))))
    drawn = {curve: means(curve.points, each) for curve in report.curves if curve.points}
    lines = {curve: means(points, _LINE_POINTS)[0] for curve, (points, _) in drawn.items()}
    arms = list(dict.fromkeys(curve.arm for curve in drawn))
    columns = min(2, len(arms))
    heights = [_HEIGHT] * math.ceil(len(arms) / columns)
    figure, all_axes = new_panels(heights, left=44, right=12, top=24, bottom=24, columns=columns)
    for axes in all_axes[len(arms) :]:
        axes.remove()
    for arm, axes in zip(arms, all_axes, strict=False):
        _draw_arm(axes, report, arm, drawn, lines)
    _share_axes(all_axes[: len(arms)], columns)
    ends = "; ".join(
        f"{one.arm}, seed {one.seed}: ends at {format_significant(points[-1][1], 3)}"
        for one, (points, _) in drawn.items()
    )
    title = "Training loss (nats per target token) over optimizer steps"
    return Plot("training-loss", title, _caption(drawn), f"Training loss. {ends}", figure)


def _draw_arm(
    axes: Axes,
    report: StudyReport,
    arm: str,
    drawn: Mapping[Curve, tuple[Sequence[Point], int]],
    lines: Mapping[Curve, Sequence[Point]],
) -> None:
    colour, _ = series(report, arm)
    seen = {arm}
    shows_others = len({curve.arm for curve in lines}) <= _MOST_TOGETHER
    for curve, line in lines.items():
        if shows_others and curve.arm not in seen:  # the first seed of each other arm
            seen.add(curve.arm)
            axes.plot(*zip(*line, strict=True), color=_OTHERS, linewidth=1.0, alpha=0.6, zorder=1)
    for curve, (points, _) in drawn.items():
        if curve.arm != arm:
            continue
        if len(points) > _LINE_POINTS:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.75, alpha=0.25, zorder=2)
        (smoothed,) = axes.plot(*zip(*lines[curve], strict=True), color=colour, linewidth=1.75, zorder=3)
        set_tooltip(smoothed, f"{curve.arm}, seed {curve.seed}")
        face: dict[str, Any] = {"markerfacecolor": PAPER, "markeredgecolor": INK, "markeredgewidth": 1.25}
        for rows, measured, shape in (("validation", curve.validation, "o"), ("held-out", curve.held_out, "D")):
            if measured:
                marks = axes.plot(*zip(*measured, strict=True), shape, markersize=5, zorder=4, clip_on=False, **face)
                set_tooltip(marks[0], f"{curve.arm}, seed {curve.seed}: on {rows} rows")
    area = axes.get_window_extent()
    axes.set_title(shortened(arm, area.width, SMALL), loc="left", fontsize=SMALL, color=colour, pad=4)


def _share_axes(all_axes: Sequence[Axes], columns: int) -> None:
    """The same limits everywhere; numbers only at the left and below each column's last panel."""
    right = max(1.0, *(axes.dataLim.x1 for axes in all_axes))
    low, high = min(axes.dataLim.y0 for axes in all_axes), max(axes.dataLim.y1 for axes in all_axes)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    for place, axes in enumerate(all_axes):
        axes.set_xlim(0, right)
        axes.set_ylim(low - margin, high + margin)
        axes.locator_params(nbins=4)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(labelleft=place % columns == 0, labelbottom=place + columns >= len(all_axes))
        axes.grid(axis="y")


def _caption(drawn: Mapping[Curve, tuple[Sequence[Point], int]]) -> str:
    most = max(bucket for _, bucket in drawn.values())
    caption = f"Each point is the mean of up to {most} logged steps." if most > 1 else "Every logged step."
    if (longest := max(len(points) for points, _ in drawn.values())) > _LINE_POINTS:
        steps = most * math.ceil(longest / _LINE_POINTS)
        caption += f" Lines are means of up to {steps} steps; faint lines are the points."
    if 1 < len({curve.arm for curve in drawn}) <= _MOST_TOGETHER:
        caption += " Gray: the other arms."
    if any(curve.held_out for curve in drawn):
        caption += " Diamonds: loss on held-out rows."
    if any(curve.validation for curve in drawn):
        caption += " Circles: loss on validation rows, which choose."
    return caption


def means(points: Sequence[Point], most: int) -> tuple[list[Point], int]:
    """At most `most` points, each the mean of about equally many neighbors; and how many that are at most."""
    count = min(most, len(points))
    ends = [place * len(points) // count for place in range(count + 1)]
    parts = [points[start:end] for start, end in pairwise(ends)]
    found = [(math.fsum(x for x, _ in part) / len(part), math.fsum(y for _, y in part) / len(part)) for part in parts]
    return found, math.ceil(len(points) / count)
