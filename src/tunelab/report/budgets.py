"""Budgets in a report: score against tokens, training time and cost, a table of all budgets, and arms at equal cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunelab.files import file_stem
from tunelab.report.budgets_content import AtEqualCost, BudgetPoint, Budgets, BudgetScore
from tunelab.report.content import ArmScore, StudyReport
from tunelab.report.drawing import (
    MUTED,
    PAPER,
    Plot,
    add_arm_legend,
    new_curve_axes,
    score_title,
    series,
    set_tooltip,
    use_log_axis,
    within_bounds,
)
from tunelab.report.study_tables import Cell, Column, StudyTable
from tunelab.report.table import score_text, score_texts
from tunelab.units import (
    UNKNOWN,
    format_count,
    format_duration,
    format_error,
    format_interval,
    format_number,
    format_probability,
    format_significant,
    interval_decimals,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Begins the names of the plots.
NAME = "budgets"


@dataclass(frozen=True, slots=True)
class _Axis:
    """What scores are drawn against.

    Args:
        by: as in AtEqualCost.
        of: None = not known.
        shown: an amount for people.
    """

    by: str
    title: str
    of: Callable[[BudgetPoint], float | None]
    shown: Callable[[float], str]


_AXES = (
    _Axis("tokens", "supervised tokens", lambda one: one.tokens, lambda tokens: format_number(tokens, 0)),
    _Axis("time", "training time", lambda one: one.seconds, format_duration),
    _Axis("cost", "cost of training", lambda one: one.cost, lambda cost: format_significant(cost, 3)),
)

#: Seconds of the units of time on an axis.
_UNITS_OF_TIME = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))


def budgets_table(report: StudyReport) -> StudyTable:
    """One row per arm and budget: tokens, time, cost, and the headline score on each benchmark."""
    title, found = "Budgets", report.budgets
    if found is None:
        return StudyTable(title, "", (), ())
    costs = [axis for axis in _AXES if any(axis.of(one) is not None for one in found.points)]
    units = {"tokens": "in all steps", "time": "of one run", "cost": report.currency}
    columns = [Column("Arm", is_number=False), Column("Budget", is_number=False)]
    columns += [Column(axis.title.capitalize(), units[axis.by]) for axis in costs]
    columns += [_score_column(found, benchmark) for benchmark in found.benchmarks]
    caption = "Means over seeds; scores ± standard error over items. ↑ higher is better, ↓ lower is better."
    return StudyTable(title, caption, tuple(columns), tuple(_rows(found, costs)))


def _score_column(found: Budgets, benchmark: str) -> Column:
    one = next(iter(found.scores_on(benchmark).values()))
    direction = "↑" if one.higher_is_better else "↓"
    return Column(benchmark, f"{one.name.replace('_', ' ')} {direction}")


def _rows(found: Budgets, costs: Sequence[_Axis]) -> Iterator[tuple[Cell, ...]]:
    shown = {benchmark: _score_texts(found, benchmark) for benchmark in found.benchmarks}
    for point in found.points:
        cells = [Cell(point.arm), Cell(point.budget, (f"{point.seeds} seeds",) if point.seeds > 1 else ())]
        for axis in costs:
            amount = axis.of(point)
            cells.append(Cell(UNKNOWN if amount is None else axis.shown(amount)))
        for benchmark in found.benchmarks:
            cells.append(shown[benchmark].get((point.arm, point.budget), Cell(UNKNOWN)))
        yield tuple(cells)


def _score_texts(found: Budgets, benchmark: str) -> dict[tuple[str, str], Cell]:
    """(arm, budget) -> its score with its standard errors; all with the same decimals."""
    scores = found.scores_on(benchmark)
    cells = {}
    for (place, one), text in zip(scores.items(), score_texts(list(scores.values())), strict=True):
        spread = () if one.seed_error is None else (f"SE across seeds: {format_error(one.seed_error)}",)
        cells[place] = Cell(text, spread)
    return cells


def equal_cost_table(report: StudyReport) -> StudyTable:
    """One row per comparison at equal tokens, time or cost."""
    columns = (
        Column("Arms", is_number=False),
        Column("Equal", is_number=False),
        *(Column(name, is_number=False) for name in ("First arm", "Second arm", "Metric")),
        *(Column(name) for name in ("Difference", "95 % interval")),
        Column("Sensitivity", "to 10 % more"),
        Column("p", "Holm"),
        Column("Result", is_number=False),
    )
    rows = tuple(_equal_row(one) for one in (report.budgets.equal if report.budgets else ()))
    caption = (
        "Second arm minus first, at the largest amount that both were measured at; between budgets interpolated. "
        "Sensitivity: how much the difference would change if the interpolated arm were read at 10 % more."
    )
    return StudyTable("At equal tokens, time or cost", caption, columns, rows)


def _equal_row(one: AtEqualCost) -> tuple[Cell, ...]:
    decimals = interval_decimals(one.low, one.high)
    p = one.p if one.p_holm is None else one.p_holm
    axis = next(axis for axis in _AXES if axis.by == one.by)
    texts = [
        *(place.removeprefix("at ") for place in (one.a_place, one.b_place)),
        f"{one.benchmark}: {one.metric.replace('_', ' ')}",
        format_number(one.difference, decimals, signed=True),
        format_interval(one.low, one.high, decimals),
        UNKNOWN if one.if_10_percent_more is None else format_number(one.if_10_percent_more, decimals, signed=True),
        format_probability(p),
        one.outcome,
    ]
    return (Cell(f"{one.a} → {one.b}"), Cell(axis.shown(one.amount), (one.by,)), *map(Cell, texts))


def budgets_tables(report: StudyReport) -> list[StudyTable]:
    """Both tables, without those that have no rows."""
    return [table for table in (budgets_table(report), equal_cost_table(report)) if table.rows]


def budget_plots(report: StudyReport) -> list[Plot]:
    """For each benchmark the score against tokens, time and cost, as far as these are known."""
    if report.budgets is None:
        return []
    made = [_plot(report, report.budgets, benchmark, axis) for benchmark in report.budgets.benchmarks for axis in _AXES]
    return [plot for plot in made if plot is not None]


def _plot(report: StudyReport, found: Budgets, benchmark: str, axis: _Axis) -> Plot | None:
    scores = found.scores_on(benchmark)
    points = [
        (one, scores[one.arm, one.budget], amount)
        for one in found.points
        if (amount := axis.of(one)) is not None and amount > 0 and (one.arm, one.budget) in scores
    ]
    if not points:
        return None
    size, unit = _unit(axis, max(amount for *_, amount in points))
    first = points[0][1]
    figure, axes = new_curve_axes(score_title(first), f"{axis.title} ({unit})" if unit else axis.title)
    arms = list(dict.fromkeys(one.arm for one, *_ in points))
    for arm in arms:
        _draw_arm(
            axes, report, axis, [(one, score, amount / size) for one, score, amount in points if one.arm == arm], size
        )
    untuned, beyond = _draw_untuned(axes, report, benchmark, first.name)
    for level in dict.fromkeys(one.amount for one in found.equal if (one.by, one.benchmark) == (axis.by, benchmark)):
        axes.axvline(level / size, color=MUTED, linewidth=1.0, dashes=(4, 3), zorder=1)
    use_log_axis(axes, "x")
    if axis.by == "tokens":
        axes.xaxis.set_major_formatter(lambda tokens, _: format_count(tokens))
    axes.margins(x=0.08)
    axes.set_ylim(within_bounds(first.unit, *axes.get_ylim()))
    add_arm_legend(axes, report, arms, untuned)
    caption = "Each point is a budget, mean over seeds, with the 95 % interval over items. The axis is logarithmic."
    if any((one.by, one.benchmark) == (axis.by, benchmark) for one in found.equal):
        caption += " Dashed: where questions compare the arms."
    if beyond:
        caption += f" Beyond the axis, not tuned: {', '.join(f'{one.arm} {score_text(one)}' for one in beyond)}."
    words = "; ".join(
        f"{one.arm}, {one.budget}: {score_text(score)} at {axis.shown(amount)}" for one, score, amount in points
    )
    title = f"{benchmark} against {axis.title}"
    return Plot(f"{NAME}-{file_stem(benchmark)}-{axis.by}", title, caption, f"{title}. {words}", figure)


def _unit(axis: _Axis, largest: float) -> tuple[float, str]:
    if axis.by != "time":
        return 1.0, ""
    return next(one for one in _UNITS_OF_TIME if one[0] <= largest or one[0] == 1)


def _draw_arm(
    axes: Axes, report: StudyReport, axis: _Axis, points: Sequence[tuple[BudgetPoint, BudgetScore, float]], size: float
) -> None:
    colour, _ = series(report, points[0][0].arm)
    faint: dict[str, Any] = {"color": colour, "linewidth": 1.5, "alpha": 0.45, "zorder": 2}
    axes.plot([x for *_, x in points], [score.value for _, score, _ in points], color=colour, linewidth=1.5, zorder=2)
    for one, score, x in points:
        if score.low is not None and score.high is not None:
            axes.vlines(x, score.low, score.high, **faint)
        (mark,) = axes.plot(x, score.value, "o", color=colour, markersize=7, markerfacecolor=PAPER, zorder=3)
        set_tooltip(mark, f"{one.arm}, {one.budget}: {score_text(score)} at {axis.shown(x * size)}")


def _draw_untuned(axes: Axes, report: StudyReport, benchmark: str, metric: str) -> tuple[list[str], list[ArmScore]]:
    """Dotted lines of the models that are not tuned, unless these would leave the others less than half of the height.

    Returns:
        The arms of the lines, and the scores without one.
    """
    low, high = axes.dataLim.y0, axes.dataLim.y1
    found = [
        score
        for arm in report.arms
        if arm.training_seconds == 0
        and (score := report.main_score(arm.name, benchmark)) is not None
        and score.name == metric
    ]
    near = [score for score in found if 2 * low - high <= score.value <= 2 * high - low]
    for score in near:
        axes.axhline(score.value, color=series(report, score.arm)[0], linewidth=1.25, dashes=(1.5, 2.5), zorder=1.5)
    return [score.arm for score in near], [score for score in found if score not in near]
