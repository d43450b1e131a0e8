"""Read recipes from YAML, flags and `section.key=value` overrides; write them. All problems are reported at once."""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tunelab.allowed_code import allow_code
from tunelab.config.other_tools import other_key, other_key_names
from tunelab.config.other_values import other_value_remedy
from tunelab.config.recipe import ModelSettings, Recipe
from tunelab.config.reference import field_names, field_type, in_words, keys, literals, section_of
from tunelab.config.renamed import recipe_renamed
from tunelab.config.rules import broken_rules
from tunelab.config.types import shown
from tunelab.config.yaml_text import dump_yaml, parse_yaml
from tunelab.errors import ConfigError, Problem, UsageError
from tunelab.files import as_path, read_text

#: What the Python API takes as a recipe.
RecipeLike = Recipe | Mapping[str, Any] | str | Path


def load_recipe(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    old_names: bool = False,
    is_asked: bool = True,
) -> Recipe:
    """The recipe in a YAML file with flags, then overrides applied.

    Args:
        path: YAML file; None = an empty recipe.
        overrides: "section.key=value" with the value in YAML ("train.lr=1e-4", "data.sources.0.path=rows.jsonl").
        flags: dotted key -> value; None values are ignored.
        old_names: accept the key names of format 1 (renamed.py), for runs made before the renaming; otherwise each is
            an error that names the new key.
        is_asked: the user gave this recipe, so the Python code that it names may run (allowed_code.py); False for one
            that a run carries along, which rules of later versions do not apply to.

    Raises:
        ConfigError: lists every problem.
        UsageError: the file cannot be read.
    """
    origin = "command line" if path is None else str(path)
    tree = {} if path is None else _read_file(Path(path))
    tree, problems = recipe_renamed(tree)
    problems = [] if old_names else problems
    tree = _expand(tree)
    for key, value in (flags or {}).items():
        if value is not None:
            # A copy, because later overrides modify it.
            tree = _changed(tree, key, copy.deepcopy(value), problems)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            problems.append(Problem(override, "expected section.key=value", "for example train.lr=1e-4"))
            continue
        try:
            value = parse_yaml(text, origin=override)
        except ConfigError as error:
            problems.append(
                Problem(key.strip(), f"{text!r} is not YAML: {error.problems[0].message}", "quote the value")
            )
            continue
        tree = _changed(tree, key.strip(), value, problems)
    recipe = _parse(tree, origin, problems, is_asked=is_asked)
    return with_code_allowed(recipe) if is_asked else recipe


def parse_recipe(tree: Mapping[str, Any], origin: str = "recipe", *, is_asked: bool = True) -> Recipe:
    """A recipe from plain mappings, as in a notebook; `origin` names it in messages.

    Args:
        is_asked: False for one that a study carries along, which rules of later versions do not apply to.

    Raises:
        ConfigError: lists every problem.
    """
    return _parse(_expand(_with_plain_paths(tree)), origin, [], is_asked=is_asked)


