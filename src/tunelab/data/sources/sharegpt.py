"""Your own rows with ShareGPT's column conversations: a list of turns with from and value.

Names of the roles: human, user, prompter; gpt, assistant, chatgpt, bing, bard, model, bot; system. A turn may
also use role and content, and say whether it is in the loss (`_turns.py`). A column `system` next to `conversations`,
if it is not blank, is the system turn. In a csv file the cell holds the list as JSON.
"""

from __future__ import annotations

from tunelab.data.messages import Example, Role
from tunelab.data.sources._source import UNKNOWN_LICENCE, Row, SourceOptions, items, optional_text
from tunelab.data.sources._turns import conversation

HUB = None
LICENCE = UNKNOWN_LICENCE
COLUMNS = frozenset({"conversations"})
EXAMPLE = [
    {
        "conversations": [
            {"from": "human", "value": "What is the capital of France?"},
            {"from": "gpt", "value": "Paris."},
        ]
    }
]
KEYS = (("from", "value"), ("role", "content"))
ROLES: dict[str, Role] = {
    "system": "system",
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
}


class Options(SourceOptions):
    """None."""


def examples(row: Row, options: Options) -> list[Example]:
    """One conversation. Raises BadRow: no list of turns, a turn without role or text, or an invalid order."""
    return [conversation(items(row, "conversations"), KEYS, ROLES, system=optional_text(row, "system"))]
