"""Whether a training can fit its GPU, predicted from the model's configuration before its weights are loaded."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tunelab.config import Recipe
from tunelab.data.loader import TokenTable
from tunelab.errors import ModelError, UsageError
from tunelab.models.load import load_config
from tunelab.planning.advice import what_would_fit
from tunelab.planning.estimate import Plan
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
    plan = None if memory is None else planned(recipe)
    if plan is None or memory is None or not rows.lengths:
        return
    longest = max(rows.lengths)
    least = plan.peak(longest, longest).allocated * (1 - plan.error)
    if least > memory:
        raise UsageError(
            f"{recipe.model.name}: {plan.method} needs at least {format_bytes(least)} for its longest row of "
            f"{longest:,} tokens, and the GPU has {format_bytes(memory)}",
            what_would_fit(plan, memory),
        )
    low, high = plan.card_bytes()
    if high > memory:
        notify(
            f"warning: a step of {plan.tokens:,} tokens may not fit the GPU: predicted {format_bytes(low)} to "
            f"{format_bytes(high)} of {format_bytes(memory)}; {what_would_fit(plan, memory)}"
        )


def planned(recipe: Recipe, *, on_gpu: bool = True) -> Plan | None:
    """What a recipe needs, by its model's configuration; None if the planner does not know the model's layers.

    Raises:
        ModelError: there is no configuration.
    """
    model = recipe.model
    config = load_config(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    try:
        shape = shape_of(config.to_dict(), model.name)
    except ModelError:
        return None
    return Plan(shape, recipe, on_gpu=on_gpu) if shape.is_known else None
