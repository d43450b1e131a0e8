"""What every source module contains: where its rows come from, its options, and how a column of a row is read.

A source is one module of this folder (or a user's own .py file) with these names:

    docstring     its first line is the summary shown in listings
    HUB           HubDataset, or None for a format of users' own data
    LICENCE       licence of the hub data; UNKNOWN_LICENCE for a format
    COLUMNS       columns that a row must have; a user's own file is recognized by them
    EXAMPLE       a list of example rows; together they make at least one Example
    Options       subclass of SourceOptions, the source's own settings
    examples      (row, options) -> list of Examples; raises BadRow with the reason alone

and, where needed:

    OTHER_COLUMNS    other sets of columns that the source reads as well (oasst1: nested trees)
    EXAMPLE_OPTIONS  options under which EXAMPLE is read (columns: its mapping)
    gather           (numbered rows, options) -> numbered composite rows (oasst1: messages -> trees)
    left_out         (row, options) -> {what: how many} for what is skipped in a row on purpose
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tunelab.errors import BadRow
from tunelab.files import DuplicateKeyError, parse_json

#: One row as a file or the hub gives it: column -> value.
Row = Mapping[str, Any]
#: A row, or the reason why it is not one, with its number in the file, counted from 1.
NumberedRow = tuple[int, Row | BadRow]

UNKNOWN_LICENCE = "unknown (data of your own)"


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the Hugging Face hub.

    Args:
        repository: "owner/name".
        revision: commit to read; None if no commit could be verified: then the newest is read.
        licence: as on the dataset's card.
        split: split to read if none is requested.
        subset: name of the configuration, for repositories that have several.
    """

    repository: str
    revision: str | None
    licence: str
    split: str = "train"
    subset: str | None = None


class SourceOptions(BaseModel):
    """Base of every source's options. An unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ignore: tuple[str, ...] = Field((), description="Columns that are read over, even if they change what is learned.")


def kind_of(value: Any) -> str:
    """The kind of a value in the terms of a data file: "null", "a number", "a list", ..."""
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
    """The text in a column, unchanged (check_conversation handles empty text).

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
        BadRow: the column has something other than text.
    """
    if row.get(name) is None:
        return ""
    value = text(row, name)
    return value if value.strip() else ""


def items(row: Row, name: str) -> list[Any]:
    """The list in a column; text is parsed as JSON, because a csv cell has no other way to store a list.

    Raises:
        BadRow: the row has no such column, or no list in it.
    """
    value = column(row, name)
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except DuplicateKeyError as error:
            raise BadRow(f"column {name!r}: {error}") from None
        except (ValueError, RecursionError):
            raise BadRow(f"column {name!r} is text, but not a JSON list") from None
    if not isinstance(value, list):
        raise BadRow(f"column {name!r} is {kind_of(value)}, expected a list")
    return value
