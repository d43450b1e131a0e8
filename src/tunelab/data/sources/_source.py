"""What every source module is made of: where its rows come from, its options, and how a column of a row is read.

A source is one module of this folder (or a user's own .py file) with these names:

    docstring     its first line is the summary shown in listings
    HUB           HubDataset, or None for a format that only a user's own data comes in
    LICENCE       licence of the hub data; UNKNOWN_LICENCE for a format
    COLUMNS       columns that a row must have; a user's own file is recognised by them
    EXAMPLE       a list of example rows; together they make at least one Example
    Options       subclass of SourceOptions, the source's own settings
    examples      (row, options) -> list of Examples; raises BadRow with the reason alone

and, where needed:

    OTHER_COLUMNS    other sets of columns that the source reads as well (oasst1: nested trees)
    EXAMPLE_OPTIONS  options under which EXAMPLE is read (columns: its mapping)
    gather           (numbered rows, options) -> numbered composite rows (oasst1: messages -> trees)
    left_out         (row, options) -> {what: how many} for what is left out of a row on purpose and must be counted
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from tunelab.errors import BadRow

#: One row as a file or the hub gives it: column -> value.
Row = Mapping[str, Any]
#: A row, or the reason why it is none, with its number in the file, counted from 1.
NumberedRow = tuple[int, Row | BadRow]

UNKNOWN_LICENCE = "unknown (data of your own)"


@dataclass(frozen=True)
class HubDataset:
    """A data set on the Hugging Face hub.

    Args:
        repository: "owner/name".
        revision: commit that is read; None where no commit is known for certain, then the newest is read.
        licence: as the data set's card gives it.
        split: split that is read where none is asked for.
        subset: name of the configuration, for repositories that have several.
    """

    repository: str
    revision: str | None
    licence: str
    split: str = "train"
    subset: str | None = None


class SourceOptions(BaseModel):
    """Base of every source's options; has none itself. An unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def kind_of(value: Any) -> str:
    """The kind of a value in the words of a data file: "null", "a number", "a list", ..."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def column(row: Row, name: str) -> Any:
    """The value in a column.

    Raises:
        BadRow: the row has no such column.
    """
    if name not in row:
        raise BadRow(f"no column {name!r}; the row has: {', '.join(map(str, row)) or 'no columns'}")
    return row[name]


def text(row: Row, name: str) -> str:
    """The text in a column, untouched (empty text is judged by check_conversation).

    Raises:
        BadRow: the row has no such column, or no text in it.
    """
    value = column(row, name)
    if not isinstance(value, str):
        raise BadRow(f"column {name!r} is {kind_of(value)}, expected text")
    return value


def optional_text(row: Row, name: str) -> str:
    """The text in a column that may be missing: no column, null and blank text are all "".

    Raises:
        BadRow: the column holds something else than text.
    """
    if row.get(name) is None:
        return ""
    value = text(row, name)
    return value if value.strip() else ""


def items(row: Row, name: str) -> list[Any]:
    """The list in a column; text is read as JSON, because a csv cell can hold a list in no other way.

    Raises:
        BadRow: the row has no such column, or no list in it.
    """
    value = column(row, name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRow(f"column {name!r} is text that is no JSON list") from None
    if not isinstance(value, list):
        raise BadRow(f"column {name!r} is {kind_of(value)}, expected a list")
    return value
