"""Quality against cost, with the Pareto front: the arms that no other arm beats in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunelab.files import file_stem
from tunelab.report.content import Arm, ArmScore, StudyReport
from tunelab.report.drawing import (
    MUTED,
    PAPER,
    SMALL,
    STRONG_LINE,
    WIDTH,
    Plot,
    add_legend,
    has_log_axis,
    new_axes,
    score_title,
    series,
    set_tooltip,
    title_above,
    title_below,
    use_log_axis,
    within_bounds,
)
from tunelab.report.labels import LEADER, MARK, Box, place_labels, shortened
from tunelab.report.study_tables import memory_words
from tunelab.report.table import score_text
from tunelab.units import GIB, MIB, format_bytes, format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes


#: Height of the plot; its axes are 214 high, between margins of 22 above and 48 at the left.
HEIGHT = 280.0


@dataclass(frozen=True, slots=True)
class Cost:
    """A cost of an arm; less is better."""

    name: str
    of: Callable[[Arm], float | None]
    units: tuple[tuple[float, str], ...]
    shown: Callable[[float], str]


COSTS = (
    Cost("peak memory", lambda arm: arm.peak_memory_bytes, ((GIB, "GiB"), (MIB, "MiB"), (1, "bytes")), format_bytes),
    Cost("training time", lambda arm: arm.training_seconds, ((3600, "h"), (60, "min"), (1, "s")), format_duration),
)


def pareto_front(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Indices of the (cost, quality) points that no other point dominates (no more expensive, no worse, and better in
    one of the two). Equal points are all on the front. Sorted by cost.
    """
    signed = [(cost, quality if higher_is_better else -quality) for cost, quality in points]
    front = [
        place
        for place, (cost, quality) in enumerate(signed)
        if not any(
            other_cost <= cost and other_quality >= quality and (other_cost, other_quality) != (cost, quality)
            for other_cost, other_quality in signed
        )
    ]
    return sorted(front, key=lambda place: signed[place])


def pareto_plot(report: StudyReport, benchmark: str, cost: Cost) -> Plot | None:
    """Main scores of the tuned arms on a benchmark against a cost; None if fewer than two have both.

    An arm that is not tuned costs no training: no arm competes with it, so its score is a line.
    """
    tuned = [arm for arm in report.arms if arm.training_seconds != 0]
    found = [(score, spent) for arm in tuned for score, spent in _point(report, arm, benchmark, cost)]
    if len(found) < 2:
        return None
    untuned = [report.main_score(arm.name, benchmark) for arm in report.arms if arm not in tuned]
    levels = [score for score in untuned if score is not None]
    scores = [score for score, _ in found]
    size, unit = next(one for one in cost.units if one[0] <= max(spent for _, spent in found) or one[0] == 1)
    points = [(spent / size, score.value) for score, spent in found]
    front = pareto_front(points, higher_is_better=scores[0].higher_is_better)
    figure, axes = new_axes(HEIGHT, left=48, right=8, top=22, bottom=HEIGHT - 236)
    for place, (score, point) in enumerate(zip(scores, points, strict=True)):
        _draw_mark(axes, report, score, point, place in front)
    for level in levels:
        colour, _ = series(report, level.arm)
        axes.axhline(level.value, color=colour, linewidth=1.25, dashes=(1.5, 2.5), zorder=1.5)
    if has_log_axis([*scores, *levels]):
        use_log_axis(axes, "y")
    axes.margins(x=0.08)
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(within_bounds(scores[0].unit, *axes.get_ylim()))
    corners = [points[place] for place in front] + [(axes.get_xlim()[1], points[front[-1]][1])]
    axes.plot(*zip(*corners, strict=True), color=MUTED, linewidth=1.25, dashes=(4, 3), drawstyle="steps-post", zorder=2)
    axes.grid(axis="y")
    title_above(axes, score_title(scores[0]))
    title_below(axes, f"{cost.name} ({unit}), lower is better")
    # The lines' names begin above their left ends.
    starts = [(axes.get_xlim()[0], level.value) for level in levels]
    without_room = draw_arm_labels(axes, report, [one.arm for one in (*scores, *levels)], [*points, *starts])
    words = "; ".join(f"{score.arm}: {score_text(score)} at {cost.shown(spent)}" for score, spent in found)
    title = f"{benchmark} against {cost.name}"
    on_front = ", ".join(scores[place].arm for place in front)
    caption = f"Filled: on the Pareto front ({on_front}); standard errors are ignored."
    if levels:
        caption += f" Dotted lines: not tuned ({', '.join(level.arm for level in levels)})."
    if cost.name == "peak memory":
        caption += f" {memory_words(report)}".rstrip()
    caption += _left_out(report, [*scores, *levels], without_room)
    name = f"{file_stem(benchmark)}-against-{file_stem(cost.name)}"
    return Plot(name, title, caption, f"{title}. On the Pareto front: {on_front}. {words}", figure)


