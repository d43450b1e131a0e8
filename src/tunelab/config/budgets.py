"""`budgets` of a study: how long, or on how many rows, each tuned arm is trained, several times over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelab.config.held_out_metrics import BLEU, CHRF
from tunelab.config.questions import HELD_OUT, Question
from tunelab.config.recipe import DataSettings
from tunelab.errors import Problem
from tunelab.units import format_counted, format_significant

Tree = dict[str, Any]

#: Key of a recipe that a budget sets -> what it counts.
BUDGET_KEYS = {"train.epochs": "epoch", "train.steps": "step", "data.train_size": "training row"}

_EPOCHS, _STEPS = "train.epochs", "train.steps"

#: Metrics of all items together, which no item has a value of: of held-out rows, and of benchmarks with choices.
CORPUS_METRICS = {True: (BLEU, CHRF), False: ("calibration_error",)}

#: How budgets are written.
EXAMPLE = "budgets: {train.epochs: [0.5, 1, 2]}"


@dataclass(frozen=True, slots=True)
class Budget:
    """One training of an arm: a recipe's key, and its value."""

    key: str
    value: float

    @property
    def words(self) -> str:
        """The budget for people: "0.5 epochs", "1 epoch", "2,000 training rows"."""
        counted = BUDGET_KEYS[self.key]
        if self.key != _EPOCHS:
            return format_counted(int(self.value), counted)
        return f"{format_significant(self.value)} {counted}{'' if self.value == 1 else 's'}"


def budgets_of(given: Mapping[str, Sequence[float]]) -> tuple[Budget, ...]:
    """The budgets that a study gives, the smallest first."""
    return tuple(Budget(key, value) for key, values in given.items() for value in sorted(values))


def at_budget(recipe: Mapping[str, Any], budget: Budget) -> Tree:
    """A recipe's tree with a budget in it."""
    section, _, name = budget.key.partition(".")
    below = recipe.get(section) or {}
    below = DataSettings.expand(below) if section == "data" else below
    value = budget.value if budget.key == _EPOCHS else int(budget.value)
    return {**recipe, section: {**below, name: value}}


def budget_problems(given: Mapping[str, Sequence[float]], recipes: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """What is wrong with a study's budgets.

    Args:
        recipes: arm -> its recipe's tree as written, without a budget, of each tuned arm.
    """
    if len(given) != 1:
        return [Problem("budgets", f"has {format_counted(len(given), 'key')}, expected one", f"write {EXAMPLE}")]
    ((key, values),) = given.items()
    if key not in BUDGET_KEYS:
        return [_unknown(key)]
    problems = []
    if len(set(values)) < max(2, len(values)):
        shown = ", ".join(format_significant(value) for value in values)
        said = f"[{shown}], expected at least two different numbers"
        problems.append(Problem(f"budgets.{key}", said, "omit budgets to train each arm once per seed"))
    if key != _EPOCHS and any(value != int(value) for value in values):
        problems.append(Problem(f"budgets.{key}", "expected integers", f"budgets: {{{key}: [100, 200, 400]}}"))
    if not recipes:
        problems.append(Problem("budgets", "no arm is tuned", "omit budgets, or add an arm with `tuned: true`"))
    return problems or list(_contradictions(Budget(key, max(values)), recipes))


def _unknown(key: str) -> Problem:
    known = f"known: {', '.join(BUDGET_KEYS)}"
    if key == "data.size":
        said = "with another size, other rows are held out, and budgets could not be compared"
        return Problem(f"budgets.{key}", said, "use data.train_size, which samples the training rows alone")
    return Problem(f"budgets.{key}", "cannot be a budget", known)


def _contradictions(largest: Budget, recipes: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Recipes that set the budget's key to another value than the largest, or a key that overrides it."""
    for arm, recipe in recipes.items():
        own = _value(recipe, largest.key)
        if own is not None and own != largest.value:
            said = f"{largest.key} is {own} in arm {arm}, but budgets set it"
            yield Problem(f"budgets.{largest.key}", said, f"omit {largest.key} from the recipe")
        if largest.key == _EPOCHS and (steps := _value(recipe, _STEPS)) is not None:
            said = f"train.steps is {steps} in arm {arm} and overrides epochs: every budget would be the same training"
            yield Problem(f"budgets.{largest.key}", said, "omit train.steps, or give budgets of train.steps")
        if largest.key == _STEPS and (epochs := _value(recipe, _EPOCHS)) is not None:
            said = f"train.epochs is {epochs} in arm {arm} and has no effect: budgets set train.steps"
            yield Problem(f"budgets.{largest.key}", said, "omit train.epochs, or give budgets of train.epochs")


def _value(recipe: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    below = recipe.get(section)
    return below.get(name) if isinstance(below, Mapping) else None


def match_problems(
    questions: Sequence[Question], budgets: Sequence[Budget], tuned: Mapping[str, bool], price_per_hour: float | None
) -> Iterator[Problem]:
    """Questions that ask for equal tokens, time or cost where these cannot be read.

    Args:
        tuned: arm -> whether it is trained.
    """
    for number, one in enumerate(questions):
        if one.match is None:
            continue
        path = f"questions.{number}.match"
        if not budgets:
            said = "needs several budgets to read the arms' scores between"
            yield Problem(path, said, f"add {EXAMPLE}, or omit match")
        for arm in (one.arm, one.against):
            if not tuned.get(arm, True):
                said = f"{arm} is not tuned: it takes no tokens, no time and no cost"
                yield Problem(path, said, "omit match, or name a tuned arm")
        if one.match == "cost" and price_per_hour is None:
            yield Problem(path, "costs are not known without a price", "add price_per_hour, or match: time")
        is_held_out = one.on == HELD_OUT
        if one.decided_by in CORPUS_METRICS[is_held_out]:
            each_one, each = ("row", "completion_loss or rougeL") if is_held_out else ("item", "accuracy or brier")
            said = f"{one.decided_by} is a corpus metric: without a value for each {each_one} it is not read between "
            said += "budgets"
            yield Problem(path, said, f"omit match, or ask by metric: {each}")


def with_tiny_budgets(tree: Mapping[str, Any], tiny: Mapping[str, Any]) -> Tree:
    """A study's tree with its `tiny` section merged, and budgets of 1, 2, ... steps unless that section has its own."""
    given = tree.get("budgets")
    if "budgets" in tiny or not isinstance(given, Mapping) or not given:
        return dict(tree)
    count = max((len(values) for values in given.values() if isinstance(values, list | tuple)), default=0)
    arms = {
        name: _without_budget(arm) if isinstance(arm, Mapping) else arm
        for name, arm in (tree.get("arms") or {}).items()
    }
    return {**_without_budget(tree), "arms": arms, "budgets": {"train.steps": list(range(1, count + 1))}}


def _without_budget(part: Mapping[str, Any]) -> Tree:
    """A study, or one of its arms, whose recipe has no key that a budget may set."""
    recipe = {**(part.get("recipe") or {})}
    for key in BUDGET_KEYS:
        section, _, name = key.partition(".")
        if isinstance(recipe.get(section), Mapping):
            recipe[section] = {one: value for one, value in recipe[section].items() if one != name}
    return {**part, "recipe": recipe}
