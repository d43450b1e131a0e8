"""What plots are drawn with: lines, texts and axes of small SVG texts.

An SVG holds classes, no colours: assets/report/plots.css gives them. An arm has the same colour in every plot. Lengths
are in units of the viewBox, which a phone shows at about one pixel each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunelab.report.content import ArmScore, StudyReport
from tunelab.report.markup import Markup, element, join, number
from tunelab.report.scales import Scale, padded_range, shortened, text_width

WIDTH = 380.0
FONT = 12.0
SMALL = 11.0

#: Colours in plots.css; arms beyond them begin again with dashed lines.
SERIES = 8

#: Half of a 95 % interval in standard errors.
INTERVAL = 1.96

_BOUNDS = {"0-1": (0.0, 1.0), "0-100": (0.0, 100.0)}


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot with its words.

    Attributes:
        name: unique in the report, fit for a file name ("scores-mmlu").
        title: what is shown, in a line.
        caption: how to read it, and what is not in it.
        svg: the drawing.
    """

    name: str
    title: str
    caption: str
    svg: Markup


def series_class(report: StudyReport, arm: str) -> str:
    """The class that colours an arm, the same in every plot."""
    place = [one.name for one in report.arms].index(arm)
    return f"series-{place % SERIES + 1}" + (" again" if place >= SERIES else "")


def canvas(height: float, label: str, *children: Markup) -> Markup:
    """The svg element; `label` is what is read aloud in its place."""
    view = f"0 0 {number(WIDTH)} {number(height)}"
    return element("svg", *children, class_="plot", viewBox=view, role="img", aria_label=label)


def text(x: float, y: float, words: str, kind: str = "", anchor: str | None = None, size: float = FONT) -> Markup:
    """A line of text on its baseline; `anchor` is "middle" or "end", None = start."""
    attributes: dict[str, str | float | None] = {
        "x": x,
        "y": y,
        "class_": kind or None,
        "text_anchor": anchor,
        "font_size": size,
    }
    return element("text", words, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def horizontal_axis(scale: Scale, top: float, bottom: float, title: str) -> Markup:
    """Grid lines from top to bottom, tick texts below and the axis' title below these."""
    parts = []
    for value, words in scale.ticks(_tick_count(scale)):
        x = scale(value)
        parts += [line(x, top, x, bottom, "grid"), text(x, bottom + 15, words, "tick", "middle", SMALL)]
    middle = (scale.start + scale.end) / 2
    return join(*parts, line(scale.start, bottom, scale.end, bottom, "axis"), _axis_title(middle, bottom + 32, title))


def vertical_axis(scale: Scale, left: float, right: float, title: str) -> Markup:
    """Grid lines from left to right, tick texts to the left and the axis' title above."""
    parts = []
    for value, words in scale.ticks(5):
        y = scale(value)
        parts += [line(left, y, right, y, "grid"), text(left - 6, y + 4, words, "tick", "end", SMALL)]
    return join(*parts, text(2, 12, shortened(title, WIDTH - 4, SMALL), "label", None, SMALL))


def _axis_title(middle: float, y: float, title: str) -> Markup:
    return text(middle, y, shortened(title, WIDTH - 8, SMALL), "label", "middle", SMALL)


def _tick_count(scale: Scale) -> int:
    """As many ticks as leave room between their texts."""
    for count in range(6, 1, -1):
        ticks = scale.ticks(count)
        widest = max((text_width(words, SMALL) for _, words in ticks), default=0)
        if len(ticks) < 2 or abs(scale(ticks[1][0]) - scale(ticks[0][0])) > widest + 10:
            return count
    return 1


def score_range(scores: Sequence[ArmScore], more: Sequence[float] = ()) -> tuple[float, float]:
    """The range of scores with their intervals and of `more` values, within what the unit allows."""
    halves = [(score.value, INTERVAL * (score.error or 0.0)) for score in scores]
    ends = [value + sign * half for value, half in halves for sign in (-1, 1)]
    least, most = _BOUNDS.get(scores[0].unit, (-math.inf, math.inf))
    return padded_range([min(max(end, least), most) for end in ends] + list(more), least, most)


def score_title(score: ArmScore) -> str:
    """A metric with its unit and direction, for an axis."""
    return f"{score.name.replace('_', ' ')} ({score.unit}), {'higher' if score.higher_is_better else 'lower'} is better"
