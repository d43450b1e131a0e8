"""Rows with a list of turns: the conversion shared by OpenAI's `messages` and ShareGPT's `conversations`.

An assistant turn may say that it is not in the loss: `weight: 0` (OpenAI, FastChat), `train: false` or
`training: false` (Axolotl), `loss: false` (ms-swift, XTuner), `masked: true` or `mask: true` (torchtune). Null says
nothing. Its thoughts may be in `reasoning_content`, `reasoning` or `thinking`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.data.messages import Conversation, Message, Role, check_conversation
from tunelab.data.sources._source import kind_of
from tunelab.data.sources._tools import of_tool, tool_calls
from tunelab.errors import BadRow

#: Key of a turn -> its value for a turn in the loss.
LOSS_FLAGS = {"weight": True, "train": True, "training": True, "loss": True, "masked": False, "mask": False}
REASONING = ("reasoning_content", "reasoning", "thinking")


def conversation(
    turns: Sequence[Any],
    keys: Sequence[tuple[str, str]],
    roles: Mapping[str, Role],
    system: str = "",
    tools: Sequence[Mapping[str, Any]] = (),
) -> Conversation:
    """Turns in order as a conversation, all texts unchanged.

    Args:
        turns: one object per turn.
        keys: pairs (key of the role, key of the text) that a turn may use; the first pair found counts.
        roles: the data's name for a role -> role.
        system: system turn put first; none if it is empty.
        tools: descriptions of the functions that may be called.

    Raises:
        BadRow: a turn is not an object, lacks its keys, has an unknown role, or its text is not text; or what
            check_conversation refuses.
    """
    messages = [Message("system", system)] if system else []
    for number, turn in enumerate(turns, 1):
        messages.append(_message(number, turn, keys, roles))
    return check_conversation(Conversation(tuple(messages), tools=tuple(tools)))


def _message(number: int, turn: Any, keys: Sequence[tuple[str, str]], roles: Mapping[str, Role]) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow(f"turn {number} is {kind_of(turn)}, expected an object")
    calls = turn.get("tool_calls")
    for role_key, text_key in keys:
        if role_key in turn and (text_key in turn or calls):
            break
    else:
        wanted = " or ".join(f"{role_key!r} and {text_key!r}" for role_key, text_key in keys)
        raise BadRow(f"turn {number} needs {wanted}; it has: {', '.join(map(str, turn)) or 'nothing'}")
    role = turn[role_key]
    if not isinstance(role, str) or role not in roles:
        raise BadRow(f"turn {number} has role {role!r}; known: {', '.join(roles)}")
    if turn.get("function_call"):
        raise BadRow(f"turn {number} ({role}) has function_call, of OpenAI's first format", "write it as tool_calls")
    where = f"turn {number} ({role})"
    is_answer = roles[role] == "assistant"
    return Message(
        roles[role],
        "" if calls and turn.get(text_key) is None else _text(number, role, turn[text_key]),
        in_loss=_in_loss(where, turn, is_answer),
        reasoning=_reasoning(where, turn, is_answer),
        tool_calls=tool_calls(where, calls, is_answer) if calls else (),
        of_tool=of_tool(where, turn) if roles[role] == "tool" else {},
    )


def _in_loss(where: str, turn: Mapping[str, Any], is_answer: bool) -> bool:
    """Whether the turn is in the loss: True where it does not say."""
    # Exporters write weight 1 into every turn; the other flags are somebody's choice.
    known = [key for key in LOSS_FLAGS if is_answer or key != "weight"]
    flags = {key: turn[key] for key in known if turn.get(key) is not None}
    for key, value in flags.items():
        if value not in (0, 1):
            raise BadRow(f"{where} has {key} {value!r}, expected 0, 1, false or true: a turn is in the loss or not")
    said = {key: bool(value) == LOSS_FLAGS[key] for key, value in flags.items()}
    if len(set(said.values())) > 1:
        shown = " and ".join(f"{key} {flags[key]!r}" for key in said)
        raise BadRow(f"{where} has {shown}: one says that it is in the loss, the other that it is not")
    if not is_answer and any(said.values()):
        raise BadRow(
            f"{where} is marked to be in the loss: only assistant turns can be",
            "data.loss_on=all has prompts in it too",
        )
    for key in ("train_detail", "loss_scale"):
        if turn.get(key) not in (None, 1, []):
            raise BadRow(f"{where} has {key}: a turn is in the loss as a whole or not at all")
    return all(said.values())


def _reasoning(where: str, turn: Mapping[str, Any], is_answer: bool) -> str:
    found = {key: turn[key] for key in REASONING if turn.get(key) not in (None, "")}
    for key, value in found.items():
        if not isinstance(value, str):
            raise BadRow(f"{where}: {key} is {kind_of(value)}, expected text")
        if not is_answer:
            raise BadRow(f"{where} has {key}: only assistant turns have thoughts")
    if len(set(found.values())) > 1:
        raise BadRow(f"{where} has {' and '.join(found)}, which differ", "keep one of them")
    return next(iter(found.values()), "")


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
