"""`train.micro_batch_tokens: auto`: the largest micro-batch that surely fits, and not more than a step has."""

from __future__ import annotations

from dataclasses import dataclass

from tunelab.config import Recipe
from tunelab.config.micro_batch import DEFAULT_TOKENS
from tunelab.planning.advice import STEP
from tunelab.planning.estimate import Plan
from tunelab.planning.fit import largest_micro_batch, verdict
from tunelab.units import format_bytes

KEY = "train.micro_batch_tokens=auto"


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What `auto` became.

    Args:
        tokens: of a micro-batch.
        sentence: says so, and why.
    """

    tokens: int
    sentence: str


def automatic(plan: Plan, memory: float) -> MicroBatch:
    """The largest micro-batch that surely fits a memory: at least the longest row, at most a step's rows at their
    longest. Gradients are those of any other: a step is a set of rows.

    Args:
        plan: of a resolved recipe with `auto`.
        memory: bytes of the GPU, or of the machine that are available.
    """
    if not plan.shape.is_known:
        return by_default(plan.recipe, plan.longest, "this architecture's layers are not known to the planner")
    device = "the GPU" if plan.on_gpu else "available memory"
    most = _of_a_step(plan)
    if verdict(plan, memory, most) == "fits":
        return MicroBatch(most, f"{KEY}: {most:,}, a whole step, surely fits {format_bytes(memory)} of {device}")
    found = largest_micro_batch(plan, memory) // STEP * STEP
    if found >= plan.longest:
        return MicroBatch(found, f"{KEY}: {found:,}, the most that surely fit {format_bytes(memory)} of {device}")
    return MicroBatch(
        plan.longest,
        f"warning: {KEY}: {plan.longest:,}, the longest row alone, may not fit {format_bytes(memory)} of {device}",
    )


def by_default(recipe: Recipe, longest: int, reason: str) -> MicroBatch:
    """The default micro-batch, where the memory cannot be predicted; the longest row if it has more."""
    tokens = max(DEFAULT_TOKENS, recipe.data.max_length or 0, longest)
    return MicroBatch(tokens, f"{KEY}: {tokens:,}, the default: {reason}")


def with_automatic(plan: Plan, memory: float | None) -> tuple[Plan, str | None]:
    """The plan with `auto` replaced, and the sentence that says so; itself and None if the recipe has a number.

    Args:
        memory: bytes of the device; None = not known.
    """
    if plan.recipe.train.micro_batch_tokens != "auto":
        return plan, None
    if memory is None:
        found = by_default(plan.recipe, plan.longest, "the device's memory is not known")
    else:
        found = automatic(plan, memory)
    return plan.with_tokens(found.tokens), found.sentence


def _of_a_step(plan: Plan) -> int:
    """The most tokens that a GPU's, or a process's, share of a step can have."""
    train = plan.recipe.train
    if train.batch_tokens is not None:  # a step ends with the row that reaches it
        return -(-train.batch_tokens // plan.gpus) + plan.longest
    assert train.batch_size is not None, "the recipe is resolved"
    return -(-train.batch_size // plan.gpus) * plan.longest
