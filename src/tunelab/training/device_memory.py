"""Whether a training can fit its device, and the largest micro-batch that does: predicted before weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from tunelab.config import Recipe
from tunelab.cpu import available_memory
from tunelab.data.loader import TokenTable
from tunelab.errors import ModelError, UsageError
from tunelab.models.load import load_config
from tunelab.planning.advice import what_would_fit
from tunelab.planning.automatic import MicroBatch, automatic, by_default
from tunelab.planning.estimate import Plan
from tunelab.planning.shape import shape_of
from tunelab.units import format_bytes


def device_memory(device: torch.device) -> int | None:
    """Bytes of a GPU; None of a CPU, where memory is not what decides."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def usable_memory(device: torch.device, processes: int = 1) -> int:
    """Bytes that each of several processes of a training can use: of its GPU all, of the machine a share of what is
    available."""
    memory = device_memory(device)
    return available_memory() // processes if memory is None else memory


def with_micro_batch(recipe: Recipe, accelerator: Accelerator, notify: Callable[[str], None]) -> Recipe:
    """The recipe with `train.micro_batch_tokens: auto` as a number, which is said in one sentence; all processes have
    the smallest that one of them finds. Other recipes as they are.

    Args:
        recipe: resolved, with `data.max_length`.

    Raises:
        ModelError: there is no configuration.
    """
    if recipe.train.micro_batch_tokens != "auto":
        return recipe
    found = gather_object([_micro_batch(recipe, accelerator)])
    chosen: MicroBatch = min(found, key=lambda one: one.tokens)
    if accelerator.is_main_process:
        notify(chosen.sentence)
    train = recipe.train.model_copy(update={"micro_batch_tokens": chosen.tokens})
    return recipe.model_copy(update={"train": train})


def _micro_batch(recipe: Recipe, accelerator: Accelerator) -> MicroBatch:
    processes, longest = accelerator.num_processes, recipe.data.max_length or 0
    if recipe.train.sharding == "full":
        return by_default(recipe, longest, "the planner counts a whole base, and train.sharding=full shares it out")
    plan = planned(recipe, on_gpu=accelerator.device.type == "cuda")
    if plan is None:
        return by_default(recipe, longest, "this architecture's layers are not known to the planner")
    return automatic(replace(plan, gpus=processes), usable_memory(accelerator.device, processes))


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
