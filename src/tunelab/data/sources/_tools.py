"""Functions that a model may call, and its calls, in the one form that chat templates take: OpenAI's.

A description or call may come bare ({"name": ...}) or in its frame ({"type": "function", "function": {...}}); arguments
as an object or as JSON text. A null in an object counts as absent: tables with a schema put one there for every key
that another row has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunelab.data.sources._source import Row, items, kind_of
from tunelab.errors import BadRow


def tools_of(row: Row) -> tuple[Mapping[str, Any], ...]:
    """The functions in a row's column `tools`; none if it has no such column, or nothing in it.

    Raises:
        BadRow: it is no list of functions with names.
    """
    value = row.get("tools")
    if not value or value == 1 or (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null")):
        return ()
    return tuple(
        _function(f"column 'tools', function {number}", one) for number, one in enumerate(items(row, "tools"), 1)
    )


def tool_calls(where: str, calls: Any, is_answer: bool) -> tuple[Mapping[str, Any], ...]:
    """The calls of a turn.

    Raises:
        BadRow: they are no list of calls with a name and arguments, or the turn is not the assistant's.
    """
    if not is_answer:
        raise BadRow(f"{where} has tool_calls: only assistant turns call tools")
    calls = _parsed(f"{where}: tool_calls", calls)
    if not isinstance(calls, list):
        raise BadRow(f"{where}: tool_calls is {kind_of(calls)}, expected a list")
    return tuple(_call(f"{where}: call {number}", call) for number, call in enumerate(calls, 1))


def of_tool(where: str, turn: Mapping[str, Any]) -> dict[str, str]:
    """What a tool's turn says besides its content: "name" and "tool_call_id", where given.

    Raises:
        BadRow: one of them is no text.
    """
    found = {key: turn[key] for key in ("name", "tool_call_id") if turn.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, str):
            raise BadRow(f"{where}: {key} is {kind_of(value)}, expected text")
    return {key: value for key, value in found.items() if value}


def _call(where: str, call: Any) -> Mapping[str, Any]:
    framed = _function(where, call)
    function = dict(framed["function"])
    arguments = _parsed(f"{where}: arguments", function.get("arguments", {}))
    if not isinstance(arguments, dict):
        raise BadRow(f"{where}: arguments is {kind_of(arguments)}, expected an object")
    return {**framed, "function": {"name": function["name"], "arguments": arguments}}


def _function(where: str, value: Any) -> Mapping[str, Any]:
    """A function in OpenAI's frame."""
    value = _without_nulls(value)
    framed = value if isinstance(value, dict) and "function" in value else {"function": value}
    function = framed["function"]
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise BadRow(f"{where} has no name", 'expected {"type": "function", "function": {"name": ...}}')
    return {"type": "function", **framed}


def _parsed(where: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise BadRow(f"{where} is text, but not JSON") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value