def _point(report: StudyReport, arm: Arm, benchmark: str, cost: Cost) -> list[tuple[ArmScore, float]]:
    """The arm's score and cost; empty if one of them is not known."""
    score, spent = report.main_score(arm.name, benchmark), cost.of(arm)
    return [] if score is None or spent is None else [(score, spent)]


def _left_out(report: StudyReport, scores: Sequence[ArmScore], unlabelled: Sequence[str]) -> str:
    shown = {score.arm for score in scores}
    absent = [arm.name for arm in report.arms if arm.name not in shown]
    sentences = f" Not shown (score or cost unknown): {', '.join(absent)}." if absent else ""
    return sentences + (f" No room for the labels of {', '.join(unlabelled)}." if unlabelled else "")


def _draw_mark(axes: Axes, report: StudyReport, score: ArmScore, point: tuple[float, float], on_front: bool) -> None:
    """Draw a point with its interval; filled if it is on the front."""
    colour, _ = series(report, score.arm)
    if score.interval is not None:  # fainter than the mark
        axes.vlines(point[0], *score.interval, color=colour, linewidth=1.5, alpha=0.45)
    (mark,) = axes.plot(*point, "o", color=colour, markersize=2 * MARK, markeredgewidth=1.75, zorder=3, clip_on=False)
    mark.set_markerfacecolor(colour if on_front else PAPER)
    set_tooltip(mark, f"{score.arm}: {score_text(score)}")


def draw_arm_labels(
    axes: Axes, report: StudyReport, arms: Sequence[str], values: Sequence[tuple[float, float]]
) -> list[str]:
    """Draw full names next to the points; if one does not fit, the arms' numbers in the report, with a legend below.
    Returns the arms whose numbers do not fit either.

    Args:
        axes: of a plot of this HEIGHT and its margins.
        values: the arms' points.
    """
    names = [shortened(arm, WIDTH, SMALL) for arm in arms]
    points = [(float(x), float(y)) for x, y in axes.transData.transform(values)]
    area = (48.0, HEIGHT - 236, WIDTH - 8, HEIGHT - 22)
    boxes = place_labels(points, names, area, SMALL)
    labels = names
    if None in boxes:
        places = {arm.name: str(place) for place, arm in enumerate(report.arms, 1)}
        labels = [places[arm] for arm in arms]
        boxes = place_labels(points, labels, area, SMALL)
    for label, box, point, value in zip(labels, boxes, points, values, strict=True):
        if box is not None:
            _draw_label(axes, label, box, point, value)
    if labels is not names:
        _add_key(axes, report, arms, labels)
    return [arm for arm, box in zip(arms, boxes, strict=True) if box is None]


def _draw_label(axes: Axes, label: str, box: Box, point: tuple[float, float], value: tuple[float, float]) -> None:
    """Draw a label in its box, with a thin line to the mark if it is far away."""
    left, bottom, right, top = box
    x, y = point
    far = math.hypot(min(max(x, left), right) - x, min(max(y, bottom), top) - y)
    line: dict[str, Any] = {"arrowstyle": "-", "color": STRONG_LINE, "linewidth": 0.75, "shrinkA": 0, "shrinkB": MARK}
    axes.annotate(
        label,
        value,
        ((left + right) / 2 - x, bottom + 3.5 - y),
        textcoords="offset points",
        ha="center",
        va="baseline",
        fontsize=SMALL,
        arrowprops=line if far > LEADER else None,
        zorder=5,
    )


def _add_key(axes: Axes, report: StudyReport, arms: Sequence[str], labels: Sequence[str]) -> None:
    """Add a two-column legend of the numbers below the axes."""
    from matplotlib.lines import Line2D

    names = [shortened(f"{n}  {arm}", WIDTH / 2 - 58, SMALL) for n, arm in zip(labels, arms, strict=True)]
    marks = [Line2D([], [], marker="o", linestyle="", color=series(report, arm)[0]) for arm in arms]
    add_legend(axes, marks, names, columns=2)
