"""Validation loss against learning rate: a line per searched arm, with its chosen and its own rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunelab.report.content import StudyReport
from tunelab.report.drawing import (
    PAPER,
    Plot,
    add_arm_legend,
    new_curve_axes,
    series,
    set_tooltip,
    use_log_axis,
)
from tunelab.report.rates_content import SearchedRate
from tunelab.units import format_loss, format_significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "learning-rates"

#: Where the lowest and the highest loss differ by more than this factor, the axis is logarithmic.
_LOG_FROM = 3.0


def rates_plot(report: StudyReport) -> Plot | None:
    """The trials of every arm that has its own; None if there is no loss to draw."""
    arms = [one for one in report.rates if one.source == one.arm and any(loss is not None for _, loss in one.tried)]
    if not arms:
        return None
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure, axes = new_curve_axes("validation loss (nats per token), lower is better", "learning rate")
    for one in arms:
        _draw_arm(axes, report, one)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    losses = [loss for one in arms for _, loss in one.tried if loss is not None]
    if max(losses) > _LOG_FROM * min(losses) > 0:
        use_log_axis(axes, "y")
    add_arm_legend(axes, report, [one.arm for one in arms])
    words = "; ".join(f"{one.arm}: {_in_words(one)}" for one in arms)
    caption = "Each point is one training. Filled: the chosen rate. Squares: the arm's own rate."
    if any(loss is None for one in arms for _, loss in one.tried):
        caption += " Crosses at the top: diverged."
    return Plot(NAME, "Validation loss against learning rate", caption, f"Validation loss by rate. {words}", figure)


def _draw_arm(axes: Axes, report: StudyReport, one: SearchedRate) -> None:
    colour, _ = series(report, one.arm)
    points = [(lr, loss) for lr, loss in one.tried if loss is not None]
    axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.5, zorder=2)
    for lr, loss in one.tried:
        name = f"{one.arm} at {format_significant(lr, 3)}"
        kind: dict[str, Any] = {"color": colour, "markeredgewidth": 1.5, "zorder": 3, "clip_on": False}
        if loss is None:
            (mark,) = axes.plot(lr, 1.0, "x", markersize=7, transform=axes.get_xaxis_transform(), **kind)
            set_tooltip(mark, f"{name}: diverged")
            continue
        face = colour if lr == one.chosen else PAPER
        shape = "s" if lr == one.own else "o"
        (mark,) = axes.plot(lr, loss, shape, markersize=8, markerfacecolor=face, **kind)
        set_tooltip(mark, f"{name}: {format_loss(loss)}")


def _in_words(one: SearchedRate) -> str:
    return ", ".join(
        f"{format_significant(lr, 3)} {'diverged' if loss is None else format_loss(loss)}" for lr, loss in one.tried
    )
