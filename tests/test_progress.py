"""Progress as the library gives it."""

from __future__ import annotations

from tunelab.progress import named


def test_a_name_stands_before_each_stage() -> None:
    told = []
    named(lambda *what: told.append(what), "lora")("training", 3, 10, "loss 2.0")
    assert told == [("lora: training", 3, 10, "loss 2.0")]
