"""Your own rows with columns prompt and completion, both text.

A column `system`, if it is not blank, is the system turn. Texts stay unchanged, leading spaces included. A list of
messages in either column is refused: put the whole conversation in one column `messages`.
"""

from __future__ import annotations

from tunelab.data.messages import Example
from tunelab.data.sources._instruction import single_turn
from tunelab.data.sources._source import UNKNOWN_LICENCE, Row, SourceOptions, optional_text, text

HUB = None
LICENCE = UNKNOWN_LICENCE
COLUMNS = frozenset({"prompt", "completion"})
EXAMPLE = [{"prompt": "What is 2 + 2?", "completion": "4"}]


class Options(SourceOptions):
    """None."""


def examples(row: Row, options: Options) -> list[Example]:
    """One conversation of two turns. Raises BadRow: a column is missing, blank or not text."""
    return [single_turn(text(row, "prompt"), text(row, "completion"), system=optional_text(row, "system"))]
