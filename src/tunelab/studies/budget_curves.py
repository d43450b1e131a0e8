"""What each arm's trainings at several budgets cost, and two arms at one cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunelab.comparison.between_budgets import Reading, common_cost, noise_of_weight, read_at
from tunelab.comparison.evaluated import Evaluated
from tunelab.comparison.paired_evaluations import NO_NOISE, Side, Upper
from tunelab.config.budgets import BUDGET_KEYS, Budget
from tunelab.errors import DataError
from tunelab.statistics.crossed import Part
from tunelab.units import format_duration, format_number, format_significant

#: What arms can be compared at equal amounts of.
By = Literal["tokens", "time", "cost"]


@dataclass(frozen=True, slots=True)
class Trained:
    """The trainings of an arm at a budget: means over those that are done.

    Attributes:
        seeds: whose training is done.
        tokens: supervised tokens, in all steps.
        seconds: in training steps.
        cost: price of that time; None = no price is known.
        tokens_error, seconds_error: their standard errors over seeds, relative; 0.0 = one seed.
    """

    budget: Budget
    seeds: tuple[int, ...]
    tokens: float
    seconds: float
    cost: float | None
    tokens_error: float = 0.0
    seconds_error: float = 0.0

    def error(self, by: By) -> float:
        """Relative standard error of amount()."""
        return self.tokens_error if by == "tokens" else self.seconds_error

    def amount(self, by: By) -> float:
        """Tokens, seconds or price.

        Raises:
            DataError: there is no price.
        """
        found = {"tokens": self.tokens, "time": self.seconds, "cost": self.cost}[by]
        if found is None:
            raise DataError("the study has no price_per_hour", "add it, or match: time")
        return found


@dataclass(frozen=True)
class Curves:
    """The arms of a study at all of its budgets.

    Attributes:
        trained: tuned arm -> its trainings, the smallest budget first.
        spread: the largest relative spread of training times between seeds at one budget; None = one seed.
        evaluated: gives the evaluations of an arm on a benchmark at a budget, by seed.
        unlike: why times cannot be compared; "" = they can.
    """

    trained: Mapping[str, Sequence[Trained]]
    evaluated: Callable[[str, str, Budget], Mapping[int, Evaluated]]
    unlike: str = ""
    spread: float | None = None


#: Of a study without budgets.
NO_CURVES = Curves({}, lambda arm, benchmark, budget: {})


@dataclass(frozen=True)
class Matched:
    """Two arms at one cost.

    Attributes:
        amount: tokens, seconds or price.
        sides: the first arm's and the second's.
        places: where each was read, in words: "at 2 epochs", "at about 0.8 epochs, between 0.5 and 1 epoch".
        stretches: of each, the logarithm of its cost from the lower budget to the upper one; 0 = at a measured budget.
    """

    by: By
    amount: float
    sides: tuple[Side, Side]
    places: tuple[str, str]
    stretches: tuple[float, float] = (0.0, 0.0)

    @property
    def words(self) -> str:
        """The cost, and where each curve was read: "At 5 min 02 s of training (full at 1 epoch, lora ...)"."""
        first, second = (f"{side.name} {place}" for side, place in zip(self.sides, self.places, strict=True))
        return f"At {amount_words(self.by, self.amount)} ({first}, {second})"


def amount_words(by: By, amount: float) -> str:
    """An amount for people: "12,345 supervised tokens", "5 min 02 s of training", "a price of 1.2"."""
    shown = _shown(by, amount)
    return {"tokens": f"{shown} supervised tokens", "time": f"{shown} of training", "cost": f"a price of {shown}"}[by]


def _shown(by: By, amount: float) -> str:
    if by == "tokens":
        return format_number(amount, 0)
    return format_duration(amount) if by == "time" else format_significant(amount, 3)


def at_equal(curves: Curves, a: str, b: str, benchmark: str, by: By) -> Matched:
    """Two arms at the largest amount that both were measured at.

    Raises:
        DataError: an arm has no results, the two have no amount in common, or times cannot be compared.
    """
    if by != "tokens" and curves.unlike:
        raise DataError(curves.unlike, "run the study on one kind of machine, or match: tokens")
    trained = [_measured(curves, arm, benchmark) for arm in (a, b)]
    costs = [[one.amount(by) for one in arm] for arm in trained]
    try:
        amount = common_cost(*costs)
        readings = [read_at(one, amount) for one in costs]
    except DataError as error:
        ends = [(_shown(by, one[0]), _shown(by, one[-1])) for one in costs]
        ranges = ", ".join(f"{arm} {low} to {high}" for arm, (low, high) in zip((a, b), ends, strict=True))
        raise DataError(f"{error.message} ({ranges})", error.hint) from None
    last = trained[0][-1] if costs[0][-1] == amount else trained[1][-1]
    noises = [_noise(by, one, cost, reading, last) for one, cost, reading in zip(trained, costs, readings, strict=True)]
    first, second = (
        _side(curves, arm, benchmark, one, reading, noise)
        for arm, one, reading, noise in zip((a, b), trained, readings, noises, strict=True)
    )
    places = [_place(one, reading) for one, reading in zip(trained, readings, strict=True)]
    stretches = [
        math.log(one[reading.upper] / one[reading.lower]) for one, reading in zip(costs, readings, strict=True)
    ]
    return Matched(by, amount, (first, second), (places[0], places[1]), (stretches[0], stretches[1]))


def _measured(curves: Curves, arm: str, benchmark: str) -> list[Trained]:
    """An arm's budgets that are trained and evaluated."""
    found = [one for one in curves.trained[arm] if curves.evaluated(arm, benchmark, one.budget)]
    if not found:
        raise DataError(f"{arm} has no results on {benchmark}", "run the study again")
    return found


def _noise(by: By, trained: Sequence[Trained], costs: Sequence[float], reading: Reading, ends: Trained) -> Part:
    """What the weight of a reading is uncertain by, from the fewest seeds of the three budgets that it follows from.

    Args:
        ends: the budget whose cost the curve is read at.
    """
    seeds = min(len(one.seeds) for one in (trained[reading.lower], trained[reading.upper], ends))
    errors = [one.error(by) for one in trained]
    return Part(noise_of_weight(costs, errors, reading, ends.error(by)), seeds - 1.0) if seeds > 1 else NO_NOISE


def _side(curves: Curves, arm: str, benchmark: str, trained: Sequence[Trained], reading: Reading, noise: Part) -> Side:
    """An arm as it is compared: the seeds that both budgets have."""
    lower = curves.evaluated(arm, benchmark, trained[reading.lower].budget)
    if reading.lower == reading.upper:
        return Side(arm, list(lower.values()), is_tuned=True)
    upper = curves.evaluated(arm, benchmark, trained[reading.upper].budget)
    seeds = [seed for seed in lower if seed in upper]
    if not seeds:
        raise DataError(f"no seed of {arm} was evaluated at both budgets", "run the study again")
    above = Upper([upper[seed] for seed in seeds], reading.weight, noise)
    return Side(arm, [lower[seed] for seed in seeds], is_tuned=True, upper=above)


def _place(trained: Sequence[Trained], reading: Reading) -> str:
    lower, upper = trained[reading.lower].budget, trained[reading.upper].budget
    if lower == upper:
        return f"at {lower.words}"
    # In the words of the budget that would have cost so much, if cost grows with it.
    value = math.exp((1 - reading.weight) * math.log(lower.value) + reading.weight * math.log(upper.value))
    about = f"at about {format_significant(value, 2)} {BUDGET_KEYS[lower.key]}s"
    return f"{about}, between {format_significant(lower.value)} and {upper.words}"
