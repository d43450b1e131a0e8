"""Documentation of the recipe: types in words, the JSON Schema for editors, the reference page in docs/reference/."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic_core import PydanticUndefined

from tunelab.config.recipe import Recipe, Section
from tunelab.config.rules import RULES
from tunelab.config.types import Flag, FlagOrAuto, Words

_PLAIN = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


@dataclass(frozen=True, slots=True)
class Key:
    """One key as the reference describes it.

    Args:
        path: dotted; "N" and "NAME" stand for an entry's number or name.
        accepts: the accepted values in words.
        default: as written in YAML; "" = none (a section), "required" = must be given.
        choices: the accepted words, if there are few.
    """

    path: str
    accepts: str
    default: str
    description: str
    choices: tuple[str, ...] = ()
    is_section: bool = False


@cache
def _annotations(section: type[Section]) -> dict[str, Any]:
    return get_type_hints(section, include_extras=True)


def field_names(section: type[Section]) -> dict[str, str]:
    """A section's keys -> the names of its fields: the same, but for a word of Python's ("from": "from_")."""
    return {field.alias or name: name for name, field in section.model_fields.items()}


def field_type(section: type[Section], key: str) -> Any:
    """A key's annotation as declared in the section."""
    return _annotations(section)[field_names(section)[key]]


def section_of(annotation: Any) -> type[Section] | None:
    """The section class of an annotation, itself or as the type of list entries; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    parts = get_args(annotation)
    return section_of(parts[0]) if get_origin(annotation) is tuple and parts[-1] is Ellipsis else None


def in_words(annotation: Any) -> str:
    """The accepted values of an annotation: "a positive integer, or null"."""
    if annotation is type(None):
        return "null"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return next((words.text for words in annotation.__metadata__ if isinstance(words, Words)), in_words(parts[0]))
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}" if len(parts) > 1 else str(parts[0])
    if origin in (Union, UnionType):
        return ", or ".join(in_words(part) for part in parts)
    if origin is tuple:
        return f"a list{'' if parts[-1] is Ellipsis else f' of {len(parts)}'}, each {in_words(parts[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        names = f"a section ({', '.join(field_names(annotation))})"
        return f"{names}, or {annotation.shorthand}" if annotation.shorthand else names
    return "a mapping"


def keys(section: type[Section] = Recipe, prefix: str = "") -> list[str]:
    """All dotted keys in the order of the tree; list entries without their index."""
    found = []
    for name in field_names(section):
        found.append(f"{prefix}{name}")
        inner = section_of(field_type(section, name))
        if inner is not None:
            found += keys(inner, f"{prefix}{name}.")
    return found


def recipe_keys(section: type[Section] = Recipe, path: str = "") -> list[Key]:
    """Every key of a recipe, sections too, in the order of the tree."""
    found = []
    for name, own in field_names(section).items():
        field, annotation = section.model_fields[own], field_type(section, name)
        found.append(described(f"{path}.{name}" if path else name, field, annotation))
        if inner := section_of(annotation):
            found += recipe_keys(inner, _below(found[-1].path, annotation))
    return found


def described(path: str, field: Any, annotation: Any) -> Key:
    """A key from its pydantic field and annotation."""
    default = "required" if field.is_required() else ""
    if section_of(annotation) is not None:
        accepts = "a list of sections" if get_origin(annotation) is tuple else "a section"
        return Key(path, accepts, default, field.description, is_section=True)
    words = tuple(filter(_is_text, literals(annotation)))
    if annotation in (Flag, FlagOrAuto):
        words = (*words, "true", "false")
    return Key(path, in_words(annotation), default or _default(field), field.description, words)


def literals(annotation: Any) -> list[Any]:
    """All literals in an annotation, at any depth."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [one for part in get_args(annotation) for one in literals(part)]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe file, for editors; has shorthands, but not the rules between keys."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "tunelab recipe"}


def reference_markdown() -> str:
    """The reference page: one table per section, then the rules between keys."""
    lines = [
        "# Recipe reference",
        "",
        "Written by `scripts/make_reference.py` from `src/tunelab/config/`; a test checks that it is current.",
        "A recipe is a YAML file with only what differs from these defaults. Every key can be set on the",
        "command line as `section.key=value`, for example `train.lr=1e-4` or `data.sources.0.path=rows.jsonl`.",
        "",
    ]
    lines += _section_lines(Recipe, "")
    lines += ["## Rules between keys", "", "| keys | rule | fix |", "|---|---|---|"]
    for rule in RULES:
        lines.append(f"| {', '.join(f'`{key}`' for key in rule.keys)} | {rule.wanted} | {rule.remedy} |")
    return "\n".join(lines) + "\n"


def _section_lines(section: type[Section], path: str) -> list[str]:
    lines = [f"## {path or 'Top level'}", "", (section.__doc__ or "").partition("\n")[0]]
    if section.shorthand:
        lines += ["", f"Shorthand for the section: {section.shorthand}."]
    lines += ["", "| key | type | default | description |", "|---|---|---|---|"]
    inner_lines: list[str] = []
    for name, own in field_names(section).items():
        field, annotation = section.model_fields[own], field_type(section, name)
        key = described(f"{path}.{name}" if path else name, field, annotation)
        lines.append(table_row(key))
        if inner := section_of(annotation):
            inner_lines += _section_lines(inner, _below(key.path, annotation))
    return [*lines, "", *inner_lines]


def table_row(key: Key) -> str:
    """A key as a row of the reference's tables."""
    default = f"`{key.default}`" if key.default not in ("", "required") else key.default
    return f"| `{key.path}` | {key.accepts} | {default} | {key.description} |"


def _below(path: str, annotation: Any) -> str:
    """The path of a section's keys; entries of a list are numbered N."""
    return f"{path}.N" if get_origin(annotation) is tuple else path


def _default(field: Any) -> str:
    value = field.default_factory() if field.default is PydanticUndefined else field.default
    return value if isinstance(value, str) else json.dumps(value)
