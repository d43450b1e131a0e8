"""Words of a command line: which are overrides and which name files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tunelab.errors import UsageError

_CHANGE = re.compile(r"[A-Za-z_][\w.-]*\s*=")
_OPTION = re.compile(r"([A-Za-z_][\w-]*)\.(\w+)=(.*)", re.DOTALL)

#: Benchmark -> option -> value.
Options = dict[str, dict[str, str]]


def looks_like_change(word: str) -> bool:
    """Whether a word has the form of an override: `train.lr=1e-4`."""
    return bool(_CHANGE.match(word))


def is_change(word: str) -> bool:
    """Whether a word is an override. One that names an existing file or directory is that path, never an override."""
    return looks_like_change(word) and not os.path.exists(word)


def is_recipe_file(word: str) -> bool:
    """Whether a word names a recipe: it ends like a YAML file and is neither an override nor a directory."""
    return word.endswith((".yaml", ".yml")) and not is_change(word) and not os.path.isdir(word)


def paths_and_options(words: Sequence[str]) -> tuple[list[Path], Options]:
    """Files, and options by benchmark and key; a word that names a file is never an option."""
    paths: list[Path] = []
    options: Options = {}
    for word in words:
        found = _OPTION.fullmatch(word)
        if found and not Path(word).exists():
            options.setdefault(found[1], {})[found[2]] = found[3]
        else:
            paths.append(Path(word))
    if not paths:
        raise UsageError("no responses to score", "give a response file or its folder")
    if len(set(paths)) < len(paths):
        raise UsageError("a file is given twice")
    return paths, options


def comma_separated(value: str | None) -> list[str]:
    """The names in "mmlu, ifeval"; none in None."""
    return [name.strip() for name in (value or "").split(",") if name.strip()]


def option_pairs(words: Sequence[str] | None) -> dict[str, str]:
    """Options of `--option KEY=VALUE`. Raises UsageError if one has another form."""
    pairs = [word.partition("=") for word in words or ()]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise UsageError(f"--option {name}: expected KEY=VALUE", "for example --option workers=2")
    return {name: value for name, _, value in pairs}
