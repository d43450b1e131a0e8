"""The budgets of a study's report: what every tuned arm's trainings cost and score, and arms at equal cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from tunelab.comparison.evaluated import Evaluated
from tunelab.comparison.paired_comparison import Comparison
from tunelab.comparison.paired_evaluations import Side, contributions
from tunelab.comparison.verdict import outcome
from tunelab.config.budgets import Budget
from tunelab.config.shareable import without_places
from tunelab.config.study import Study
from tunelab.records.cells import Cell
from tunelab.records.runs import Run
from tunelab.report.budgets_content import AtEqualCost, BudgetPoint, Budgets, BudgetScore
from tunelab.statistics.standard_errors import mean_with_error
from tunelab.studies.budget_curves import Curves, Matched, Trained
from tunelab.studies.report_parts import arm_scores, unlike_machines
from tunelab.units import format_share

#: Gives the finished trainings of an arm at a budget, with their seeds.
Runs = Callable[[str, Budget], Sequence[tuple[int, Run]]]


def budget_curves(study: Study, runs: Runs, evaluated: Callable[[str, str, Budget], Mapping[int, Evaluated]]) -> Curves:
    """Every tuned arm of a study at each budget that it was trained at."""
    tuned = [name for name, arm in study.arms.items() if arm.tuned]
    found = {(arm, budget): runs(arm, budget) for arm in tuned for budget in study.trained_at}
    named = {f"{arm}, {budget.words}, seed {seed}": run for (arm, budget), of in found.items() for seed, run in of}
    trained = {
        arm: [_trained(budget, found[arm, budget], study) for budget in study.trained_at if found[arm, budget]]
        for arm in tuned
    }
    unlike = next(iter(unlike_machines(named)), "").removesuffix(".")
    spread = max((_spread([run for _, run in of]) for of in found.values() if len(of) > 1), default=None)
    return Curves(trained, evaluated, unlike, spread)


def _spread(runs: Sequence[Run]) -> float:
    """Of the training times of one arm at one budget: the longest less the shortest, relative to their mean."""
    seconds = [float(run.manifest["trained"]["training_seconds"]) for run in runs]
    return (max(seconds) - min(seconds)) * len(seconds) / math.fsum(seconds)


def _trained(budget: Budget, runs: Sequence[tuple[int, Run]], study: Study) -> Trained:
    done = [run.manifest["trained"] for _, run in runs]
    tokens, seconds = (mean_with_error([float(one[name]) for one in done]) for name in ("targets", "training_seconds"))
    price = study.price_per_hour
    return Trained(
        budget,
        seeds=tuple(seed for seed, _ in runs),
        tokens=tokens.value,
        seconds=seconds.value,
        cost=None if price is None else seconds.value / 3600 * price,
        tokens_error=(tokens.error or 0.0) / tokens.value,
        seconds_error=(seconds.error or 0.0) / seconds.value,
    )


def budgets_part(
    study: Study, curves: Curves, matched: Sequence[tuple[Matched, Comparison]], cells: Sequence[Cell], searched: bool
) -> Budgets | None:
    """The report's part; None if the study has no budgets.

    Args:
        study: as it is trained.
        matched: comparisons at equal cost.
        cells: all of the study's.
        searched: whether learning rates were searched.
    """
    if not study.trained_at:
        return None
    return Budgets(
        points=tuple(
            BudgetPoint(arm, one.budget.words, len(one.seeds), one.tokens, one.seconds, one.cost)
            for arm, trained in curves.trained.items()
            for one in trained
        ),
        scores=tuple(_scores(study, curves)),
        equal=tuple(_at_equal_cost(found, one) for found, one in matched),
        said=tuple(_said(study, cells, curves, [found.by for found, _ in matched], searched)),
    )


def _scores(study: Study, curves: Curves) -> Iterator[BudgetScore]:
    for benchmark in study.benchmarks:
        for arm, trained in curves.trained.items():
            for one in trained:
                seeds = list(curves.evaluated(arm, benchmark, one.budget).values())
                yield from _headline(arm, benchmark, one.budget, seeds)


def _headline(arm: str, benchmark: str, budget: Budget, seeds: Sequence[Evaluated]) -> Iterator[BudgetScore]:
    for one in arm_scores(arm, benchmark, seeds):
        if one.is_main:
            low, high = one.interval or (None, None)
            values = (one.value, low, high, one.error, one.seed_error, one.n)
            of = (one.unit, one.higher_is_better, one.is_blind)
            yield BudgetScore(arm, budget.words, benchmark, one.name, *values, *of)


def _at_equal_cost(found: Matched, one: Comparison) -> AtEqualCost:
    return AtEqualCost(
        by=found.by,
        amount=found.amount,
        a=one.a_name,
        b=one.b_name,
        a_place=found.places[0],
        b_place=found.places[1],
        benchmark=one.benchmark,
        metric=one.metric,
        unit=one.unit,
        difference=one.difference,
        low=one.low,
        high=one.high,
        p=one.p,
        p_holm=one.p_holm,
        n=one.n,
        outcome=outcome(one),
        if_10_percent_more=_if_10_percent_more(found, one.metric),
    )


def _if_10_percent_more(found: Matched, metric: str) -> float | None:
    """What the difference would change by if the interpolated arm were read at 10 % more; None = neither is."""
    for sign, side, stretch in zip((-1.0, 1.0), found.sides, found.stretches, strict=True):
        if side.upper is not None:
            items = list(side.seeds[0].graded(side.name, metric).values)
            ends = [Side(side.name, seeds) for seeds in (side.seeds, side.upper.seeds)]
            lower, upper = (float(contributions(end, metric, items).mean()) for end in ends)
            return sign * (upper - lower) * math.log(1.1) / stretch
    return None


def _said(
    study: Study, cells: Sequence[Cell], curves: Curves, matched_by: Sequence[str], searched: bool
) -> Iterator[str]:
    largest = study.trained_at[-1]
    yield (
        "Each budget is a training of its own with a whole learning rate schedule. Answers without other words, scores "
        f"and comparisons are at the largest, {largest.words}."
    )
    if searched:
        yield (
            f"Learning rates were searched at the largest budget, {largest.words}, and used at all: a shorter training "
            "may have a better one. Time and cost leave the search out."
        )
    if matched_by:
        yield (
            "At equal tokens, time or cost, an arm's score is interpolated, linearly in the logarithm, between the two "
            "nearest budgets, item by item. Intervals cover items and trainings, as everywhere. They do not cover how "
            "far a curve bends between two budgets."
        )
    if set(matched_by) & {"time", "cost"}:
        if curves.spread is None:
            yield "Times were measured once, and count as exact."
        else:
            spread = format_share(curves.spread, 0)
            yield f"Times at one budget differed by up to {spread} between seeds: intervals at equal time cover that."
    failed = {cell.key: cell for cell in cells if cell.status == "failed" and cell.budget not in (None, largest)}
    for cell in failed.values():
        if cell.needs not in failed:
            yield f"{cell.title} failed: {without_places(cell.error)}"
