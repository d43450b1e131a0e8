"""Rows with a list of turns: the conversion shared by OpenAI's `messages` and ShareGPT's `conversations`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.data.messages import Conversation, Message, Role, check_conversation
from tunelab.data.sources._source import kind_of
from tunelab.errors import BadRow


def conversation(
    turns: Sequence[Any], keys: Sequence[tuple[str, str]], roles: Mapping[str, Role], system: str = ""
) -> Conversation:
    """Turns in order as a conversation, all texts unchanged.

    Args:
        turns: one object per turn.
        keys: pairs (key of the role, key of the text) that a turn may use; the first pair found counts.
        roles: the data's name for a role -> role.
        system: system turn put first; none if it is empty.

    Raises:
        BadRow: a turn is not an object, lacks its keys, has an unknown role, or its text is not text; or what
            check_conversation refuses.
    """
    messages = [Message("system", system)] if system else []
    for number, turn in enumerate(turns, 1):
        messages.append(_message(number, turn, keys, roles))
    return check_conversation(Conversation(tuple(messages)))


def _message(number: int, turn: Any, keys: Sequence[tuple[str, str]], roles: Mapping[str, Role]) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow(f"turn {number} is {kind_of(turn)}, expected an object")
    for role_key, text_key in keys:
        if role_key in turn and text_key in turn:
            break
    else:
        wanted = " or ".join(f"{role_key!r} and {text_key!r}" for role_key, text_key in keys)
        raise BadRow(f"turn {number} needs {wanted}; it has: {', '.join(map(str, turn)) or 'nothing'}")
    role = turn[role_key]
    if not isinstance(role, str) or role not in roles:
        raise BadRow(f"turn {number} has role {role!r}; known: {', '.join(roles)}")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise BadRow(f"turn {number} ({role}) calls a tool: tool use is not supported")
    if turn.get("weight") is not None and turn["weight"] != 1:
        raise BadRow(f"turn {number} ({role}) has weight {turn['weight']!r}: weights are not supported")
    return Message(roles[role], _text(number, role, turn[text_key]))


def _text(number: int, role: str, content: Any) -> str:
    """The text of a turn: text as is, or OpenAI's list of parts {"type": "text", "text": ...} joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow(f"turn {number} ({role}) is {kind_of(content)}, expected text")
    parts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRow(f"turn {number} ({role}) has a part that is not text: only text is supported")
        parts.append(part["text"])
    return "".join(parts)
