"""The recipe of a plan: its model by its full name, and the recipe that fits, in a file."""

from __future__ import annotations

from pathlib import Path

from tunelab.cli._console import command, say
from tunelab.config import Recipe, to_yaml
from tunelab.cpu import available_memory
from tunelab.errors import UsageError
from tunelab.files import write_text_atomically
from tunelab.planning.advice import check_fits
from tunelab.planning.cards import Card
from tunelab.planning.estimate import Plan


def with_name(recipe: Recipe, name: str) -> Recipe:
    """The recipe with its model's name in full, by which `train` finds it too."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": name})})


def memory_of(plan: Plan, card: Card | None) -> float | None:
    """Bytes of the device that the plan is for; None if it is a GPU that is not named."""
    if card is not None:
        return card.memory
    return None if plan.on_gpu else available_memory() / plan.gpus


def written(plan: Plan, card: Card | None, path: str, has_data: bool) -> Plan:
    """Write the recipe that fits a GPU.

    Raises:
        UsageError: no GPU or no data is given, nothing fits, or the file exists already.
    """
    if card is None or not has_data:
        raise UsageError(f"--write {path} needs {'--gpu' if card is None else 'data'}", "give --gpu, and data (--data)")
    fits = check_fits(plan, card.memory)
    if Path(path).exists():
        raise UsageError(f"--write {path}: exists already", "give the name of a new file")
    write_text_atomically(Path(path), to_yaml(fits.recipe))
    say(f"wrote {path}; next: {command('train', path)}")
    return fits
