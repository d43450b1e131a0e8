"""Settings of a report's arms, as others may read them: names for readers, and the keys whose values differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from tunelab import plugins
from tunelab.config import Recipe, SourceSettings
from tunelab.config.shareable import is_place, place_name, shareable_tree
from tunelab.report.content import SettingDifference


def method_name(recipe: Recipe) -> str:
    """The method: "LoRA r 16" or "full fine-tuning"."""
    return f"LoRA r {recipe.adapter.rank}" if recipe.method == "lora" else "full fine-tuning"


def source_name(source: SourceSettings) -> str:
    """A source's name for readers: the file name if it is a file, the repository if only that is named."""
    if source.path:
        return place_name(source.path)
    return source.repository if source.repository and source.name == "auto" else plugins.label(source.name)


def model_name(name: str) -> str:
    """A hub name, or the last component of a local folder or file."""
    return place_name(name) if is_place(name) else name


#: Training keys that a model that is not tuned is evaluated with.
_OF_ANY_MODEL = ("train.dtype", "train.device")


def settings_in_use(recipe: Recipe, *, tuned: bool) -> dict[str, str | None]:
    """A recipe's settings by dotted key, as written in a recipe; None for keys that do not apply: an adapter's without
    an adapter, and those of training for a model that is not tuned."""

    def applies(key: str) -> bool:
        if key.startswith("adapter."):
            return tuned and recipe.method == "lora"
        return tuned or key in _OF_ANY_MODEL or not (key == "method" or key.startswith("train."))

    values = {**dict(_flat(recipe.model_dump(mode="json"))), "tuned": tuned}
    return {key: setting_text(value) if applies(key) else None for key, value in values.items()}


def setting_differences(
    settings: Mapping[str, Mapping[str, str | None]], leaving_out: Collection[str]
) -> Iterator[SettingDifference]:
    """Keys whose values differ between the arms that they apply to.

    Args:
        settings: arm -> its settings_in_use().
        leaving_out: keys that always differ between arms.
    """
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    for key in keys:
        found = {arm: one.get(key, setting_text(None)) for arm, one in settings.items()}
        used = {arm: value for arm, value in found.items() if value is not None}
        if key not in leaving_out and len(set(used.values())) > 1:
            yield SettingDifference(key, _shareable(key, used))


def _shareable(key: str, used: Mapping[str, str]) -> dict[str, str]:
    """Each arm's value without the places of files; two places with one name are numbered: they are a difference."""
    values = list(dict.fromkeys(used.values()))
    shown = [_without_places(key, value) for value in values]
    if len(set(shown)) < len(shown):
        shown = [f"{text} ({number})" for number, text in enumerate(shown, 1)]
    names = dict(zip(values, shown, strict=True))
    return {arm: names[value] for arm, value in used.items()}


def _without_places(key: str, value: str) -> str:
    if value.startswith(("[", "{")):
        with suppress(ValueError):  # words that only begin so
            return setting_text(shareable_tree(json.loads(value)))
    return str(shareable_tree(value, key.rpartition(".")[2]))


def setting_text(value: Any) -> str:
    """A setting's value as in a recipe: no quotes around a word."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
