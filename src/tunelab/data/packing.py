"""Which rows share a micro-batch, and which rows make a step: both follow from lengths and a seed alone.

A step is a set of rows, whatever the size of the micro-batches that it is computed in, so that gradients do not depend
on how the rows are packed. The plan of an epoch is a function of (seed, epoch): a resumed run needs no stored data
order.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np


def pack_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows to bins of at most `capacity` tokens by best-fit decreasing; returns lists of row indices.

    The longest row goes first, each to the fullest bin that still has room for it. Source: Johnson, Demers, Ullman,
    Garey, Graham 1974 (at most 11/9 of the optimal number of bins, plus 6/9).

    Raises:
        ValueError: a row is longer than a bin.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, bin), sorted
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        length = lengths[row]
        if length > capacity:
            raise ValueError(f"row {row} has {length} tokens, a packed sequence holds at most {capacity}")
        place = bisect_left(room, (length, -1))
        if place == len(room):
            bins.append([row])
            insort(room, (capacity - length, len(bins) - 1))
        else:
            free, chosen = room.pop(place)
            bins[chosen].append(row)
            insort(room, (free - length, chosen))
    return [sorted(rows) for rows in bins]


def pad_together(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows to batches of at most `capacity` tokens with padding to the longest row; a longer row is alone.

    Rows of similar length share a batch: the longest go first. Returns lists of row indices.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= capacity:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def epoch_order(rows: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of the rows, the same on every machine for a (seed, epoch)."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    return [int(row) for row in generator.permutation(rows)]


def group_steps(
    order: Sequence[int], lengths: Sequence[int], *, batch_size: int | None, batch_tokens: int | None
) -> list[list[int]]:
    """Rows in order, cut into steps of a number of rows or at least a number of tokens; the last may be smaller.

    Exactly one of the two sizes is given.
    """
    if (batch_size is None) == (batch_tokens is None):
        raise ValueError("give exactly one of batch_size and batch_tokens")
    if batch_size is not None:
        return [list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]
    assert batch_tokens is not None
    steps: list[list[int]] = []
    current: list[int] = []
    tokens = 0
    for row in order:
        current.append(row)
        tokens += lengths[row]
        if tokens >= batch_tokens:
            steps.append(current)
            current, tokens = [], 0
    if current:
        steps.append(current)
    return steps


def divide_among_ranks(rows: Sequence[int], lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Distribute a step's rows over ranks with about equal tokens: longest first, each to the rank with the fewest."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        rank = loads.index(min(loads))
        shares[rank].append(row)
        loads[rank] += lengths[row]
    return shares
