"""Rows and characters that are not used are said in sentences with counts and a remedy, before anything is trained."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tunelab.data.loader import TokenTable
from tunelab.data.not_used import characters_dropped, rows_not_used
from tunelab.data.prepared import PreparedData, RowCounts
from tunelab.data.tokenize import EncodedRow

NONE = RowCounts(*[0] * 10)


def prepared(train: RowCounts, held_out: RowCounts) -> PreparedData:
    row = EncodedRow(input_ids=np.zeros(2, np.int32), answer_mask=np.array([False, True]), reference="", origin="")
    table = TokenTable.of([row])
    return PreparedData("key", table, table, (), (), train, held_out, (), ())


def counts(**changes: int) -> RowCounts:
    return dataclasses.replace(NONE, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("train", "held_out", "on_overflow", "said"),
    [
        (NONE, NONE, "drop", []),
        (
            counts(given=270, dropped_too_long=89, longest_given=540),
            counts(given=30, dropped_too_long=7, longest_given=1200),
            "drop",
            [
                "89 of 270 training rows and 7 of 30 held-out rows are dropped: longer than 1,024 tokens (the longest "
                "has 1,200); raise data.max_length or set data.on_overflow=truncate"
            ],
        ),
        (
            counts(given=270, truncated=5, longest_given=1100),
            NONE,
            "truncate",
            ["5 of 270 training rows are truncated: longer than 1,024 tokens (the longest has 1,100)"],
        ),
        (
            counts(given=9, dropped_too_long=1, longest_given=2000, bad=1),
            NONE,
            "truncate",
            [
                "1 of 9 training rows are dropped: longer than 1,024 tokens (the longest has 2,000); raise "
                "data.max_length, or shorten the prompts: they fill it before any answer begins",
                "1 bad row skipped; `tunelab inspect` lists the reasons",
            ],
        ),
        (counts(bad=2), counts(bad=1), "drop", ["3 bad rows skipped; `tunelab inspect` lists the reasons"]),
    ],
)
def test_rows_that_are_not_used_are_counted(
    train: RowCounts, held_out: RowCounts, on_overflow: str, said: list[str]
) -> None:
    assert rows_not_used(prepared(train, held_out), 1024, on_overflow) == said  # type: ignore[arg-type]


def test_dropped_characters_of_both_splits_are_one_sentence() -> None:
    train = dataclasses.replace(counts(kept=8, lossy=2, lost_characters=3), lost={"ß": 3})
    held_out = dataclasses.replace(counts(kept=2, lossy=1, lost_characters=1), lost={"ß": 1})
    assert characters_dropped(prepared(NONE, NONE)) == []
    (said,) = characters_dropped(prepared(train, held_out))
    assert said.endswith("dropped from 3 of 10 rows: ß (4)")
