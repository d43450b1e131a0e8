"""Frozen dataclasses to JSON and back, strictly: an unknown or missing key, or a value of another type, is an error
that names its place ("scores[3].error").

Supported types: str, bool, int, float, None, Literal, X | None, tuple[X, ...], tuple[X, Y], Mapping[str, X] and
dataclasses of these. Defaults apply only in Python; a stored record has every key, except fields that were added later
(`LATER`), which older records lack.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tunelab.errors import RunError

T = TypeVar("T")

#: Metadata of a field added after the first records were stored: its default is used if a record lacks it.
LATER: Mapping[str, Any] = types.MappingProxyType({"later": True})

_HINT = "written by another version or edited by hand: render the report again from its study"
_UNIONS = (Union, types.UnionType)


def record_to_json(value: Any) -> Any:
    """A record as dicts, lists, strings and numbers, in field order."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: record_to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): record_to_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [record_to_json(one) for one in value]
    return value


def record_from_json(kind: type[T], value: Any, where: str = "") -> T:
    """The record that record_to_json converted.

    Args:
        kind: the dataclass.
        value: the result of json.load.
        where: the record's place in the whole, for messages; "" = the top level.

    Raises:
        RunError: a key is unknown or missing, a value has the wrong type, or a number is not finite.
    """
    place = where or kind.__name__
    if not isinstance(value, Mapping):
        raise _wrong(place, "an object", value)
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if missing := [name for name, field in fields.items() if name not in value and not field.metadata.get("later")]:
        raise RunError(f"{place} lacks {', '.join(missing)}", _HINT)
    if unknown := sorted(set(value) - set(fields)):
        raise RunError(f"{place} has unknown {', '.join(unknown)}", _HINT)
    prefix = f"{where}." if where else ""
    return kind(**{name: _read(hints[name], value[name], prefix + name) for name in fields if name in value})


def _read(kind: Any, value: Any, where: str) -> Any:
    """A value of a type annotation, read from JSON."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in _UNIONS:
        if value is None and type(None) in inner:
            return None
        (kind,) = [one for one in inner if one is not type(None)]
        return _read(kind, value, where)
    if origin is Literal:
        if value not in inner:
            raise _wrong(where, " or ".join(repr(one) for one in inner), value)
        return value
    if origin is tuple:
        return _read_tuple(inner, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, "an object", value)
        return {str(key): _read(inner[1], one, f"{where}.{key}") for key, one in value.items()}
    if dataclasses.is_dataclass(kind):
        return record_from_json(kind, value, where)  # type: ignore[arg-type]
    return _read_plain(kind, value, where)


def _read_tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    if inner[1:] == (...,):
        return tuple(_read(inner[0], one, f"{where}[{place}]") for place, one in enumerate(value))
    if len(value) != len(inner):
        raise _wrong(where, f"a list of {len(inner)}", value)
    pairs = enumerate(zip(inner, value, strict=True))
    return tuple(_read(one, element, f"{where}[{place}]") for place, (one, element) in pairs)


def _read_plain(kind: Any, value: Any, where: str) -> Any:
    """A str, bool, int or float; a bool is not a number, and an int is accepted as a float."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(where, {str: "a string", bool: "true or false", int: "an integer"}.get(kind, "a number"), value)
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(where, "a finite number", value)
    return value


def _wrong(where: str, expected: str, value: Any) -> RunError:
    shown = repr(value)
    return RunError(f"{where} is {shown if len(shown) <= 60 else shown[:57] + '...'}: expected {expected}", _HINT)