def as_recipe(recipe: RecipeLike | None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from any form that the Python API accepts, with changes applied.

    Args:
        recipe: its object, a mapping, or a YAML file's path; None = only the changes.
        changes: key -> value. A mapping is merged into its section, any other value replaces; "train.lr" is a key too.

    Raises:
        ConfigError: lists every problem.
        UsageError: the file cannot be read, or the recipe is something else.
    """
    if isinstance(recipe, Recipe) and not changes:
        return with_code_allowed(recipe)
    if isinstance(recipe, Recipe):
        tree, origin = recipe.model_dump(mode="json"), "recipe"
    elif recipe is None or isinstance(recipe, Mapping):
        tree, origin = _with_plain_paths(recipe or {}), "recipe"
    else:
        tree, origin = _read_file(as_path(recipe, "recipe")), str(recipe)
    problems: list[Problem] = []
    tree = _expand(tree)
    for key, value in (changes or {}).items():
        section = section_of(field_type(Recipe, key)) if key in Recipe.model_fields else None
        value = _with_plain_paths(value)
        # A new model comes without the old one's revision and tokenizer; other shorthands set one key of the section.
        expanded = section.expand(value) if section is not None and key != "model" else value
        for path, leaf in _leaves(key, expanded):
            tree = _changed(tree, path, leaf, problems)
    return with_code_allowed(_parse(tree, origin, problems))


def code_names(recipe: Recipe) -> list[str]:
    """The Python files, and the models with code of their own, that a recipe names."""
    own = [recipe.precision.name, *(source.name for source in recipe.data.sources)]
    models = [recipe.model.name, recipe.model.tokenizer] if recipe.model.trust_remote_code else []
    return [name for name in own if name.endswith(".py")] + [name for name in models if name]


def with_code_allowed(recipe: Recipe) -> Recipe:
    """The recipe, which the user gave; the code that it names may run from now on."""
    allow_code(*code_names(recipe))
    return recipe


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted paths and values of nested mappings; lists are values."""
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves(f"{path}.{key}", below)
    else:
        yield path, copy.deepcopy(value)


def _with_plain_paths(value: Any) -> Any:
    """A tree with mappings as dicts and paths as strings."""
    if isinstance(value, Mapping):
        return {key: _with_plain_paths(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_with_plain_paths(below) for below in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def to_yaml(recipe: Recipe) -> str:
    """All keys of the recipe as YAML, in the order of the tree; reading it back gives an equal recipe."""
    return dump_yaml(recipe.model_dump())


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path, UsageError, "save the recipe as UTF-8 text")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such recipe file", "give the path of a YAML file, or section.key=value") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "give the path of a YAML file") from None
    except ValueError as error:  # a null character or a lone surrogate in the name
        raise UsageError(f"{str(path)!r} is no file name: {error}", "give the path of a YAML file") from None
    tree = parse_yaml(text, origin=str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        kind = type(tree).__name__
        raise ConfigError(
            str(path), [Problem("recipe", f"expected a mapping of keys, got {kind}", "begin with `model: NAME`")]
        )
    return tree


def _expand(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with shorthands expanded, so that overrides can set keys in them, and without empty sections."""
    expanded = {}
    for name, value in tree.items():
        section = section_of(field_type(Recipe, name)) if name in Recipe.model_fields else None
        if section is None:
            expanded[name] = value
        elif value is not None:
            expanded[name] = section.expand(value)
    return expanded


def _changed(tree: dict[str, Any], path: str, value: Any, problems: list[Problem]) -> dict[str, Any]:
    """The tree with `path` set to `value`; adds a problem if the path does not exist."""
    *parents, last = path.split(".")
    place: Any = tree
    for depth, name in enumerate(parents):
        if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
            place = place[int(name)]
        elif isinstance(place, dict):
            if place.get(name) is None:
                place[name] = {}
            place = place[name]
        else:
            problems.append(_unreachable(".".join(parents[:depth]), place, name, path))
            return tree
    if isinstance(place, dict):
        place[last] = value
    elif isinstance(place, list) and last.isdecimal() and int(last) < len(place):
        place[int(last)] = value
    else:
        problems.append(_unreachable(".".join(parents), place, last, path))
    return _expand(tree)


def _unreachable(parent: str, place: Any, name: str, path: str) -> Problem:
    if isinstance(place, list):
        return Problem(path, f"{parent} has no entry {name!r}", f"entries are numbered 0 to {len(place) - 1}")
    return Problem(path, f"{parent} is {shown(place)} and has no keys", f"set {parent} itself")


def _parse(tree: dict[str, Any], origin: str, problems: list[Problem], *, is_asked: bool = True) -> Recipe:
    tree, renamed = recipe_renamed(tree)
    tree, problems = _expand(tree), [*problems, *renamed]
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        found, wrong = _problems(error)
        # Also check the rules between the valid keys, to report all errors at once.
        found += broken_rules(_mended(tree, error), ignore=wrong, is_asked=is_asked)
        raise ConfigError(origin, [*problems, *found]) from None
    problems = [*problems, *broken_rules(recipe, is_asked=is_asked)]
    if problems:
        raise ConfigError(origin, problems)
    return recipe


def _problems(error: ValidationError) -> tuple[list[Problem], frozenset[str]]:
    """One problem per invalid key, in the order of the tree, and the dotted paths of these keys."""
    found: dict[str, Problem] = {}
    for details in error.errors():
        location, expected = _place(details["loc"])
        path = ".".join(location)
        if path not in found:
            found[path] = _problem(path, details, expected)
    # A rule on data.sources is not checked if data.sources.0.weight is invalid.
    wrong = {".".join(path.split(".")[:depth]) for path in found for depth in range(1, path.count(".") + 2)}
    # If an entry of a list is invalid, a union of types reports the whole list as well.
    parents = {path for path in found if any(other.startswith(f"{path}.") for other in found)}
    return [found[path] for path in found if path not in parents], frozenset(wrong)


def _place(location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """The keys of an error's location, without pydantic's union member names, and the annotation there."""
    place: Any = Recipe
    names: list[str] = []
    for part in location:
        section = section_of(place)
        if section is not None and isinstance(part, str):
            names.append(part)
            place = field_type(section, part) if part in field_names(section) else None
        elif isinstance(part, int):
            names.append(str(part))
            place = section_of(place) or _entry(place)
    return names, place


def _entry(annotation: Any) -> Any:
    """The type of a list's entries, also of a list among other types."""
    if get_origin(annotation) is tuple:
        return get_args(annotation)[0]
    return next((get_args(one)[0] for one in get_args(annotation) if get_origin(one) is tuple), annotation)


def _problem(path: str, details: ErrorDetails, expected: Any) -> Problem:
    if details["type"] == "extra_forbidden":
        return _unknown_key(path, details["input"])
    if details["type"] == "missing":
        remedy = {"model": "--model NAME", "data": "--data SOURCE"}.get(path, f"{path}=...")
        return Problem(path, "is missing", f"add it to the recipe, or give {remedy}")
    value = details["input"]
    if details["type"] == "less_than_equal" and "le" in details.get("ctx", {}):
        return Problem(path, f"expected at most {details['ctx']['le']:g}, got {shown(value)}", "give a smaller number")
    remedy = other_value_remedy(re.sub(r"\.\d+$", "", path), value) or _hint_for_value(value, expected)
    return Problem(path, f"expected {in_words(expected)}, got {shown(value)}", remedy)


def _unknown_key(path: str, value: Any) -> Problem:
    """The problem of a key that we do not have: another tool's key with ours, else the nearest of ours."""
    parent, _, name = path.rpartition(".")
    if other := other_key(name):
        return Problem(path, f"unknown key (of {', '.join(other.tools)})", other.remedy(value))
    leaves: dict[str, list[str]] = {}
    for key in keys():
        leaves.setdefault(key.rpartition(".")[2], []).append(key)
    siblings = [key.rpartition(".")[2] for key in keys() if key.rpartition(".")[0] == re.sub(r"\.\d+", "", parent)]
    if name in leaves:
        return Problem(path, "unknown key", f"did you mean {' or '.join(leaves[name])}?")
    near = difflib.get_close_matches(name, [*siblings, *leaves, *other_key_names()], n=1)
    if not near:
        return Problem(path, "unknown key", f"known here: {', '.join(siblings)}")
    if other := other_key(near[0]):
        return Problem(path, "unknown key", f"if you mean {near[0]} of {other.tools[0]}: {other.remedy(value)}")
    beside = difflib.get_close_matches(name, siblings, n=1)
    ours = [f"{parent}.{beside[0]}".lstrip(".")] if beside else leaves[near[0]]
    return Problem(path, "unknown key", f"did you mean {' or '.join(ours)}?")


def _hint_for_value(value: Any, annotation: Any) -> str:
    words = in_words(annotation)
    choices = [choice for choice in literals(annotation) if isinstance(choice, str)]
    if isinstance(value, str) and (near := difflib.get_close_matches(value, choices, n=1)):
        return f"did you mean {near[0]}?"
    if isinstance(value, str | int) and not isinstance(value, bool) and "a list" in words:
        return f"a list of one: [{value}]"
    if isinstance(value, str) and choices:
        return ""
    if isinstance(value, bool):
        return ""
    if isinstance(value, float) and value.is_integer() and "integer" in words:
        return f"write {value:.0f}"
    if isinstance(value, int | float) and "string" in words:
        return "put it in quotes; on the command line: key='\"123\"'"
    return ""


def _mended(tree: dict[str, Any], error: ValidationError) -> Recipe:
    """The tree with defaults instead of the invalid keys, so that rules between the others can be checked."""
    mended: dict[str, Any] = {}
    wrong = {tuple(_place(details["loc"])[0][:2]) for details in error.errors()}
    for name in Recipe.model_fields:
        value = tree.get(name)
        if (name,) in wrong:
            continue
        if isinstance(value, dict):
            mended[name] = {key: value[key] for key in value if (name, str(key)) not in wrong}
        elif name in tree:
            mended[name] = value
    mended["model"] = ModelSettings(name="?")
    if not isinstance(mended.get("data"), dict):
        mended["data"] = {}
    mended["data"].setdefault("sources", ["?"])
    return Recipe.model_validate(mended)
