"""A study's questions: is an arm better than another, as good as it, or like it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tunelab.config.types import Kept, Positive, Text
from tunelab.errors import Problem
from tunelab.units import format_significant

#: The benchmark of the recipe's own held-out rows: perplexity, BLEU, ROUGE, chrF, exact match.
HELD_OUT = "held-out"

COMPLETION_LOSS = "completion_loss"

#: The margin of a question whose other arm gained nothing that a share could be kept of, by the metric's unit.
DEFAULT_MARGINS = {"0-1": 0.01, "0-2": 0.01, "0-100": 1.0, "nats per token": 0.02, "nats": 0.02, "bits/byte": 0.01}


#: The largest difference of a metric, by its unit, and the smallest margin that is not a mistake for another unit's.
_SCALES = {"0-1": (1.0, 0.0), "0-2": (2.0, 0.0), "0-100": (100.0, 0.1)}


def margin_problem(margin: float, unit: str) -> tuple[str, str] | None:
    """What is wrong with a margin of a metric in this unit, and the remedy; None = nothing, as far as is known."""
    most, least = _SCALES.get(unit, (float("inf"), 0.0))
    if least <= margin < most:
        return None
    shown, more, scale = format_significant(margin), format_significant(100 * margin), f"from 0 to {int(most)}"
    if margin >= most:
        point = format_significant(most / 100)
        return f"{shown} is no margin of a metric {scale}: every difference is within it", f"a point of it is {point}"
    return f"{shown} of a metric {scale} is {shown} points", f"write {more} if you mean {more} points"


class Question(BaseModel):
    """A question that the report answers in a sentence at its top."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    ask: Text = Field(description="The question in words.")
    is_better: Text | None = Field(None, description="The arm that might be better, `than` another.")
    than: Text | None = Field(None, description="The arm to compare with.")
    is_as_good: Text | None = Field(None, description="The arm that might be no worse, within a margin, than `as`.")
    as_: Text | None = Field(None, alias="as", description="The arm that it might be as good as.")
    is_like: Text | None = Field(None, description="The arm that might be neither worse nor better than `to`.")
    to: Text | None = Field(None, description="The arm that it might be like.")
    within: Positive | None = Field(
        None,
        description="The margin of `is_as_good` and `is_like`, in the metric's unit (0.01 of an accuracy is a point). "
        "Default: the share `keeps`; where the other arm is not tuned 0.01, 1 point of 100, 0.02 nats, 0.01 bits per "
        "byte.",
    )
    keeps: Kept = Field(
        0.9,
        description="The share to keep of what the other arm gained over its untuned model, if `within` is not given.",
    )
    on: Text = Field(description="The benchmark to compare on.")
    metric: Text | None = Field(
        None,
        description="The metric to compare. Default: the benchmark's headline metric; for `held-out` completion_loss "
        "(others: bleu, rougeL, chrf, exact_match).",
    )

    match: Literal["tokens", "time", "cost"] | None = Field(
        None,
        description="With `budgets`: compare at equal `tokens` (supervised), training `time` or `cost`, at the largest "
        "that both arms were measured at, between budgets interpolated. null: at the largest budget.",
    )

    @property
    def decided_by(self) -> str | None:
        """The metric to compare; None = the benchmark's headline metric, known only after scoring."""
        return self.metric or (COMPLETION_LOSS if self.on == HELD_OUT else None)

    @property
    def arm(self) -> str:
        """The arm that is asked about."""
        return self.is_better or self.is_as_good or self.is_like or ""

    @property
    def against(self) -> str:
        """The arm that it is compared with."""
        return self.than or self.as_ or self.to or ""


def unclear_questions(questions: Sequence[Question]) -> Iterator[Problem]:
    """Questions that do not ask one thing of two arms, or have a margin that they do not use."""
    for number, one in enumerate(questions):
        path = f"questions.{number}"
        forms = {("is_better", "than"): (one.is_better, one.than), ("is_as_good", "as"): (one.is_as_good, one.as_)}
        forms |= {("is_like", "to"): (one.is_like, one.to)}
        given = [keys for keys, arms in forms.items() if any(arms)]
        if len(given) != 1 or not all(forms[given[0]]):
            listed = " and ".join(
                key for keys, arms in forms.items() for key, arm in zip(keys, arms, strict=True) if arm
            )
            hint = "write is_better: ARM, than: ARM; or is_as_good: ARM, as: ARM; or is_like: ARM, to: ARM"
            yield Problem(path, f"has {listed or 'no arms'}, expected one form of question with both arms", hint)
        elif one.is_better and (one.within is not None or one.keeps != Question.model_fields["keeps"].default):
            yield Problem(
                path, "a margin has no meaning for is_better", "ask is_as_good: ARM, as: ARM; or omit the margin"
            )
        elif one.arm == one.against:
            yield Problem(path, f"compares {one.arm} with itself", "name two arms")
