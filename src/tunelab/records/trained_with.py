"""What a run was started with: its manifest keeps it, so that a recipe.yaml that was edited since is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunelab.config import Recipe
from tunelab.errors import RunError

#: Keys of `train` that may change between two sessions: they cost time or memory, or say what is shown or kept.
MAY_CHANGE = (
    "activation_checkpointing",
    "device",
    "keep_checkpoints",
    "load_best_at_end",
    "micro_batch_tokens",
    "packing",
    "save_every",
    "tracker_group",
    "tracker_project",
    "trackers",
)


def trained_with(recipe: Recipe) -> dict[str, Any]:
    """What a run's result follows from, by key, and that nothing else of it tells: rows and base have digests."""
    tree = recipe.model_dump(mode="json")
    sections = {name: tree[name] for name in ("precision", "adapter", "train")}
    sections["data"] = {name: tree["data"][name] for name in ("template", "date", "thoughts", "loss_on")}
    sections["model"] = {"new_tokens": tree["model"]["new_tokens"]}
    found = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    return {"method": tree["method"], **{key: found[key] for key in found if key.split(".")[1] not in MAY_CHANGE}}


def check_unedited(file: Path, recipe: Recipe, begun: Mapping[str, Any]) -> None:
    """Check that a run's recipe is what it was started with.

    Args:
        begun: result of trained_with() at the start; empty in runs of before.

    Raises:
        RunError: it is not; names the keys.
    """
    found = trained_with(recipe)
    if edited := [key for key, value in begun.items() if key in found and found[key] != value]:
        told = "; ".join(f"{key} is {found[key]}, was {begun[key]}" for key in edited)
        raise RunError(
            f"{file}: not what the run was started with: {told}",
            "restore it, and write what you want to try into a recipe of its own",
        )
