"""Arms that `--set model=NAME` makes the same as another: they are left out, not compared with themselves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tunelab.units import format_names


def with_own_model(tree: Mapping[str, Any]) -> list[str]:
    """The arms that name a model of their own, in a study's tree that is not checked yet."""
    arms = tree.get("arms")
    found = arms.items() if isinstance(arms, Mapping) else ()
    recipes = {name: arm.get("recipe") for name, arm in found if isinstance(arm, Mapping)}
    return [name for name, recipe in recipes.items() if isinstance(recipe, Mapping) and "model" in recipe]


def twins(arms: Mapping[str, Any], had_own_model: Collection[str], have_own_model: Collection[str]) -> list[str]:
    """The arms that lost their own model and so are the same as another of `arms`."""
    left = dict(arms)
    for name in (name for name in had_own_model if name not in have_own_model):
        others = [arm for other, arm in left.items() if other != name]
        if name in left and left[name] in others:
            del left[name]
    return [name for name in arms if name not in left]


def said_of_twins(gone: Sequence[str], model: str) -> str:
    """A sentence on the arms that were left out; "" = none were."""
    if not gone:
        return ""
    which = f"{format_names(gone)} {'is' if len(gone) == 1 else 'are'} left out"
    return f"With the one model {model}, {which}: the same as another arm (--set arms.{gone[0]}.recipe.model=NAME)."
