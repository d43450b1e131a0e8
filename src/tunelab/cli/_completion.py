"""Shell completion by argcomplete: verbs, flags, recipe keys and their values, runs, studies, benchmarks, sources.

Only the verb that is being completed is imported, and nothing of it that imports torch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import argcomplete
from argcomplete.completers import DirectoriesCompleter, FilesCompleter

from tunelab import plugins
from tunelab.cli._recipe_arguments import KEY_FLAGS
from tunelab.config.methods import METHODS
from tunelab.config.reference import recipe_keys
from tunelab.config.rules import PRECISIONS
from tunelab.config.shipped_studies import shipped_studies
from tunelab.records.runs import Run

Completer = Callable[..., Iterable[str]]


def complete(verbs: list[str], **options: Any) -> None:
    """Print the completions of the command line in COMP_LINE and exit.

    Args:
        verbs: names of all verbs.
        options: of argcomplete.autocomplete().
    """
    words = os.environ.get("COMP_LINE", "").split()
    parser = _parser(verbs, words[1] if len(words) > 1 else "")
    argcomplete.autocomplete(parser, always_complete_options=False, **options)


def _parser(verbs: list[str], named: str) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="tunelab", allow_abbrev=False)
    below = top.add_subparsers(dest="verb")
    for verb in verbs:
        parser = below.add_parser(verb, allow_abbrev=False)
        if verb == named:
            plugins.load("cli", verb).add_arguments(parser)
            for action in parser._actions:
                if (completer := _completer(action)) is not None:
                    action.completer = completer  # type: ignore[attr-defined]
    return top


def _completer(action: argparse.Action) -> Completer | None:
    """What completes an argument: by its flag, else by the words of its metavar; None = argcomplete's default."""
    if not action.option_strings or action.dest == "resume":
        kinds = str(action.metavar or "").split(" | ")
        return _together([_BY_KIND[kind] for kind in kinds if kind in _BY_KIND])
    if action.metavar == "DIR":
        return _BY_FLAG.get(action.dest, DirectoriesCompleter())
    if action.dest in _BY_FLAG:
        return _BY_FLAG[action.dest]
    keys = {flag.attribute: flag.key for flag in KEY_FLAGS}
    values = _values().get(keys.get(action.dest, ""), ())
    return _known(lambda: values) if values else None


def _together(completers: list[Completer]) -> Completer | None:
    if not completers:
        return None
    return lambda prefix, **more: [word for one in completers for word in one(prefix=prefix, **more)]


def _known(words: Callable[[], Iterable[str]]) -> Completer:
    return lambda prefix, **more: [word for word in words() if word.startswith(prefix)]


def _values() -> dict[str, tuple[str, ...]]:
    """Key -> its values, of keys with few."""
    return {key.path: key.choices for key in recipe_keys() if key.choices} | {"precision.name": PRECISIONS}


def _changes(prefix: str, **more: Any) -> list[str]:
    """Recipe keys; after `key=` its values."""
    key, equals, _ = prefix.partition("=")
    if equals:
        return [f"{key}={value}" for value in _values().get(key, ()) if f"{key}={value}".startswith(prefix)]
    paths = [one.path.replace(".N", ".0") for one in recipe_keys() if not one.is_section]
    return [f"{path}=" for path in paths if path.startswith(prefix)]


def _recipes(prefix: str, **more: Any) -> list[str]:
    """YAML files, and directories that may contain some."""
    found = FilesCompleter(("yaml", "yml"))(prefix)
    return [path for path in found if not Run(Path(path)).recipe_file.exists()]


def _runs(prefix: str, **more: Any) -> list[str]:
    """Runs, and directories that may contain some."""
    folder = Path(os.path.dirname(prefix) or ".")
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        shown = os.path.join(os.path.dirname(prefix), path.name)
        if path.is_dir() and shown.startswith(prefix) and not path.name.startswith("."):
            found.append(shown if Run(path).recipe_file.exists() else f"{shown}/")
    return found


def _listed(names: Callable[[], Iterable[str]]) -> Completer:
    """Names after the last comma; the names before it stay."""

    def complete(prefix: str, **more: Any) -> list[str]:
        before, comma, _ = prefix.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name not in before.split(",")]

    return complete


_files: Completer = FilesCompleter()

_BY_KIND: dict[str, Completer] = {
    "RUN": _runs,
    "key=value": _changes,
    "RECIPE.yaml": _recipes,
    "STUDY": _together([_known(lambda: [one.name for one in shipped_studies()]), _recipes]) or _files,
}

_BY_FLAG: dict[str, Completer] = {
    "data": _together([_known(lambda: plugins.names("data/sources")), _files]) or _files,
    "benchmarks": _listed(lambda: plugins.names("evaluation/benchmarks")),
    "compare": _listed(lambda: METHODS),
    "executor": _known(lambda: plugins.names("studies/executors")),
}
