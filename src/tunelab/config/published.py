"""`published` of a study: results of others, shown next to the measured ones."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from tunelab.config.held_out_metrics import HELD_OUT_SCORES, metric_problem
from tunelab.config.questions import HELD_OUT
from tunelab.config.renamed import metric_renamed
from tunelab.config.types import Text
from tunelab.errors import Problem
from tunelab.units import format_significant

#: Costs and the final training loss, as `published` names them.
PEAK_MEMORY, EPOCH_MINUTES = "peak memory in GB", "minutes per epoch"
TRAINING_HOURS, FINAL_LOSS = "training hours", "final training loss"
PUBLISHED_COSTS = (PEAK_MEMORY, EPOCH_MINUTES, TRAINING_HOURS, FINAL_LOSS)


class Published(BaseModel):
    """A published result for some arms, shown next to the measured one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: Text = Field(
        description="A benchmark (its headline metric), `BENCHMARK SCORE`, or one of: " + ", ".join(PUBLISHED_COSTS)
    )
    values: dict[Text, FiniteFloat] = Field(description="Arm -> value, in the unit of the benchmark's score.")
    source: Text = Field(description="Where the value was published.")
    by_training: dict[Text, tuple[FiniteFloat, ...]] = Field(
        default_factory=dict, description="Arm -> the value of each training, whose mean is in `values`."
    )
    model: Text | None = Field(
        None, description="The model that it was published for, if another than the arm's. `--scale small` sets it."
    )

    def of_arms(self, arms: Collection[str]) -> Published:
        """What was published of these arms."""
        values = {arm: value for arm, value in self.values.items() if arm in arms}
        by_training = {arm: trainings for arm, trainings in self.by_training.items() if arm in arms}
        return self.model_copy(update={"values": values, "by_training": by_training})

    def score(self, benchmarks: Collection[str]) -> tuple[str, str] | None:
        """The benchmark and the metric ("" = the headline metric); None if it is not a score of these benchmarks."""
        if self.what in benchmarks:
            return self.what, ""
        benchmark, _, metric = self.what.rpartition(" ")
        return (benchmark, metric) if benchmark in benchmarks else None


def wrong_figures(published: Sequence[Published], benchmarks: Collection[str]) -> Iterator[Problem]:
    """Published values without an arm, or of something that the study does not measure."""
    for number, one in enumerate(published):
        if not one.values:
            yield Problem(f"published.{number}.values", "is empty", "values: {ARM: NUMBER}")
        yield from _wrong_means(one, f"published.{number}")
        score = one.score(benchmarks)
        if score is None and one.what not in PUBLISHED_COSTS:
            measured = (*benchmarks, "BENCHMARK SCORE", *PUBLISHED_COSTS)
            near = difflib.get_close_matches(one.what, measured, n=1, cutoff=0.8)
            hint = f"did you mean {near[0]!r}? " if near else ""
            said = f"the study does not measure {one.what!r}"
            if (new := metric_renamed(one.what)) != one.what:
                hint, said = "", f"renamed: {new}"
            yield Problem(f"published.{number}.what", said, f"{hint}known: {', '.join(measured)}")
        if score and score[0] == HELD_OUT and score[1] not in ("", *HELD_OUT_SCORES):
            said = metric_problem("scored", score[1])
            yield Problem(f"published.{number}.what", said, f"known: {', '.join(HELD_OUT_SCORES)}")


def _wrong_means(published: Published, place: str) -> Iterator[Problem]:
    """Values that are not, to three digits, the mean of their trainings."""
    for arm, trainings in published.by_training.items():
        mean = math.fsum(trainings) / len(trainings) if trainings else math.nan
        value = published.values.get(arm, math.nan)
        if not math.isclose(value, mean, rel_tol=1e-3):
            said = f"the mean is {format_significant(mean, 4)}, but values.{arm} is {format_significant(value, 4)}"
            yield Problem(f"{place}.by_training.{arm}", said, "write the mean of the trainings into values")
