"""Packing and steps: every row exactly once, no bin over its capacity, the same on every machine."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelab.data.packing import divide_among_ranks, epoch_order, group_steps, pack_best_fit, pad_together

LENGTHS = st.lists(st.integers(1, 60), max_size=60)


@given(LENGTHS, st.integers(60, 200))
def test_every_row_lies_in_one_bin_and_no_bin_overflows(lengths: list[int], capacity: int) -> None:
    bins = pack_best_fit(lengths, capacity)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(0 < sum(lengths[row] for row in rows) <= capacity for rows in bins)
    assert all(rows == sorted(rows) for rows in bins)


@given(LENGTHS, st.integers(60, 200))
def test_bins_are_few(lengths: list[int], capacity: int) -> None:
    # Of any two bins one is more than half full, or both would be one (true of every fit-decreasing packing).
    loads = sorted(sum(lengths[row] for row in rows) for rows in pack_best_fit(lengths, capacity))
    assert len(loads) < 2 or loads[0] + loads[1] > capacity
    assert len(loads) <= max(1, math.ceil(2 * sum(lengths) / capacity)) or not lengths


@given(LENGTHS.filter(bool), st.integers(60, 200))
def test_a_row_joins_the_fullest_bin_that_has_room(lengths: list[int], capacity: int) -> None:
    """The same packing by the plainest means: look at every bin for every row."""
    bins: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        free = [(capacity - sum(lengths[i] for i in rows), number) for number, rows in enumerate(bins)]
        fitting = [(room, number) for room, number in free if room >= lengths[row]]
        if fitting:
            bins[min(fitting)[1]].append(row)
        else:
            bins.append([row])
    assert pack_best_fit(lengths, capacity) == [sorted(rows) for rows in bins]


def test_a_known_packing() -> None:
    assert pack_best_fit([5, 7, 5, 2, 4, 2, 5], 10) == [[1, 3], [0, 2], [4, 6], [5]]
    assert pack_best_fit([], 10) == []


@given(LENGTHS, st.integers(1, 200))
def test_padded_batches_hold_every_row_once_and_count_their_padding(lengths: list[int], capacity: int) -> None:
    batches = pad_together(lengths, capacity)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= capacity
    assert pad_together([5, 9, 8, 2, 9], 18) == [[1, 4], [2, 0], [3]]


def test_a_row_longer_than_a_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 11 tokens, a packed sequence holds at most 10"):
        pack_best_fit([3, 11], 10)


@given(st.integers(0, 200), st.integers(0, 2**31), st.integers(0, 50))
def test_an_epoch_s_order_is_a_permutation_and_depends_on_seed_and_epoch_alone(
    rows: int, seed: int, epoch: int
) -> None:
    order = epoch_order(rows, seed=seed, epoch=epoch)
    assert sorted(order) == list(range(rows))
    assert order == epoch_order(rows, seed=seed, epoch=epoch)


def test_orders_differ_and_are_the_same_on_every_machine() -> None:
    assert epoch_order(8, seed=0, epoch=0) == [2, 4, 3, 6, 5, 0, 1, 7]
    orders = [tuple(epoch_order(50, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


@given(LENGTHS.filter(bool), st.integers(1, 20))
def test_steps_of_so_many_rows(lengths: list[int], size: int) -> None:
    order = list(range(len(lengths)))
    steps = group_steps(order, lengths, batch_size=size, batch_tokens=None)
    assert [row for step in steps for row in step] == order
    assert all(len(step) == size for step in steps[:-1])
    assert 0 < len(steps[-1]) <= size


@given(LENGTHS.filter(bool), st.integers(1, 300))
def test_steps_of_so_many_tokens(lengths: list[int], tokens: int) -> None:
    order = list(reversed(range(len(lengths))))
    steps = group_steps(order, lengths, batch_size=None, batch_tokens=tokens)
    assert [row for step in steps for row in step] == order
    for step in steps[:-1]:
        assert sum(lengths[row] for row in step) >= tokens
        assert sum(lengths[row] for row in step[:-1]) < tokens


@pytest.mark.parametrize(("rows", "tokens"), [(None, None), (4, 100)])
def test_a_step_has_exactly_one_size(rows: int | None, tokens: int | None) -> None:
    with pytest.raises(ValueError, match="give exactly one of batch_size and batch_tokens"):
        group_steps([0], [1], batch_size=rows, batch_tokens=tokens)


@given(LENGTHS, st.integers(1, 8))
def test_ranks_share_a_step_about_equally(lengths: list[int], ranks: int) -> None:
    shares = divide_among_ranks(range(len(lengths)), lengths, ranks)
    assert len(shares) == ranks
    assert sorted(row for share in shares for row in share) == list(range(len(lengths)))
    loads = [sum(lengths[row] for row in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)
