"""Tables, packed batches and plans: what is a target, which rows make a step, how long a run is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import random_table

from tunelab.data.loader import TokenTable, TrainingPlan, packed_batch
from tunelab.data.tokenize import EncodedRow

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=40)


def table_of(*rows: tuple[list[int], list[int]]) -> TokenTable:
    return TokenTable.of(
        [
            EncodedRow(np.asarray(ids, dtype=np.int32), np.asarray(mask, dtype=np.bool_), "", "here")
            for ids, mask in rows
        ]
    )


def plan(table: TokenTable, **settings: object) -> TrainingPlan:
    known: dict[str, object] = {"epochs": 1, "steps": None, "batch_size": 4, "batch_tokens": None}
    return TrainingPlan(table=table, **{**known, "micro_batch_tokens": 64, **settings})  # type: ignore[arg-type]


def test_a_table_holds_rows_end_to_end() -> None:
    table = table_of(([5, 6, 7, 2], [0, 0, 1, 1]), ([8, 9], [0, 1]), ([3, 4, 2], [1, 1, 1]))
    assert len(table) == 3
    assert (table.tokens, table.lengths) == (9, [4, 2, 3])
    assert table.targets == [2, 1, 2], "the first token of a row is never a target"
    assert table.prompt_lengths.tolist() == [2, 1, 0]
    assert table.row(1)[0].tolist() == [8, 9]
    assert sorted(table.arrays()) == ["answer_mask", "input_ids", "prompt_lengths", "row_starts"]


def test_a_table_without_rows() -> None:
    table = TokenTable.of([])
    assert (len(table), table.tokens, table.lengths, table.targets) == (0, 0, [], [])


def test_a_table_s_hash_sees_tokens_masks_and_borders() -> None:
    tables = [
        table_of(([5, 6, 7], [0, 1, 1]), ([8, 9], [0, 1])),
        table_of(([5, 6, 1], [0, 1, 1]), ([8, 9], [0, 1])),
        table_of(([5, 6, 7], [0, 0, 1]), ([8, 9], [0, 1])),
        table_of(([5, 6], [0, 1]), ([7, 8, 9], [1, 0, 1])),
    ]
    assert len({table.sha256 for table in tables}) == 4
    assert tables[0].sha256 == table_of(([5, 6, 7], [0, 1, 1]), ([8, 9], [0, 1])).sha256


def test_a_packed_batch_predicts_targets_from_the_token_before() -> None:
    table = table_of(([5, 6, 7, 2], [0, 0, 1, 1]), ([8, 9], [0, 1]), ([3, 4, 2], [1, 1, 1]))
    batch = packed_batch(table, [2, 0])
    assert batch.input_ids.tolist() == [3, 4, 2, 5, 6, 7, 2]
    assert batch.row_starts.tolist() == [0, 3, 7]
    assert batch.labels.tolist() == [4, 2, 7, 2]
    assert batch.predicted_from.tolist() == [0, 1, 4, 5]
    assert {tensor.dtype for tensor in (batch.input_ids, batch.row_starts, batch.labels)} == {torch.int64}
    everything = packed_batch(table, [0, 1], "all")
    assert everything.labels.tolist() == [6, 7, 2, 9]
    assert everything.to("cpu").labels.tolist() == [6, 7, 2, 9]


@given(LENGTHS, st.data())
def test_no_prediction_crosses_a_row_s_border(lengths: list[int], data: st.DataObject) -> None:
    table = random_table(lengths)
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    for loss_on in ("completion", "all"):
        batch = packed_batch(table, rows, loss_on)  # type: ignore[arg-type]
        starts = set(batch.row_starts.tolist())
        assert not {place + 1 for place in batch.predicted_from.tolist()} & starts
        assert torch.equal(batch.input_ids[batch.predicted_from + 1], batch.labels)
    assert len(packed_batch(table, rows).labels) == sum(table.targets[row] for row in rows)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_every_row_comes_exactly_once_an_epoch(lengths: list[int], size: int, epochs: int, by_tokens: bool) -> None:
    sizes = {"batch_size": None, "batch_tokens": size * 10} if by_tokens else {"batch_size": size}
    made = plan(random_table(lengths), epochs=epochs, **sizes)
    seen: list[int] = []
    for number in range(made.total_steps):
        step, epoch = made.step(number)
        assert step.tokens == sum(lengths[row] for row in step.rows)
        assert step.targets == sum(made.table.targets[row] for row in step.rows)
        seen += step.rows
        assert epoch == pytest.approx(len(seen) / len(lengths), abs=1)
        for batch in (batches := made.batches(step)):
            assert sum(lengths[row] for row in batch) <= 64
        assert sorted(row for batch in batches for row in batch) == sorted(step.rows)
    for start in range(0, len(seen), len(lengths)):
        assert sorted(seen[start : start + len(lengths)]) == list(range(len(lengths)))
    assert made.step(made.total_steps - 1)[1] == epochs


@given(LENGTHS, st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_ranks_compute_a_step_s_rows_between_them(lengths: list[int], size: int, ranks: int, packing: bool) -> None:
    made = plan(random_table(lengths), batch_size=size, packing=packing)
    for number in range(made.total_steps):
        step, _ = made.step(number)
        shares = [made.batches(step, rank=rank, ranks=ranks) for rank in range(ranks)]
        assert sorted(row for batches in shares for batch in batches for row in batch) == sorted(step.rows)
        if not packing:
            for batch in (batch for batches in shares for batch in batches):
                assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= made.micro_batch_tokens


def test_a_part_of_an_epoch_is_a_part_of_its_steps() -> None:
    table = random_table([10] * 40)
    assert plan(table, epochs=1).total_steps == 10
    assert plan(table, epochs=0.5).total_steps == 5
    assert plan(table, epochs=2.3).total_steps == 23
    assert plan(table, epochs=0.001).total_steps == 1, "a run has at least one step"


def test_steps_take_the_place_of_epochs_and_run_over_as_many_as_they_need() -> None:
    made = plan(random_table([10] * 10), steps=7)
    assert made.total_steps == 7
    assert [len(made.step(number)[0].rows) for number in range(7)] == [4, 4, 2, 4, 4, 2, 4]
    assert made.step(6)[1] == pytest.approx(2 + 1 / 3)


def test_a_plan_counts_every_token_but_the_first_as_a_target_where_the_prompt_is_learned_too() -> None:
    made = plan(random_table([10, 12]), batch_size=2, loss_on="all")
    assert made.step(0)[0].targets == 20


def test_a_plan_follows_from_its_seed() -> None:
    table = random_table([10] * 30)
    rows = [plan(table, seed=seed).step(0)[0].rows for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
