"""What every source gives and every template takes: a conversation, or a row that is already tokenized."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tunelab.errors import BadRow

Role = Literal["system", "user", "assistant", "tool"]
_THOUGHTS_IN_TEXT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")

#: Placeholder for the answer while a prompt is read and rendered.
PLACEHOLDER = "a"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Args:
        input: Alpaca's optional context of an instruction; some templates give it a field of its own.
        in_loss: False = an assistant turn that is context only; turns of the others never are in the loss.
        reasoning: thoughts before an assistant turn's answer (`reasoning_content`), for chat templates that show them.
        tool_calls: of an assistant turn, each {"type": "function", "function": {"name", "arguments"}}, maybe an "id".
        of_tool: of a tool's turn, what templates read besides its content: "name" and "tool_call_id", where given.
    """

    role: Role
    content: str
    input: str = ""
    in_loss: bool = True
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    of_tool: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def text(self) -> str:
        """The whole turn as one text, for templates that have no field for `input`."""
        return f"{self.content}\n\n{self.input}" if self.input else self.content


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order: an optional system turn, then user and assistant in alternation, ending with the assistant.

    After a turn of the assistant that calls tools, turns of the tools come in the user's place. `tools` describes the
    functions that may be called, each {"type": "function", "function": {"name", "parameters", ...}}. `origin` names the
    file and row that it came from ("alpaca.json row 17"), for messages about it.
    """

    messages: tuple[Message, ...]
    origin: str = ""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @property
    def has_tools(self) -> bool:
        """Whether tools are described, or called."""
        return bool(self.tools) or any(message.tool_calls or message.role == "tool" for message in self.messages)

    @property
    def group(self) -> str:
        """The first user turn: conversations of one group are never divided between training and held-out rows."""
        return next((message.text for message in self.messages if message.role == "user"), "")


@dataclass(frozen=True, slots=True)
class PretokenizedRow:
    """A row of token ids that passes through untouched.

    `completion_mask[i]` says whether `input_ids[i]` belongs to an answer; None = every token does.
    """

    input_ids: tuple[int, ...]
    completion_mask: tuple[bool, ...] | None = None
    origin: str = ""

    @property
    def group(self) -> str:
        """Rows with the same tokens before the first answer (all tokens where there is no mask) form one group."""
        if self.completion_mask is None or True not in self.completion_mask:
            return repr(self.input_ids)
        return repr(self.input_ids[: self.completion_mask.index(True)])


Example = Conversation | PretokenizedRow


def with_thoughts_apart(message: Message) -> Message:
    """An answer with `<think>` at its start as one with `reasoning`; neither has white space around it."""
    found = None if message.reasoning else _THOUGHTS_IN_TEXT.fullmatch(message.content)
    thoughts, answer = found.groups() if found else (message.reasoning, message.content)
    return replace(message, content=answer.strip(), reasoning=thoughts.strip())


def check_conversation(conversation: Conversation) -> Conversation:
    """The conversation itself, if it is valid.

    Raises:
        BadRow: a role is unknown, a content is not text or is empty, roles do not alternate, a tool's turn does not
            follow a call, there is no assistant turn, or the last turn is not the assistant's.
    """
    messages = conversation.messages
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            raise BadRow(f"message {number} has role {message.role!r}", f"expected one of: {', '.join(ROLES)}")
        for name, value in (("content", message.content), ("input", message.input)):
            if not isinstance(value, str):
                raise BadRow(f"message {number} ({message.role}): {name} is {type(value).__name__}, expected a string")
        if not message.content.strip() and not message.tool_calls:
            what = "empty output: " if message.role == "assistant" else ""
            raise BadRow(f"{what}message {number} ({message.role}) has no text")
    if not any(message.role == "assistant" for message in messages):
        raise BadRow("no assistant turn: there is nothing to learn from", "every conversation needs an answer")
    if any(message.role == "system" for message in messages[1:]):
        raise BadRow("a system turn comes after the first message", "a system turn is allowed only at the start")
    turns = _without_tools(messages)
    expected = ["user", "assistant"] * ((len(turns) + 1) // 2)
    if turns != expected[: len(turns)]:
        raise BadRow(f"roles do not alternate user, assistant: {', '.join(turns)}")
    if turns[-1] != "assistant":
        raise BadRow("the last turn is not the assistant's: it has no answer")
    if not any(message.in_loss for message in messages if message.role == "assistant"):
        raise BadRow("no assistant turn is in the loss: each is marked not to be")
    return conversation


def _without_tools(messages: tuple[Message, ...]) -> list[Role]:
    """The roles but the system's, as if the results of each call were one turn of the user.

    Raises:
        BadRow: a tool's turn does not follow a call, or something else does.
    """
    roles: list[Role] = []
    for before, message in zip((None, *messages), messages, strict=False):
        if message.role == "tool" and (before is None or not (before.tool_calls or before.role == "tool")):
            raise BadRow("a tool's turn does not follow a tool call", "put it behind the turn with tool_calls")
        if before is not None and before.tool_calls and message.role != "tool":
            raise BadRow(
                "a tool call is not followed by its result", "put a turn with role tool behind it, or end the row there"
            )
        if message.role == "system" or (message.role == "tool" and before is not None and before.role == "tool"):
            continue
        roles.append("user" if message.role == "tool" else message.role)
    return roles
