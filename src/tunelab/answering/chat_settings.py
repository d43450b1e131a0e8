"""Decoding settings that are changed while a chat goes on: "temperature=0.7 top_p=0.9"."""

from __future__ import annotations

import dataclasses
import json
import re
from difflib import get_close_matches
from typing import Any

from tunelab.errors import UsageError
from tunelab.inference.sampling import Decoding


def changed(decoding: Decoding, assignments: str) -> Decoding:
    """The settings after applying "name=value" assignments; `stop_strings` takes a string or a JSON list of strings.

    Raises:
        UsageError: unknown setting, or invalid value.
    """
    known = {setting.name: getattr(Decoding(), setting.name) for setting in dataclasses.fields(Decoding)}
    changes = {}
    for word in re.split(r"\s+(?=\w+\s*=)", assignments.strip()):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            raise UsageError(f"{word!r} is not a setting: expected NAME=VALUE", f"known: {', '.join(known)}")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise UsageError(
                f"no setting named {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                f"known: {', '.join(known)}",
            )
        changes[name] = _value(name, value, known[name])
    return dataclasses.replace(decoding, **changes)


def _value(name: str, text: str, default: Any) -> Any:
    kind, expected = type(default), {int: "an integer", float: "a number", tuple: "a string or a JSON list of strings"}
    try:
        if kind is not tuple:
            return kind(text)
        strings = json.loads(text) if text.startswith("[") else [text] if text else []
        if all(isinstance(string, str) for string in strings):
            return tuple(strings)
    except ValueError:
        pass
    raise UsageError(f"{name} is {text!r}, expected {expected[kind]}", f"for example: /set {name}={_example(default)}")


def _example(default: Any) -> str:
    return '["###", "User:"]' if isinstance(default, tuple) else str(default)
