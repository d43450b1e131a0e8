"""`--scale` of a study: its sections `small` (a small model, few rows) and `tiny` (a smoke test) merged into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from tunelab.config.budgets import with_tiny_budgets
from tunelab.config.published import PUBLISHED_COSTS
from tunelab.config.study_tree import Tree, merged
from tunelab.errors import UsageError

Scale = Literal["full", "small", "tiny"]


def at_scale(tree: Mapping[str, Any], scale: Scale, origin: str) -> Tree:
    """A study's tree with the section of a scale merged into it.

    At tiny scale nothing is published: toys have nothing to be compared with. At small scale, published scores stay
    and name the model that they are of; what others' machines took is left out. A section's own `published` stays as it
    is.

    Raises:
        UsageError: the study has no section `small`.
    """
    if scale == "full":
        return dict(tree)
    over = tree.get(scale)
    if scale == "small" and not over:
        hint = "add one, with the keys to change: small: {recipe: {model: ..., data: {size: 300}}}; or omit --scale"
        raise UsageError(f"{origin}: has no section `small`", hint)
    over = over if isinstance(over, Mapping) else {}
    result = merged(tree, over)
    if "published" not in over:
        result["published"] = list(_scores_with_their_model(tree)) if scale == "small" else ()
    return with_tiny_budgets(result, over) if scale == "tiny" else result


def _scores_with_their_model(tree: Mapping[str, Any]) -> Iterator[Any]:
    """The published scores of the study at full scale, apart for each of its models."""
    for one in tree.get("published") or ():
        if not (isinstance(one, Mapping) and isinstance(one.get("values"), Mapping)):
            yield one  # reported where the study is checked
        elif one.get("what") not in PUBLISHED_COSTS:
            of_model: dict[str | None, Tree] = {}
            for arm, value in one["values"].items():
                of_model.setdefault(model_of(tree, arm), {})[arm] = value
            for model, values in of_model.items():
                trainings = {arm: one for arm, one in _section(one, "by_training").items() if arm in values}
                yield {"model": model, **one, "values": values, "by_training": trainings}


def model_of(tree: Mapping[str, Any], arm: str) -> str | None:
    """The name of an arm's model; None if the tree is not that of a study."""
    recipes = (_section(_section(_section(tree, "arms"), arm), "recipe"), _section(tree, "recipe"))
    model = next((one["model"] for one in recipes if "model" in one), None)
    name = model.get("name") if isinstance(model, Mapping) else model
    return name if isinstance(name, str) else None


def small_note(full: Mapping[str, Any], models: Mapping[str, str]) -> str:
    """What a report at small scale opens with.

    Args:
        full: the study's tree at full scale.
        models: arm -> the model that it has.
    """
    replaced = dict.fromkeys((_short(models[arm]), _short(model_of(full, arm) or "")) for arm in models)
    said = ", ".join(f"{small} in place of {large}" for small, large in replaced if small != large)
    return f"Small scale: {said or 'fewer rows and items'}. The answers are about what was measured here."


def small_title(title: str, models: Mapping[str, str]) -> str:
    """A study's title at small scale, which names what was measured.

    Args:
        models: arm -> the model that it has.
    """
    return f"{title}, at small scale ({', '.join(dict.fromkeys(map(_short, models.values())))})"


def _section(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, Mapping) else {}


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]
