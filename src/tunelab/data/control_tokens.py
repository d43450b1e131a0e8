"""The control tokens that a chat template writes, and those of them that a tokenizer lacks and splits into pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tunelab.data.chat_sections import ChatTemplate
from tunelab.errors import BadRow

#: What only a control token looks like: ChatML's, Llama 3's and Phi's, and Gemma's. Tags such as <think> may be text.
CONTROL = re.compile(r"<\|[^<>|\s]{1,64}\|>|<(?:start|end)_of_turn>")

#: Conversations in which a template writes its control tokens; some refuse a system turn.
_SAMPLES: tuple[list[dict[str, Any]], ...] = (
    [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}],
    [{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}],
)

#: A conversation in which a function is described, called, and has a result.
_TOOLS = ({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},)
_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}
_WITH_TOOLS: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "b", "name": "f", "tool_call_id": "abcdefghi"},
    {"role": "assistant", "content": "c"},
]


def control_tokens(template: ChatTemplate) -> tuple[str, ...]:
    """The control tokens that a chat template writes into a conversation, in their order; none if it renders none."""
    for turns in _SAMPLES:
        try:
            return tuple(dict.fromkeys(CONTROL.findall(template.applied(turns))))
        except BadRow:
            continue
    return ()


def tool_control_tokens(template: ChatTemplate) -> tuple[str, ...]:
    """Those that it writes only into a conversation with tools; none if it renders none, or ignores tools."""
    with_tools = template.with_tools
    if with_tools is None:
        return ()

    def shown(tools: Sequence[Any]) -> str:
        return template.applied(_WITH_TOOLS, lambda turns: with_tools(turns, tools, False))

    try:
        text, without = shown(_TOOLS), shown(())
    except BadRow:
        return ()
    if text == without:
        return ()
    return tuple(dict.fromkeys(token for token in CONTROL.findall(text) if token not in control_tokens(template)))


def split_tokens(tokens: Iterable[str], tokenizer: Any) -> tuple[str, ...]:
    """Those of the tokens that a tokenizer does not read as one."""
    return tuple(token for token in tokens if len(tokenizer(token, add_special_tokens=False)["input_ids"]) != 1)
