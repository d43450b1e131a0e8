"""The calls in a model's answer: JSON objects with the name of a tool, in whatever frame a chat template puts them.

Qwen's and Hermes' templates write <tool_call>{...}</tool_call>, Mistral's [TOOL_CALLS] [{...}], Llama 3's the object
alone, with `parameters` for `arguments`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

#: What stands before the first call and is the template's: a tag, a list's bracket, a fence.
_FRAME = re.compile(r"(?:<\|?\w+\|?>|\[TOOL_CALLS\]|\[|```\w*|\s)+$")


def called_tools(answer: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[dict[str, Any], ...]]:
    """The text before the calls of an answer, and the calls as a conversation has them; all of it and () without calls.

    Args:
        tools: the functions that may be called, as a conversation has them.
    """
    names = {tool.get("function", tool).get("name") for tool in tools}
    found = [(place, call) for place, call in _objects(answer) if _has_name_in(call, names)]
    calls = tuple(_call(call) for _, call in found)
    return (_FRAME.sub("", answer[: found[0][0]]), calls) if found else (answer, ())


def _has_name_in(call: Mapping[str, Any], names: Collection[str | None]) -> bool:
    name = call.get("name")  # of a model's answer: it may be anything
    return isinstance(name, str) and name in names


def _objects(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a text that are in no other, and where they begin."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield place, value
        place = text.find("{", end)


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = call.get("arguments", call.get("parameters", {}))
    return {"type": "function", "function": {"name": call["name"], "arguments": arguments}}
