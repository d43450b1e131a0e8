"""What a report stores of a study's budgets: every tuned arm at each, and comparisons at equal tokens, time or cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """An arm at a budget: means over the seeds that are done.

    Attributes:
        budget: in words ("0.5 epochs").
        seeds: trainings that are done.
        tokens: supervised tokens of one training, in all steps.
        seconds: of one training, in its steps.
        cost: price of that time; None = no price per hour.
    """

    arm: str
    budget: str
    seeds: int
    tokens: float
    seconds: float
    cost: float | None


@dataclass(frozen=True, slots=True)
class BudgetScore:
    """An arm's headline score on a benchmark at a budget.

    Attributes:
        value: mean over seeds.
        low, high: 95 % interval over items; None = not known.
        error: standard error over items; None = not known.
        seed_error: standard error across seeds; None = one seed, or not known.
        n: items.
        unit, higher_is_better, is_blind: as in ArmScore.
    """

    arm: str
    budget: str
    benchmark: str
    name: str
    value: float
    low: float | None
    high: float | None
    error: float | None
    seed_error: float | None
    n: int
    unit: str
    higher_is_better: bool
    is_blind: bool = False


@dataclass(frozen=True, slots=True)
class AtEqualCost:
    """Two arms at the largest amount that both were measured at: b against a.

    Attributes:
        by: what is equal.
        amount: supervised tokens, seconds, or a price.
        a_place, b_place: where each arm's scores were read, in words ("at 2 epochs").
        difference: b - a in the metric's unit, with its 95 % interval `low` to `high`, before correction.
        p, p_holm: two-sided; uncorrected, and with Holm's correction over the study's questions.
        outcome: of b: "better", "worse" or "no difference shown".
        if_10_percent_more: how much `difference` would change if the arm that is interpolated were read at 10 % more,
            for the noise of times; None = both were measured at exactly this amount.
    """

    by: Literal["tokens", "time", "cost"]
    amount: float
    a: str
    b: str
    a_place: str
    b_place: str
    benchmark: str
    metric: str
    unit: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float | None
    n: int
    outcome: Literal["better", "worse", "no difference shown"]
    if_10_percent_more: float | None = None


@dataclass(frozen=True, slots=True)
class Budgets:
    """The section on budgets.

    Attributes:
        points: every tuned arm at each budget that it was trained at, the smallest first.
        scores: of the same.
        equal: what questions with `match` compare.
        said: what holds for all of it, in sentences.
    """

    points: tuple[BudgetPoint, ...]
    scores: tuple[BudgetScore, ...]
    equal: tuple[AtEqualCost, ...]
    said: tuple[str, ...]

    @property
    def arms(self) -> list[str]:
        """Every arm that is named in it."""
        measured = [*(one.arm for one in self.points), *(one.arm for one in self.scores)]
        return [*measured, *(arm for one in self.equal for arm in (one.a, one.b))]

    @property
    def benchmarks(self) -> list[str]:
        """Benchmarks with a score, in the order of the scores."""
        return list(dict.fromkeys(one.benchmark for one in self.scores))

    def scores_on(self, benchmark: str) -> dict[tuple[str, str], BudgetScore]:
        """(arm, budget) -> its score on a benchmark."""
        return {(one.arm, one.budget): one for one in self.scores if one.benchmark == benchmark}
