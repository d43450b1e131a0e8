"""What a study's unfinished jobs will take, from those that are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunelab.records.cells import Cell


@dataclass(frozen=True, slots=True)
class Expected:
    """Expected cost of a cell; None = unknown."""

    seconds: float | None
    memory_bytes: int | None


def expected_costs(cells: Sequence[Cell]) -> dict[str, Expected]:
    """Expected cost of each unfinished cell, from the arm's done cells, or else from the benchmark's; by key.

    The time of a training is taken to grow with its budget.
    """
    done = [cell for cell in cells if cell.status == "done"]

    def alike(cell: Cell) -> list[Cell]:
        same = [one for one in done if one.benchmark == cell.benchmark]
        return [one for one in same if one.arm == cell.arm] or same

    def seconds_for(cell: Cell, one: Cell) -> float:
        if cell.benchmark or cell.budget is None or one.budget is None:
            return one.seconds
        return one.seconds * cell.budget.value / one.budget.value

    found: dict[str, Expected] = {}
    for cell in cells:
        if cell.status != "done":
            like = alike(cell)
            seconds = sum(seconds_for(cell, one) for one in like) / len(like) if like else None
            memory = max((one.memory_bytes for one in like if one.memory_bytes is not None), default=None)
            found[cell.key] = Expected(seconds, memory)
    return found
