"""Which learning rates a study tries, and which one each arm gets: pure functions of the study and the trials' losses.

Each searched arm tries rates around its own. While the best of an arm is its lowest or highest rate, it tries one
further out, and every other arm one more as well, halfway from its best towards the better neighbor: all arms have the
same number of trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunelab.config import Recipe
from tunelab.config.rules import default_lr
from tunelab.config.search import Search
from tunelab.config.study import Study
from tunelab.config.study_tree import merged

#: Validation loss of a trial: infinite if it diverged; "failed" = for another reason (out of memory).
Loss = float | Literal["waiting", "failed"]

#: The loss of the trial of an arm at a rate.
Losses = Callable[[str, float], Loss]

#: Significant digits of a rate, so that arms meet at equal rates.
DIGITS = 3


@dataclass(frozen=True)
class Choice:
    """The learning rate of an arm.

    Args:
        own: without a search.
        source: the arm whose trials choose; another one if the two differ in precision alone.
        tried: rate -> validation loss in nats per token, infinite if training diverged; by rate, finished trials only.
        lr: the rate with the lowest loss; None = not known yet, or a trial failed.
        edge: "lowest" or "highest" if the best rate is at an end of what was tried.
    """

    own: float
    source: str
    tried: Mapping[float, float]
    lr: float | None = None
    edge: Literal["", "lowest", "highest"] = ""

    def to_json(self) -> dict[str, Any]:
        """For choices.json; the loss of a diverged trial is null."""
        tried = [{"lr": lr, "loss": loss if math.isfinite(loss) else None} for lr, loss in self.tried.items()]
        return {"lr": self.lr, "own_lr": self.own, "tries_of": self.source, "edge": self.edge, "tried": tried}


def sources(study: Study) -> dict[str, str]:
    """Tuned arm -> the arm whose trials choose its rate: itself, or the unquantized arm that it otherwise equals."""
    tuned = [name for name, arm in study.arms.items() if arm.tuned]
    if not (study.search and study.search.share_precision):
        return {name: name for name in tuned}
    recipes = {name: study.arm_recipe(name, study.seeds[0]) for name in tuned}
    found = {}
    for name, recipe in recipes.items():
        alike = (other for other, one in recipes.items() if one.precision.name == "none" and _equal_but(one, recipe))
        found[name] = name if recipe.precision.name == "none" else next(alike, name)
    return found


def _equal_but(dense: Recipe, quantized: Recipe) -> bool:
    return dense == quantized.model_copy(update={"precision": dense.precision})


def rates_to_try(study: Study, losses: Losses) -> dict[str, list[float]]:
    """Searched arm -> the rates that are known to be needed by now, in the order in which they are tried."""
    search = study.search
    if search is None:
        return {}
    rates = {arm: first_rates(search, own_rate(study, arm)) for arm in dict.fromkeys(sources(study).values())}
    for _ in range(search.extend):
        tried = _finished(rates, losses)
        if tried is None or not any(_edge(one) for one in tried.values()):
            break
        for arm, one in tried.items():
            rates[arm].append(_next_rate(own_rate(study, arm), one))
    return rates


def choices(study: Study, losses: Losses) -> dict[str, Choice]:
    """Tuned arm -> its choice; without rates until every trial has ended, and for arms with a failed trial."""
    rates = rates_to_try(study, losses)
    tried = _finished(rates, losses)
    found = {}
    for arm, source in sources(study).items() if study.search else ():
        known = {lr: loss for lr in sorted(rates[source]) if isinstance(loss := losses(source, lr), float)}
        if tried is None or source not in tried:
            found[arm] = Choice(own_rate(study, arm), source, known)
        else:
            found[arm] = Choice(own_rate(study, arm), source, known, _best(known), _edge(known))
    return found


def with_rates(study: Study, chosen: Mapping[str, Choice]) -> Study:
    """The study to be trained: each arm with its chosen rate, where there is one, and no search."""
    arms = dict(study.arms)
    for name, choice in chosen.items():
        if choice.lr is not None:
            recipe = merged(arms[name].recipe, {"train": {"lr": choice.lr}})
            arms[name] = arms[name].model_copy(update={"recipe": recipe})
    return study.model_copy(update={"arms": arms, "search": None})


def try_recipe(study: Study, arm: str, lr: float) -> Recipe:
    """The recipe of a trial: the arm's at a rate, with the search's seed."""
    if study.search is None:
        raise ValueError("the study has no search")
    recipe = study.arm_recipe(arm, study.search.seed)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"lr": lr})})


def own_rate(study: Study, arm: str) -> float:
    """An arm's learning rate without a search; also where a study of before breaks a rule of today."""
    recipe = study.arm_recipe(arm, study.seeds[0])
    return recipe.train.lr or default_lr(recipe)


def first_rates(search: Search, own: float) -> list[float]:
    """The rates that an arm tries first."""
    return [_rounded(own * factor) for factor in search.factors]


def most_tries(study: Study) -> int:
    """Trials of a study if every extension is needed."""
    search = study.search
    return len(set(sources(study).values())) * (len(search.factors) + search.extend) if search else 0


def _finished(rates: Mapping[str, list[float]], losses: Losses) -> dict[str, dict[float, float]] | None:
    """The losses of each arm none of whose trials failed, by rate; None while a trial of such an arm is waiting."""
    found: dict[str, dict[float, float]] = {}
    for arm, tried in rates.items():
        known = {lr: losses(arm, lr) for lr in sorted(tried)}
        if "failed" in known.values():
            continue
        if "waiting" in known.values():
            return None
        found[arm] = {lr: loss for lr, loss in known.items() if isinstance(loss, float)}
    return found


def _best(tried: Mapping[float, float]) -> float:
    """The rate with the lowest loss; of equal ones, and if all diverged, the lowest."""
    return min(tried, key=lambda lr: (tried[lr], lr))


def _edge(tried: Mapping[float, float]) -> Literal["", "lowest", "highest"]:
    best = _best(tried)
    return "lowest" if best == min(tried) else "highest" if best == max(tried) else ""


def _next_rate(own: float, tried: Mapping[float, float]) -> float:
    """Further out where the best rate is at an edge; else halfway, in logarithm, to the better neighbor."""
    rates, best = sorted(tried), _best(tried)
    place = rates.index(best)
    if 0 < place < len(rates) - 1:
        neighbor = min(rates[place - 1], rates[place + 1], key=lambda lr: (tried[lr], lr))
        return _rounded(math.sqrt(best * neighbor))
    # As multiples of the arm's own rate, so that arms meet at equal rates further out as well.
    end, next_to_it = (_rounded(lr / own) for lr in (best, rates[1] if place == 0 else rates[-2]))
    return _rounded(own * _rounded(end * end / next_to_it))


def _rounded(rate: float) -> float:
    return float(f"{rate:.{DIGITS - 1}e}")
