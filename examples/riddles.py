"""Riddles of our club, one question and one answer a row.

A source of one's own: this file says how a row becomes a conversation. custom_source.py trains with it; on the command
line it is `tunelab train --model M data.sources.0.name=examples/riddles.py data.sources.0.path=riddles.csv`.
"""

from __future__ import annotations

from tunelab.data.messages import Conversation, Example, Message
from tunelab.data.sources._source import UNKNOWN_LICENCE, Row, SourceOptions, text

HUB = None
LICENCE = UNKNOWN_LICENCE
COLUMNS = frozenset({"riddle", "solution"})
EXAMPLE = [{"riddle": "What has keys and opens no door?", "solution": "A piano."}]


class Options(SourceOptions):
    """How riddles are asked."""

    question: str = "Solve the riddle: "


def examples(row: Row, options: Options) -> list[Example]:
    """One conversation a row. `text` refuses a row without the column, and the reader adds file and row number."""
    asked = Message("user", options.question + text(row, "riddle"))
    return [Conversation((asked, Message("assistant", text(row, "solution"))))]
