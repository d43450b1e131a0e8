"""Quality against what it costs, with the Pareto front: the arms that no other arm beats in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tunelab.files import file_stem
from tunelab.report.content import Arm, ArmScore, StudyReport
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
from tunelab.report.scales import MARK, Box, Scale, padded_range, place_labels, shortened
from tunelab.units import GIB, MIB, format_bytes, format_duration, format_with_error


@dataclass(frozen=True, slots=True)
class Cost:
    """Something that an arm costs, less being better."""

    name: str
    of: Callable[[Arm], float | None]
    units: tuple[tuple[float, str], ...]
    shown: Callable[[float], str]


#: Where marks and labels may lie.
AREA = Box(48, 22, WIDTH - 8, 236)

COSTS = (
    Cost("peak memory", lambda arm: arm.peak_memory_bytes, ((GIB, "GiB"), (MIB, "MiB"), (1, "bytes")), format_bytes),
    Cost("training time", lambda arm: arm.training_seconds, ((3600, "h"), (60, "min"), (1, "s")), format_duration),
)


def pareto_front(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Places of the (cost, quality) points that no other point beats: none is at most as dear and at least as good
    and better in one of the two. Equal points are all on the front. Sorted by cost.
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
    """Main scores of a benchmark over a cost; None where fewer than two arms have both."""
    found = [(score, spent) for arm in report.arms for score, spent in _point(report, arm, benchmark, cost)]
    if len(found) < 2:
        return None
    scores = [score for score, _ in found]
    size, unit = next(one for one in cost.units if one[0] <= max(spent for _, spent in found) or one[0] == 1)
    area = AREA
    across = Scale(*padded_range([spent / size for _, spent in found], least=0.0), area.left + 4, area.right)
    up = Scale(*score_range(scores), area.bottom, area.top)
    points = [(across(spent / size), up(score.value)) for score, spent in found]
    higher = scores[0].higher_is_better
    front = pareto_front([(spent, score.value) for score, spent in found], higher_is_better=higher)
    marks = [
        _mark(report, score, up, point, place in front)
        for place, (score, point) in enumerate(zip(scores, points, strict=True))
    ]
    bars = [_bar(score, up, x) for score, (x, _) in zip(scores, points, strict=True)]
    steps = _steps([points[place] for place in front], area)
    labels = _labels(report, scores, points, [*bars, *_segments(steps)])
    key, bottom = _number_key(labels, area.bottom + 56)
    axes = [vertical_axis(up, area.left, area.right, score_title(scores[0]))]
    axes.append(horizontal_axis(across, area.bottom, area.bottom, f"{cost.name} ({unit}), lower is better"))
    words = "; ".join(
        f"{score.arm}: {format_with_error(score.value, score.error)} at {cost.shown(spent)}" for score, spent in found
    )
    title = f"{benchmark} against {cost.name}"
    on_front = ", ".join(scores[place].arm for place in front)
    svg = canvas(
        bottom,
        f"{title}. On the Pareto front: {on_front}. {words}",
        *axes,
        _staircase(steps),
        *marks,
        labels.drawn,
        key,
    )
    caption = f"Filled: on the Pareto front ({on_front}); errors are not considered."
    caption += _left_out(report, scores, labels.without_room)
    return Plot(f"{file_stem(benchmark)}-against-{file_stem(cost.name)}", title, caption, svg)


def _point(report: StudyReport, arm: Arm, benchmark: str, cost: Cost) -> list[tuple[ArmScore, float]]:
    """The arm's score and cost, or nothing where one of them is not known."""
    score, spent = report.main_score(arm.name, benchmark), cost.of(arm)
    return [] if score is None or spent is None else [(score, spent)]


def _left_out(report: StudyReport, scores: Sequence[ArmScore], unlabelled: Sequence[str]) -> str:
    shown = {score.arm for score in scores}
    absent = [arm.name for arm in report.arms if arm.name not in shown]
    sentences = f" Not shown, since score or cost is not known: {', '.join(absent)}." if absent else ""
    return sentences + (f" No room for the labels of {', '.join(unlabelled)}." if unlabelled else "")


