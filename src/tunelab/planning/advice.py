"""What to change so that a training fits, without changing what it computes; and which other methods would fit."""

from __future__ import annotations

from dataclasses import replace

from tunelab.errors import UsageError
from tunelab.planning.estimate import COMPARED, Plan
from tunelab.planning.fit import largest_micro_batch, verdict
from tunelab.units import format_bytes

#: Micro-batches are rounded down to a multiple of this.
STEP = 64

#: Where nothing else helps.
SMALLER = "use a smaller model, or shorter rows (data.max_length)"


def fitting(plan: Plan, memory: float) -> Plan | None:
    """The plan itself if it fits, else with a smaller micro-batch, else with activation checkpointing too; None if that
    is not enough. Gradients are the same in all of them."""
    for one in (plan, _with_checkpointing(plan)):
        if verdict(one, memory) == "fits":
            return one
        most = min(largest_micro_batch(one, memory), one.tokens) // STEP * STEP
        if most >= one.longest:
            return one.with_tokens(most)
    return None


def check_fits(plan: Plan, memory: float) -> Plan:
    """The plan of fitting().

    Raises:
        UsageError: there is none; names the methods that would fit.
    """
    found = fitting(plan, memory)
    if found is not None:
        return found
    raise UsageError(
        f"{plan.recipe.model.name}: {plan.method} does not fit {format_bytes(memory)} with rows of "
        f"{plan.longest:,} tokens, even with activation checkpointing",
        what_would_fit(plan, memory),
    )


def what_would_fit(plan: Plan, memory: float) -> str:
    """Keys that make it fit without changing what is computed; else methods that would fit."""
    found = fitting(plan, memory)
    if found is None:
        methods = {} if plan.shape.quantization else COMPARED  # what is stored quantized has its own format alone
        others = [name for name, keys in methods.items() if fitting(plan.as_method(keys), memory) is not None]
        return f"these would fit: {', '.join(others)}" if others else SMALLER
    keys = [f"train.micro_batch_tokens={found.tokens}"] if found.tokens != plan.tokens else []
    if found.ways.checkpointing and not plan.ways.checkpointing:
        keys.append("train.activation_checkpointing=true")
    return f"this would fit: {' '.join(keys)}"


def _with_checkpointing(plan: Plan) -> Plan:
    train = plan.recipe.train.model_copy(update={"activation_checkpointing": True})
    return replace(plan, recipe=plan.recipe.model_copy(update={"train": train}))
