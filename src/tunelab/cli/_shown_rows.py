"""The rows that `inspect` shows: token ids, and which of them are in the loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tunelab.config import Recipe

if TYPE_CHECKING:
    from tunelab.data.prepared import PreparedData


def shown_rows(recipe: Recipe, data: PreparedData, count: int) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids and targets of the first training rows, [tokens] each."""
    for index in range(min(count, len(data.train))):
        ids, mask = data.train.row(index)
        targets = [True] * len(ids) if recipe.data.loss_on == "all" else [bool(one) for one in mask.tolist()]
        targets[0] = False  # the first token has no context to predict it from
        yield ids.tolist(), targets