def _mark(report: StudyReport, score: ArmScore, up: Scale, point: tuple[float, float], on_front: bool) -> Markup:
    """A point with its interval; filled where it is on the front."""
    x, y = point
    parts = [element("title", f"{score.arm}: {format_with_error(score.value, score.error)}")]
    if score.error is not None:
        half = INTERVAL * score.error
        parts.append(line(x, up(score.value - half), x, up(score.value + half), "interval faint"))
    parts.append(element("circle", cx=x, cy=y, r=MARK, class_="dot" if on_front else "dot hollow"))
    return element("g", *parts, class_=series_class(report, score.arm))


def _bar(score: ArmScore, up: Scale, x: float) -> Box:
    """Where a point's interval is drawn."""
    half = INTERVAL * (score.error or 0.0)
    ends = up(score.value - half), up(score.value + half)
    return Box(x - 2, min(ends), x + 2, max(ends))


def _steps(front: Sequence[tuple[float, float]], area: Box) -> list[tuple[float, float]]:
    """Corners of the border of what the front reaches: level until the next arm, then to its quality."""
    corners = [front[0]]
    for x, y in front[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (area.right, corners[-1][1])]


def _segments(corners: Sequence[tuple[float, float]]) -> list[Box]:
    """Boxes around the level and upright pieces between corners."""
    return [
        Box(min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1)
        for (x1, y1), (x2, y2) in pairwise(corners)
    ]


def _staircase(corners: Sequence[tuple[float, float]]) -> Markup:
    path = " ".join(f"{number(x)},{number(y)}" for x, y in corners)
    return element("polyline", points=path, class_="front")


@dataclass(frozen=True, slots=True)
class _Labels:
    """Drawn labels; arms by number where their names do not fit, and arms that not even a number fits."""

    drawn: Markup
    numbers: Mapping[str, str]
    without_room: Sequence[str]


def _labels(
    report: StudyReport, scores: Sequence[ArmScore], points: Sequence[tuple[float, float]], lines: Sequence[Box]
) -> _Labels:
    """Whole names beside their points; numbers instead, the arms' places in the report, where one does not fit."""
    names = [score.arm for score in scores]
    boxes = place_labels(points, names, AREA, SMALL, lines)
    if None not in boxes:
        return _Labels(_drawn(names, boxes, points), {}, [])
    places = {arm.name: str(place) for place, arm in enumerate(report.arms, 1)}
    numbers = {name: places[name] for name in names}
    boxes = place_labels(points, list(numbers.values()), AREA, SMALL, lines)
    without_room = [name for name, box in zip(names, boxes, strict=True) if box is None]
    return _Labels(_drawn(list(numbers.values()), boxes, points), numbers, without_room)


def _drawn(words: Sequence[str], boxes: Sequence[Box | None], points: Sequence[tuple[float, float]]) -> Markup:
    """Labels in their boxes, with a thin line to the mark's edge where one had to go farther away."""
    parts: list[Markup] = []
    for label, box, (x, y) in zip(words, boxes, points, strict=True):
        if box is None:
            continue
        across = min(max(x, box.left), box.right) - x
        down = min(max(y, box.top), box.bottom) - y
        far = math.hypot(across, down)
        if far > FONT:
            edge = MARK / far
            parts.append(line(x + edge * across, y + edge * down, x + across, y + down, "leader"))
        parts.append(text((box.left + box.right) / 2, box.bottom - 3.5, label, "name halo", "middle", SMALL))
    return join(*parts)


def _number_key(labels: _Labels, top: float) -> tuple[Markup, float]:
    """What the numbers stand for, two columns wide, and where the drawing ends."""
    parts, half = [], WIDTH / 2
    for place, (name, label) in enumerate(labels.numbers.items()):
        words = shortened(f"{label}  {name}", half - 12, SMALL)
        parts.append(text(8 + half * (place % 2), top + 17 * (place // 2), words, "name", None, SMALL))
    rows = math.ceil(len(parts) / 2)
    return join(*parts), top - 16 + 17 * rows
