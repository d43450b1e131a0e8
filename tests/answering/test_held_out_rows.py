"""Which held-out rows an evaluation takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny

from tunelab.answering.held_out_evaluation import held_out_rows
from tunelab.data.loader import TokenTable
from tunelab.data.prepared import Reference
from tunelab.errors import DataError, UsageError

TABLE = tiny.random_table([6, 8, 10])
DATA = SimpleNamespace(held_out=TABLE, references=[Reference("here", "an answer")] * len(TABLE))


def test_all_of_them_or_the_first_few() -> None:
    assert [row.id for row in held_out_rows(DATA, tiny.tiny_tokenizer(), None)[0]] == ["000000", "000001", "000002"]
    assert len(held_out_rows(DATA, tiny.tiny_tokenizer(), 2)[0]) == 2


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"evaluate.limit is 0, expected 1 or more"):
        held_out_rows(DATA, tiny.tiny_tokenizer(), 0)


def test_no_rows_held_out() -> None:
    nothing = SimpleNamespace(held_out=TokenTable.of([]), references=[])
    with pytest.raises(DataError, match="there are no held-out rows"):
        held_out_rows(nothing, tiny.tiny_tokenizer(), None)
