"""`search` of a study: the learning rates that each arm tries on its validation rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pydantic import BaseModel, ConfigDict, Field

from tunelab.config.recipe import Recipe
from tunelab.config.types import CountOrZero, Flag, Positive
from tunelab.errors import Problem

#: The fewest rates of which one can lie between others.
FEWEST_FACTORS = 3


class Search(BaseModel):
    """A learning rate for each tuned arm, chosen by validation rows. `search: {}` has these defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factors: tuple[Positive, ...] = Field(
        (0.1, 0.316, 1, 3.16, 10), description="Learning rates that each tuned arm tries, as multiples of its own."
    )
    extend: CountOrZero = Field(
        2, description="More trials while the best rate of an arm is its lowest or highest; every arm gets as many."
    )
    seed: CountOrZero = Field(1000, description="`train.seed` of the trials; not one of `seeds`.")
    share_precision: Flag = Field(
        True,
        description="Arms that differ in precision alone use the rate of the unquantized one. false: each its own.",
    )

    def problems(self, seeds: Collection[int], tuned: Mapping[str, Recipe] | None) -> Iterator[Problem]:
        """What is wrong with it in a study with these seeds and tuned arms; None = arms that are wrong themselves."""
        yield from () if tuned is None else self._problems_of_arms(tuned)
        if len(set(self.factors)) < max(FEWEST_FACTORS, len(self.factors)):
            factors = ", ".join(f"{factor:g}" for factor in self.factors)
            said = f"[{factors}], expected at least {FEWEST_FACTORS} different numbers"
            yield Problem("search.factors", said, "omit it for 0.1, 0.316, 1, 3.16, 10")
        if self.seed in seeds:
            said = f"{self.seed} is one of seeds: a rate would be chosen by a training that the report measures"
            yield Problem("search.seed", said, "omit it, or choose a number that is not in seeds")

    def _problems_of_arms(self, tuned: Mapping[str, Recipe]) -> list[Problem]:
        """Why it cannot choose rates for these arms: there are none, or they have no rows to choose by."""
        if not tuned:
            return [Problem("search", "no arm is tuned", "omit search, or add an arm with `tuned: true`")]
        said = "has no validation rows to choose a learning rate by (data.validation is 0)"
        remedy = "set recipe.data.validation=200, or omit search"
        without = [name for name, recipe in tuned.items() if recipe.data.validation == 0]
        return [Problem("search", f"arm {name} {said}", remedy) for name in without]
