"""Your own rows of token ids: column input_ids, and optionally masks or labels; ids in the loss pass through unchanged.

Which tokens are in the loss, if a row says so: `completion_mask` or `assistant_masks` (TRL; 0, 1, false or true),
`labels` (Trainer, Axolotl; -100 where a token is not in the loss, the token's id elsewhere). If several say it, they
must agree; if none does, or all are null, every token is. `attention_mask` is 0 at padding, which is removed. All are
as long as `input_ids`. The first token of a row is never a target, because nothing precedes it: a row needs a target
after it. A row is one sequence: `position_ids` and `attention_mask` of several packed ones are refused. In a csv file
the cells contain the lists as JSON.
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
MASKS = ("completion_mask", "assistant_masks")
NOT_IN_LOSS = -100


class Options(SourceOptions):
    """None."""


def examples(row: Row, options: Options) -> list[Example]:
    """The row itself, without its padding.

    Raises:
        BadRow: ids that are not integers from 0; a mask or labels of another length or other values, or that contradict
            each other; several sequences in one row; no target.
    """
    ids = items(row, "input_ids")
    for position, token in enumerate(ids):
        # bool is a kind of int in Python, but not a token id.
        if isinstance(token, bool) or not isinstance(token, int):
            raise BadRow(f"input_ids[{position}] is {_shown(token)}, expected an integer")
        if token < 0:
            raise BadRow(f"input_ids[{position}] is {token}: token ids are not negative")
    attended = _attended(row, len(ids))
    mask = _loss_mask(row, ids, attended)
    kept = ids[attended]
    if len(kept) < 2:
        raise BadRow(f"input_ids has {len(kept)} token(s): at least 2 are needed, one to predict the other from")
    return [PretokenizedRow(tuple(kept), None if mask is None else mask[attended])]


def _loss_mask(row: Row, ids: list[int], attended: slice) -> tuple[bool, ...] | None:
    """For each token whether it is in the loss; None where the row does not say."""
    masks = {name: _flags(row, name, len(ids)) for name in MASKS if _has(row, name)}
    if _has(row, "labels"):
        masks["labels"] = _labelled(_as_long(row, "labels", len(ids)), ids)
    if not masks:
        return None
    (first, mask), *others = masks.items()
    for name, other in others:
        for position in range(1, len(ids)):
            if mask[position] != other[position]:
                raise BadRow(f"{first} and {name} contradict each other at token {position}", "keep one of them")
    for position, target in enumerate(mask):
        if target and not attended.start <= position < attended.stop:
            raise BadRow(f"{first} has token {position} in the loss, attention_mask makes it padding")
    if not any(mask[max(1, attended.start + 1) : attended.stop]):
        raise BadRow(f"zero target tokens: {first} marks no token after the first")
    return mask


def _labelled(labels: list[Any], ids: list[int]) -> tuple[bool, ...]:
    for position, (label, token) in enumerate(zip(labels, ids, strict=True)):
        if (label != token and label != NOT_IN_LOSS) or isinstance(label, bool):
            raise BadRow(f"labels[{position}] is {_shown(label)}, expected {NOT_IN_LOSS} or input_ids' own {token}")
    return tuple(label != NOT_IN_LOSS for label in labels)


def _attended(row: Row, length: int) -> slice:
    """Which tokens are no padding.

    Raises:
        BadRow: they are not one stretch, or the row has the positions of several sequences.
    """
    start, stop = 0, length
    if _has(row, "attention_mask"):
        mask = _flags(row, "attention_mask", length)
        start = mask.index(True) if True in mask else length
        stop = length - mask[::-1].index(True) if True in mask else length
        if not all(mask[start:stop]):
            raise BadRow(f"attention_mask is 0 at token {start + mask[start:].index(False)}, between tokens of the row")
    if _has(row, "position_ids"):
        positions = _as_long(row, "position_ids", length)[start:stop]
        if positions != list(range(len(positions))):
            raise BadRow(
                "position_ids do not count from 0 by 1: are these several packed sequences?", "give each a row"
            )
    return slice(start, stop)


def _has(row: Row, name: str) -> bool:
    # An empty csv cell is a column without a value, like null in JSON.
    return row.get(name) not in (None, "")


def _as_long(row: Row, name: str, length: int) -> list[Any]:
    values = items(row, name)
    if len(values) != length:
        raise BadRow(f"{name} has {len(values)} entries, input_ids has {length}: lengths must match")
    return values


def _flags(row: Row, name: str, length: int) -> tuple[bool, ...]:
    values = _as_long(row, name, length)
    for position, value in enumerate(values):
        if not isinstance(value, int) or value not in (0, 1):
            raise BadRow(f"{name}[{position}] is {_shown(value)}, expected 0, 1, false or true")
    return tuple(map(bool, values))


def _shown(value: Any) -> str:
    return f"{value!r} ({kind_of(value)})" if value is not None else "null"
