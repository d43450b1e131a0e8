"""Forgetting in a report: a table by domain, and a plot of learning against forgetting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tunelab.report.content import StudyReport
from tunelab.report.drawing import (
    STRONG_LINE,
    Plot,
    new_axes,
    series,
    set_tooltip,
    title_above,
    title_below,
)
from tunelab.report.forgetting_content import Forgetting, ForgettingOfArm, Interval
from tunelab.report.labels import MARK
from tunelab.report.pareto import HEIGHT, draw_arm_labels
from tunelab.report.study_tables import Cell, Column, StudyTable
from tunelab.units import UNKNOWN, format_interval, format_number, interval_decimals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Name of the plot.
LEARNING = "learning-against-forgetting"

_ALL = "all texts"


def forgetting_table(report: StudyReport) -> StudyTable:
    """One row per domain: bits per byte of every untuned arm, and the change of every tuned one; no rows if the report
    has no such part."""
    title = "Forgetting"
    if report.forgetting is None:
        return StudyTable(title, "", (), ())
    found = report.forgetting
    bases = dict.fromkeys(one.base for one in found.arms)
    columns = [Column("Domain", is_number=False), Column("Texts")]
    columns += [Column(base, "bits per byte") for base in bases]
    columns += [Column(one.arm, f"change from {one.base}") for one in found.arms]
    caption = (
        "Bits per byte on general texts, and its change by tuning: positive is forgotten. Domains are means of few "
        "texts; the first row has a 95 % interval over domains."
    )
    return StudyTable(title, caption, tuple(columns), tuple(_rows(found, list(bases))))


def _rows(found: Forgetting, bases: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    by_domain = {(one.arm, one.domain): one for one in found.domains}
    domains = {one.domain: one.texts for one in found.domains}
    decimals = _decimals(found)
    before = {one.base: one.before for one in found.arms}
    changes = (
        Cell(format_number(one.lost[0], decimals, signed=True), (format_interval(*one.lost[1:], decimals),))
        for one in found.arms
    )
    yield (
        Cell(_ALL),
        Cell(str(sum(domains.values()))),
        *(Cell(format_number(before[one], 3)) for one in bases),
        *changes,
    )
    for domain, texts in domains.items():
        of_domain = [by_domain.get((one.arm, domain)) for one in found.arms]
        known = {one.base: of.before for one, of in zip(found.arms, of_domain, strict=True) if of is not None}
        yield (
            Cell(domain),
            Cell(str(texts)),
            *(Cell(format_number(known[base], 3) if base in known else UNKNOWN) for base in bases),
            *(Cell(UNKNOWN if of is None else format_number(of.change, decimals, signed=True)) for of in of_domain),
        )


def forgetting_plot(report: StudyReport) -> Plot | None:
    """What every tuned arm learned against what it forgot; None if the report does not have both."""
    found = report.forgetting
    points = [] if found is None else [(one, one.learned) for one in found.arms if one.learned is not None]
    if found is None or not points:
        return None
    figure, axes = new_axes(HEIGHT, left=48, right=8, top=22, bottom=HEIGHT - 236)
    axes.axvline(0, color=STRONG_LINE, linewidth=1.25, zorder=1)
    axes.axhline(0, color=STRONG_LINE, linewidth=1.25, zorder=1)
    for one, learned in points:
        _draw_point(axes, report, one, learned)
    axes.margins(0.1)
    axes.grid(axis="both")
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # settled before labels are placed
    metric = found.learned_metric.replace("_", " ")
    better = "right" if found.learned_higher_is_better else "left"
    title_below(axes, f"change of {metric} ({found.learned_unit}), {better} is better")
    title_above(axes, "change on general texts (bits per byte), lower is better")
    arms, values = [one.arm for one, _ in points], [(learned[0], one.lost[0]) for one, learned in points]
    without_room = draw_arm_labels(axes, report, arms, values)
    caption = "Tuned minus untuned, with 95 % intervals; the lines cross at the untuned model."
    if without_room:
        caption += f" No room for the labels of {', '.join(without_room)}."
    words = "; ".join(f"{one.arm} learned {_shown(learned)}, forgot {_shown(one.lost)}" for one, learned in points)
    title = f"Learning on {found.learned_on} against forgetting"
    return Plot(LEARNING, title, caption, f"{title}. {words}", figure)


def _draw_point(axes: Axes, report: StudyReport, one: ForgettingOfArm, learned: Interval) -> None:
    colour, _ = series(report, one.arm)
    faint: dict[str, Any] = {"color": colour, "linewidth": 1.5, "alpha": 0.45}
    axes.vlines(learned[0], *one.lost[1:], **faint)
    axes.hlines(one.lost[0], *learned[1:], **faint)
    (mark,) = axes.plot(learned[0], one.lost[0], "o", color=colour, markersize=2 * MARK, zorder=3, clip_on=False)
    set_tooltip(mark, f"{one.arm}: learned {_shown(learned)}, forgot {_shown(one.lost)}")


def _shown(value: Interval) -> str:
    """A change with its sign, to the digits of its interval."""
    return format_number(value[0], max(3, interval_decimals(*value[1:])), signed=True)


def _decimals(found: Forgetting) -> int:
    """Decimals of all changes in the table: those of the narrowest interval, at least 3."""
    return max(3, *(interval_decimals(*one.lost[1:]) for one in found.arms))
