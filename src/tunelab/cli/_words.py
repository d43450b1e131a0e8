"""Words of a command line: which are overrides and which name files."""

from __future__ import annotations

import os
import re

_CHANGE = re.compile(r"[A-Za-z_][\w.-]*\s*=")


def looks_like_change(word: str) -> bool:
    """Whether a word has the form of an override: `train.lr=1e-4`."""
    return bool(_CHANGE.match(word))


def is_change(word: str) -> bool:
    """Whether a word is an override. One that names an existing file or directory is that path, never an override."""
    return looks_like_change(word) and not os.path.exists(word)


def is_recipe_file(word: str) -> bool:
    """Whether a word names a recipe: it ends like a YAML file and is neither an override nor a directory."""
    return word.endswith((".yaml", ".yml")) and not is_change(word) and not os.path.isdir(word)
