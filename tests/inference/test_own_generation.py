"""Batches of transformers' own `generate`: which rows run at once."""

from __future__ import annotations

from typing import get_args

from architectures import tiny_architecture

from tunelab.inference.own_generation import AtOnce, _batches, answered_by_model
from tunelab.inference.row import Row
from tunelab.inference.sampling import Decoding

CONTEXT = 16


def row(index: int, tokens: int, most: int = 6) -> Row:
    return Row(index, list(range(1, tokens + 1)), min(most, CONTEXT - tokens), [], None)


def test_rows_of_a_batch_take_the_same_number_of_steps() -> None:
    rows = [row(0, 14), row(1, 3), row(2, 12), row(3, 2), row(4, 14)]
    batches = list(_batches(rows, 1000, "padded"))
    assert [[one.index for one in batch] for batch in batches] == [[0, 4], [2], [1, 3]]
    for batch in batches:
        assert max(len(one.prompt) for one in batch) + max(one.room for one in batch) <= CONTEXT


def test_rows_share_a_batch_only_where_that_is_right() -> None:
    rows = [row(0, 4), row(1, 3), row(2, 4)]
    sizes = {at_once: [len(batch) for batch in _batches(rows, 1000, at_once)] for at_once in get_args(AtOnce)}
    assert sizes == {"padded": [3], "equal": [2, 1], "one": [1, 1, 1]}


def test_a_row_that_its_context_ends_runs_no_further() -> None:
    model = tiny_architecture("gptj", n_positions=CONTEXT, max_position_embeddings=CONTEXT, num_hidden_layers=1)
    decoding = Decoding(max_new_tokens=6)
    ended = list(answered_by_model(model, [row(0, 13), row(1, 3)], decoding, (), 1000, (), at_once="padded"))
    assert {one.index: (one.ended, len(one.answer)) for one in ended} == {0: ("context", 3), 1: ("length", 6)}
