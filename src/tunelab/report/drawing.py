"""Shared by all plots: colors, matplotlib settings, axes with margins in points.

Figures are drawn in the light colors; svg.py replaces them with the page's variables. Lengths are in points of 1/72
inch, about one pixel on a phone. matplotlib is imported by the functions that draw, not by this module.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tunelab.report.budgets_content import BudgetScore
from tunelab.report.content import ArmScore, StudyReport
from tunelab.report.labels import possible, shortened
from tunelab.statistics.proportions import BOUNDS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH = 380.0
FONT = 12.0
SMALL = 11.0
DPI = 72

#: Prefix of the id of elements with a tooltip.
TOOLTIP = "title: "

#: The page's color variables: light and dark.
COLOURS = {
    "paper": ("#ffffff", "#14181e"),
    "raised": ("#f6f7f9", "#1b2027"),
    "ink": ("#1d2430", "#e6e9ee"),
    "muted": ("#56606e", "#a3adb9"),
    "line": ("#e3e6ea", "#2b323c"),
    "strong-line": ("#9aa3ae", "#6b7683"),
    "link": ("#1a5fa0", "#7ab8ee"),
    "good": ("#17694c", "#6fcfa8"),
    "bad": ("#a52f3f", "#f294a3"),
    "series-1": ("#1f6fb2", "#6cb0ea"),
    "series-2": ("#c4501b", "#f0905f"),
    "series-3": ("#1b7f5c", "#57c49a"),
    "series-4": ("#8a4fa0", "#c795da"),
    "series-5": ("#8f6400", "#d8ab4a"),
    "series-6": ("#147a85", "#5fc4cf"),
    "series-7": ("#b3364f", "#f08aa0"),
    "series-8": ("#5f6b76", "#a9b4be"),
}
PAPER, INK, MUTED, STRONG_LINE = (COLOURS[name][0] for name in ("paper", "ink", "muted", "strong-line"))
_SERIES = [light for name, (light, _) in COLOURS.items() if name.startswith("series")]

# On top of matplotlib's defaults, so that the user's matplotlibrc does not change reports.
_STYLE: dict[str, Any] = {
    "figure.dpi": DPI,
    "svg.fonttype": "none",  # text stays text: it uses the page's font and can be selected
    "text.parse_math": False,  # dollar signs in names are not math
    "text.color": INK,
    "font.size": SMALL,
    "axes.edgecolor": STRONG_LINE,
    "axes.labelcolor": MUTED,
    "axes.labelpad": 7.0,
    "axes.formatter.useoffset": False,
    "grid.color": COLOURS["line"][0],
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot with its texts.

    Attributes:
        name: unique in the report, usable as a file name ("scores-mmlu").
        title: what is shown, in one line.
        caption: how to read it, and what is missing.
        words: alternative text for screen readers.
        figure: the matplotlib figure.
    """

    name: str
    title: str
    caption: str
    words: str
    figure: Figure


@contextmanager
def plot_style() -> Iterator[None]:
    """Context with matplotlib settings for drawing and saving."""
    import matplotlib.style

    with warnings.catch_warnings(), matplotlib.style.context(["default", _STYLE]):
        # The browser draws the text with its own font, not with matplotlib's.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing", UserWarning)
        yield


