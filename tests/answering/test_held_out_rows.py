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


def test_all_of_them_or_a_sample() -> None:
    assert [row.id for row in held_out_rows(DATA, tiny.tiny_tokenizer(), None)[0]] == ["000000", "000001", "000002"]
    table = tiny.random_table([6] * 60)
    data = SimpleNamespace(held_out=table, references=[Reference("here", "an answer")] * len(table))
    few, more = ([row.id for row in held_out_rows(data, tiny.tiny_tokenizer(), limit)[0]] for limit in (10, 20))
    assert (len(few), len(more)) == (10, 20) and set(few) < set(more) and few == sorted(few)
    halves = [sum(int(row) < 30 for row in rows) for rows in (few, more)]
    assert 0 < halves[0] < 10 and 0 < halves[1] < 20, "a file may be sorted, and sources follow each other"


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"evaluate.limit is 0, expected 1 or more"):
        held_out_rows(DATA, tiny.tiny_tokenizer(), 0)


def test_no_rows_held_out() -> None:
    nothing = SimpleNamespace(held_out=TokenTable.of([]), references=[])
    with pytest.raises(DataError, match="there are no held-out rows"):
        held_out_rows(nothing, tiny.tiny_tokenizer(), None)
