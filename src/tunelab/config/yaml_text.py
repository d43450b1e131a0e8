"""YAML for recipes: safe, scalars as in YAML 1.2 (1e-5 is a number, `no` is a string), no duplicate keys."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from tunelab.errors import ConfigError, Problem

# YAML 1.2 core schema; underscores between digits are allowed, since 1_000 cannot mean anything else.
_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+(_[0-9]+)*", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?([0-9]+(_[0-9]+)*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)

#: Characters of an invalid value in a message.
MOST_SHOWN = 40

#: Far more than any recipe or study needs. Aliases count as often as they stand for a value.
MOST_CHARACTERS, MOST_VALUES, DEEPEST = 1_000_000, 10_000, 50


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars above and bounds on size, which records duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (yaml's own attribute, filled below)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[Problem] = []
        self._sizes: dict[int, int] = {}  # node -> values in it, with what its aliases stand for
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested too deeply: more than {DEEPEST} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and id(node) not in self._sizes:
            if is_alias:
                raise yaml.MarkedYAMLError(problem="an alias contains itself", problem_mark=mark)
            self._sizes[id(node)] = self._size(node)
        if node is not None and self._sizes[id(node)] > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES:,} values", problem_mark=mark)
        return node

    def _size(self, node: yaml.Node) -> int:
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
        return 1 + sum(self._sizes[id(child)] for child in children)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, OverflowError) as error:
            # PyYAML converts the texts of tags (!!int, !!bool, !!timestamp) without a check.
            kind, text = str(node.tag).rpartition(":")[2], str(node.value)
            shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}... ({len(text):,} characters)"
            raise ConstructorError(None, None, f"{shown} is not a valid {kind}", node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            line = key_node.start_mark.line + 1
            if key is not None and key in seen:
                message = f"duplicate key {key!r}, first in line {seen[key]}"
                self.twice.append(Problem(f"line {line}", message, "keep one of the two"))
            seen.setdefault(key, line)
        return super().construct_mapping(node, deep)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"^([-+]?)\.(inf|nan)", r"\1\2", loader.construct_scalar(node).lower()))


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # YAML 1.1 treats these as line breaks; unescaped, they would be read back as other characters.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # ten times as fast
    """SafeDumper that also quotes strings that our loader would read as numbers."""


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
_Dumper.add_representer(str, _represent_text)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_yaml(text: str, origin: str) -> Any:
    """Parse a YAML text.

    Raises:
        ConfigError: invalid YAML (with line and column), duplicate keys, or more than a recipe or study can need;
            `origin` names the text.
    """
    if len(text) > MOST_CHARACTERS:
        said = f"{len(text):,} characters, expected at most {MOST_CHARACTERS:,}"
        raise ConfigError(origin, [Problem("text", said, "is it the right file?")])
    try:
        value, twice = _loaded(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "text"
        said = ": ".join(part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part)
        hint = "check indentation (no tabs), quotes and colons there"
        raise ConfigError(origin, [Problem(place, said or str(error), hint)]) from None
    if twice:
        raise ConfigError(origin, list(twice))
    return copy.deepcopy(value)  # whose caller may change it


@lru_cache(maxsize=16)
def _loaded(text: str) -> tuple[Any, list[Problem]]:
    """A text's value and its duplicate keys; kept, since a command reads the recipe of a run several times."""
    loader = _Loader(text)
    try:
        return loader.get_single_data(), loader.twice
    finally:
        loader.dispose()


def dump_yaml(value: Any) -> str:
    """A value of mappings, lists and scalars as YAML, in its order; parse_yaml reads it back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
