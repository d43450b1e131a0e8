"""Whether a training can fit its GPU, predicted from the model's configuration before its weights are loaded."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tunelab.config import Recipe
from tunelab.data.loader import TokenTable
from tunelab.errors import ModelError, UsageError
from tunelab.models.load import load_config
from tunelab.planning.advice import fitting
from tunelab.planning.estimate import COMPARED, Plan
from tunelab.planning.shape import shape_of
from tunelab.units import format_bytes


def device_memory(device: torch.device) -> int | None:
    """Bytes of a GPU; None of a CPU, where memory is not what decides."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def check_memory(recipe: Recipe, rows: TokenTable, memory: int | None, notify: Callable[[str], None]) -> None:
    """Stop before the first step if not even the longest row alone can fit; warn if a whole micro-batch may not.

    Nothing is said of an architecture whose layers are not known to the planner.

    Args:
        memory: bytes of the device; None = not checked.

    Raises:
        UsageError: names what would fit.
    """
    if recipe.train.sharding == "full":  # the planner counts a whole base
        return
    plan = None if memory is None else _plan(recipe)
    if plan is None or memory is None or not rows.lengths:
        return
    longest = max(rows.lengths)
    least = plan.peak(longest, longest).allocated * (1 - plan.error)
    if least > memory:
        raise UsageError(
            f"{recipe.model.name}: {plan.way} needs at least {format_bytes(least)} for its longest row of {longest:,} "
            f"tokens, and the GPU has {format_bytes(memory)}",
            _what_fits(plan, memory),
        )
    low, high = plan.card_bytes()
    if high > memory:
        notify(
            f"warning: a step of {plan.tokens:,} tokens may not fit the GPU: predicted {format_bytes(low)} to "
            f"{format_bytes(high)} of {format_bytes(memory)}; {_what_fits(plan, memory)}"
        )


def _plan(recipe: Recipe) -> Plan | None:
    """None if the planner does not know the model's layers."""
    model = recipe.model
    config = load_config(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    try:
        shape = shape_of(config.to_dict(), model.name)
    except ModelError:
        return None
    return Plan(shape, recipe) if shape.is_known else None


def _what_fits(plan: Plan, memory: int) -> str:
    """Keys that make it fit without changing what is computed; else ways of tuning that would fit."""
    found = fitting(plan, memory)
    if found is None:
        others = [name for name, keys in COMPARED.items() if fitting(plan.as_way(keys), memory) is not None]
        return f"these would fit: {', '.join(others)}" if others else "use a smaller model, or shorter rows"
    keys = [f"train.micro_batch_tokens={found.tokens}"] if found.tokens != plan.tokens else []
    if found.ways.checkpointing and not plan.ways.checkpointing:
        keys.append("train.activation_checkpointing=true")
    return f"this would fit: {' '.join(keys)}"
