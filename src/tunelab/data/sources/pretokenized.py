"""Your own rows of token ids: column input_ids, and optionally completion_mask; they pass through unchanged.

`completion_mask[i]` (0, 1, false or true; as long as `input_ids`) says whether token i is in the loss; without it, or
if it is null, every token is. The first token of a row is never a target, because nothing precedes it: a row needs a
target after it. In a csv file the cells contain the lists as JSON.
"""

from __future__ import annotations

from typing import Any

from tunelab.data.messages import Example, PretokenizedRow
from tunelab.data.sources._source import UNKNOWN_LICENCE, Row, SourceOptions, items, kind_of
from tunelab.errors import BadRow

HUB = None
LICENCE = UNKNOWN_LICENCE
COLUMNS = frozenset({"input_ids"})
EXAMPLE = [{"input_ids": [11, 12, 13, 2], "completion_mask": [0, 0, 1, 1]}, {"input_ids": [11, 12, 13, 2]}]


class Options(SourceOptions):
    """None."""


def examples(row: Row, options: Options) -> list[Example]:
    """The row itself.

    Raises:
        BadRow: ids that are not integers from 0, a mask of another length or other values, or no target.
    """
    ids = items(row, "input_ids")
    for position, token in enumerate(ids):
        # bool is a kind of int in Python, but not a token id.
        if isinstance(token, bool) or not isinstance(token, int):
            raise BadRow(f"input_ids[{position}] is {_shown(token)}, expected an integer")
        if token < 0:
            raise BadRow(f"input_ids[{position}] is {token}: token ids are not negative")
    if len(ids) < 2:
        raise BadRow(f"input_ids has {len(ids)} token(s): at least 2 are needed, one to predict the other from")
    # An empty csv cell is a column without a value, like null in JSON.
    has_mask = row.get("completion_mask") not in (None, "")
    mask = _checked_mask(items(row, "completion_mask"), len(ids)) if has_mask else None
    return [PretokenizedRow(tuple(ids), mask)]


def _checked_mask(mask: list[Any], length: int) -> tuple[bool, ...]:
    if len(mask) != length:
        raise BadRow(f"completion_mask has {len(mask)} entries, input_ids has {length}: lengths must match")
    for position, value in enumerate(mask):
        if not isinstance(value, int) or value not in (0, 1):
            raise BadRow(f"completion_mask[{position}] is {_shown(value)}, expected 0, 1, false or true")
    if not any(mask[1:]):
        raise BadRow("zero target tokens: completion_mask marks no token after the first")
    return tuple(map(bool, mask))


def _shown(value: Any) -> str:
    return f"{value!r} ({kind_of(value)})" if value is not None else "null"
