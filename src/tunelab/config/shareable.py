"""A recipe as others may read it: local files and folders by their names, without the places where they are.

Paths name users, machines and customers. What leaves this machine (a model card, a report, a tracker) has the names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunelab.config.recipe import Recipe
from tunelab.config.yaml_text import dump_yaml

#: Keys that are places on this machine whatever they look like.
_PLACES = ("path", "chat_template", "from", "out")

#: What no name on the hub, and no regular expression of layers, begins with: "/", "./", "../", "~", "C:\\".
_LOCAL = re.compile(r"(/|\.{1,2}/|~[\w.-]*/|[A-Za-z]:[/\\])")

#: An absolute path in a sentence; a URL's is part of its address.
_PART = r"[/\\][^\s/\\:;,'\"()]+"
_PATH = re.compile(rf"(?<![\w:/~.])(?:~(?:{_PART})+|(?:[A-Za-z]:(?=\\))?(?:{_PART}){{2,}})")


def shareable_yaml(recipe: Recipe, *, has_local_base: bool = False) -> str:
    """All keys of the recipe as YAML, every local place reduced to its last part; names on the hub are unchanged.

    Args:
        has_local_base: the model is a folder even if its name could be one on the hub ("models/base").
    """
    tree = shareable_tree(recipe.model_dump())
    if has_local_base:
        tree["model"]["name"] = place_name(recipe.model.name)
    return dump_yaml(tree)


def shareable_tree(value: Any, key: str = "") -> Any:
    """A part of a recipe with its local places reduced to their last parts.

    Args:
        key: the key that the value is under.
    """
    if isinstance(value, Mapping):
        return {name: shareable_tree(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shareable_tree(one, key) for one in value]
    return place_name(value) if isinstance(value, str) and (key in _PLACES or is_place(value)) else value


def place_name(place: str) -> str:
    """The last part of a path, written on any system: "/home/jane/rows.jsonl" is "rows.jsonl"."""
    return re.split(r"[/\\]", place.rstrip("/\\"))[-1] or place


def without_places(text: str) -> str:
    """A message with every absolute path in it reduced to its last part."""
    return _PATH.sub(lambda found: place_name(found.group()), text)


def is_place(text: str) -> bool:
    """Whether a name is a local path, not one on the hub ("gpt2", "owner/name")."""
    if "\n" in text or not re.search(r"[/\\]", text):
        return False
    return bool(_LOCAL.match(text)) or len(Path(text).parts) > 2 or Path(text).exists()
