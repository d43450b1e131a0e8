"""How long-running work reports progress. The library prints nothing; the command line draws bars or prints lines."""

from __future__ import annotations

from typing import Protocol

#: The stage of the training steps. Its lines in a log are what a person follows a run by.
TRAINING = "training"

#: Between the fields of a detail: "loss 2.31  1,234 tokens/s".
SEPARATOR = "  "


class Progress(Protocol):
    """Called after each unit of work.

    Args:
        stage: what is being done; a few words, constant during the stage ("training", "reading alpaca").
        done: units done so far.
        total: units in total; None = unknown.
        detail: the latest values to show next to the bar ("loss 2.31"), separated by SEPARATOR, the most important
            first: where there is little space, only the first ones are shown.
    """

    def __call__(self, stage: str, done: int, total: int | None, detail: str = "") -> None: ...


def silent(stage: str, done: int, total: int | None, detail: str = "") -> None:
    """The default progress: prints nothing."""


def unheard(sentence: str) -> None:
    """The default listener of work that says something once: what it is about to do, and warnings."""


def named(progress: Progress, name: str) -> Progress:
    """The same progress with a prefix for each stage ("lora: training"), for work with several similar stages."""

    def report(stage: str, done: int, total: int | None, detail: str = "") -> None:
        progress(f"{name}: {stage}", done, total, detail)

    return report
