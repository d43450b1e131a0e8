"""Your own rows with OpenAI's column messages: a list of turns with role and content.

Source: OpenAI's fine-tuning format. Roles are system (or developer, its newer name), user and assistant; content is
text, or a list of text parts. `tool_calls` of an assistant turn and turns with role tool go through the chat template,
as do the functions in a column `tools` next to `messages`. An assistant turn with `weight: 0` (or `train: false`,
`loss: false`: `_turns.py` has every spelling) is context and not in the loss; `reasoning_content` goes through the chat
template. A column `system` next to `messages`, if it is not blank, is the system turn. Refused, because they cannot be
trained on as intended: images, other weights. In a csv file the cell holds the list as JSON.
"""

from __future__ import annotations

from tunelab.data.messages import Example, Role
from tunelab.data.sources._source import UNKNOWN_LICENCE, Row, SourceOptions, items, optional_text
from tunelab.data.sources._tools import tools_of
from tunelab.data.sources._turns import conversation

HUB = None
LICENCE = UNKNOWN_LICENCE
COLUMNS = frozenset({"messages"})
EXAMPLE = [
    {
        "messages": [
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": "Paris."},
            {"role": "user", "content": "And of Italy?"},
            {"role": "assistant", "content": "Rome."},
        ]
    }
]
KEYS = (("role", "content"),)
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


class Options(SourceOptions):
    """None."""


def examples(row: Row, options: Options) -> list[Example]:
    """One conversation. Raises BadRow: no list of turns, a turn without role or text, or an invalid order."""
    tools = tools_of(row)
    return [conversation(items(row, "messages"), KEYS, ROLES, system=optional_text(row, "system"), tools=tools)]