def new_axes(height: float, *, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """A figure of width WIDTH with axes; height and margins in points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / DPI, height / DPI))
    return figure, _add_axes(figure, (left, bottom, WIDTH - left - right, height - top - bottom))


def new_curve_axes(above: str, below: str) -> tuple[Figure, Axes]:
    """A figure for one curve per arm, with the titles of its axes; add_arm_legend() completes it."""
    figure, axes = new_axes(236, left=48, right=12, top=24, bottom=40)
    axes.grid(axis="y")
    title_above(axes, above)
    title_below(axes, below)
    return figure, axes


def new_panels(
    heights: Sequence[float], *, left: float, right: float, top: float, bottom: float, columns: int = 1, gap: float = 16
) -> tuple[Figure, list[Axes]]:
    """A figure of width WIDTH with rows of axes.

    Args:
        heights: of the axes of each row; every row also has `top` above and `bottom` below them.
        left, right: margins of the figure.
        columns: axes per row, `gap` apart.
    """
    from matplotlib.figure import Figure

    total = sum(heights) + len(heights) * (top + bottom)
    figure = Figure(figsize=(WIDTH / DPI, total / DPI))
    width = (WIDTH - left - right - gap * (columns - 1)) / columns
    made, above = [], total
    for height in heights:
        above -= top + height
        boxes = [(left + column * (width + gap), above, width, height) for column in range(columns)]
        made += [_add_axes(figure, box) for box in boxes]
        above -= bottom
    return figure, made


def _add_axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes in a box (left, bottom, width, height in points)."""
    left, bottom, width, height = box
    _, total = figure.bbox.size
    axes = figure.add_axes((left / WIDTH, bottom / total, width / WIDTH, height / total))
    axes.locator_params(nbins=5)
    axes.tick_params(left=False, bottom=False)
    axes.spines[["left", "right", "top"]].set_visible(False)
    return axes


def has_log_axis(scores: Sequence[ArmScore]) -> bool:
    """Whether one arm's score dwarfs the others', so that only a logarithmic axis shows their differences."""
    values = [score.value for score in scores]
    return all(score.unit not in BOUNDS for score in scores) and min(values) > 0 and max(values) > 3 * min(values)


def use_log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5, 10, ..."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def add_legend(axes: Axes, marks: Sequence[Line2D], names: Sequence[str], columns: int) -> None:
    """Add a legend below the axes; the figure grows by its height."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "new_axes made it"
    area, more = axes.get_window_extent().frozen(), 17.3 * math.ceil(len(names) / columns) + 9
    height = figure.bbox.height + more
    figure.set_size_inches(WIDTH / DPI, height / DPI)
    axes.set_position((area.x0 / WIDTH, (area.y0 + more) / height, area.width / WIDTH, area.height / height))
    figure.legend(marks, names, loc="upper left", bbox_to_anchor=(0, more / height), ncols=columns, frameon=False)


def add_arm_legend(axes: Axes, report: StudyReport, arms: Sequence[str], untuned: Sequence[str] = ()) -> None:
    """Add a legend of arms that are drawn as curves, and of those that are dotted levels."""
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], marker="o", color=series(report, arm)[0]) for arm in arms]
    marks += [Line2D([], [], color=series(report, arm)[0], dashes=(1.5, 2.5)) for arm in untuned]
    add_legend(axes, marks, [*arms, *(f"{arm} (not tuned)" for arm in untuned)], columns=2)


def title_above(axes: Axes, title: str) -> None:
    """Set the y-axis title horizontally above the axes: a phone is too narrow for a rotated one."""
    axes.set_ylabel(shortened(title, WIDTH - 4, SMALL), rotation="horizontal", ha="left", va="baseline")
    area = axes.get_window_extent()
    axes.yaxis.set_label_coords((2 - area.x0) / area.width, 1 + 10 / area.height)


def title_below(axes: Axes, title: str) -> None:
    """Set the x-axis title."""
    axes.set_xlabel(shortened(title, WIDTH - 8, SMALL))


def set_tooltip(artist: Artist, words: str) -> None:
    """Set the tooltip shown on hover in the page."""
    artist.set_gid(TOOLTIP + possible(words))


def seed_points(axes: Axes, values: Sequence[float], row: float, colour: str) -> None:
    """Draw the value of each seed as a small circle below a row's interval."""
    face: dict[str, Any] = {"markerfacecolor": PAPER, "markeredgecolor": colour, "markeredgewidth": 1.25}
    axes.plot(values, [row + 0.2] * len(values), "o", markersize=4, zorder=4, **face)


def series(report: StudyReport, arm: str) -> tuple[str, str]:
    """An arm's color and line style, the same in all plots; when colors run out, they repeat with dashed lines."""
    place = [one.name for one in report.arms].index(arm)
    return _SERIES[place % len(_SERIES)], "--" if place >= len(_SERIES) else "-"


def within_bounds(unit: str, low: float, high: float) -> tuple[float, float]:
    """Axis limits of a score, clipped to the range of its unit."""
    least, most = BOUNDS.get(unit, (-math.inf, math.inf))
    return max(low, least), min(high, most)


def score_title(score: ArmScore | BudgetScore) -> str:
    """Axis title: metric, unit and direction."""
    return f"{score.name.replace('_', ' ')} ({score.unit}), {'higher' if score.higher_is_better else 'lower'} is better"
