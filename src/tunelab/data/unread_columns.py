"""Columns that a source does not read: listed once per source; those that would change what is learned are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from tunelab.data.messages import Example
from tunelab.data.sources._source import Row, SourceOptions
from tunelab.errors import BadRow

#: Columns of other tools' files that change what a model is trained on. A row with a value in one is refused unless
#: its source reads the column.
CHANGE_WHAT_IS_LEARNED = frozenset(
    (
        *("system", "system_prompt", "system_message", "history", "input", "context"),
        *("tools", "functions", "documents", "chat_template", "chat_template_kwargs"),
        *("image", "images", "video", "videos", "audio", "audios"),
        *("thinking", "reasoning", "reasoning_content"),
        *("weight", "loss_weight", "train", "loss"),
        *("labels", "attention_mask", "completion_mask", "assistant_mask", "assistant_masks"),
        *("loss_mask", "position_ids", "seq_lengths"),
    )
)


class ReadRow(Mapping[str, Any]):
    """A row that notes which of its columns were read; the columns in `ignore` are not there."""

    def __init__(self, row: Row, ignore: tuple[str, ...] = ()) -> None:
        self._row = {name: value for name, value in row.items() if name not in ignore} if ignore else row
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        value = self._row[name]
        self.read.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


def filled_columns(row: Row) -> list[str]:
    """Names of the columns that hold something: not null, blank or an empty list, nor 1, a weight without effect."""
    return [str(name) for name, value in row.items() if not _is_empty(value)]


def examples_of(module: ModuleType, row: ReadRow, options: SourceOptions) -> list[Example]:
    """The examples that a source makes of a row.

    Raises:
        BadRow: as the source's; or the row holds a column that would change what is learned and is not read. A source
            without COLUMNS reads what its options name, and a user's own decides by itself.
    """
    made: list[Example] = module.examples(row, options)
    is_format = bool(module.COLUMNS) and module.__name__.startswith("tunelab.")
    suspects = CHANGE_WHAT_IS_LEARNED.intersection(row) - row.read if is_format else ()
    unread = sorted(name for name in suspects if not _is_empty(row[name]))
    if unread:
        raise BadRow(
            f"column {unread[0]!r} would change what is learned, and is not read",
            f"put it into the columns that are, or leave it out on purpose: options.ignore: [{unread[0]}]",
        )
    return made


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    return value is None or value == 1 or (isinstance(value, list | dict) and not value)
