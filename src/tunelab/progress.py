"""How long work tells its caller how far it is. The library prints nothing; the command line draws bars from this."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called by long work each time a unit of it is done.

    Args:
        stage: what is being done, a few words that stay the same throughout the stage ("training", "reading alpaca").
        done: units done so far.
        total: units in all, or None where that is not known beforehand.
        detail: the latest figure worth showing beside the bar ("loss 2.31").
    """

    def __call__(self, stage: str, done: int, total: int | None, detail: str = "") -> None: ...


def silent(stage: str, done: int, total: int | None, detail: str = "") -> None:
    """The default progress: says nothing."""


def named(progress: Progress, name: str) -> Progress:
    """The same progress, with a name before each stage ("lora: training"), for work that has several alike."""

    def report(stage: str, done: int, total: int | None, detail: str = "") -> None:
        progress(f"{name}: {stage}", done, total, detail)

    return report
