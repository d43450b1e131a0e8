"""What the easy and the challenge set of ARC share: their files, prompts and an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunelab.data.sources._source import Row, column, kind_of, text
from tunelab.errors import BadRow
from tunelab.evaluation.benchmark import Benchmark, Example, HubFiles, Item
from tunelab.evaluation.benchmarks._endings import example_responses
from tunelab.evaluation.benchmarks._rows import find_files, read_rows


def about(name: str, size: int) -> Benchmark:
    """The description of a set ("ARC-Easy")."""
    task = name.lower().replace("-", "_")
    return Benchmark(
        kind="likelihood",
        metric="accuracy",
        # Most questions have four choices, some three or five: the chance level is computed from them and reported.
        chance=None,
        cluster=None,
        source=f"Clark et al. 2018 (arXiv:1803.05457); EleutherAI/lm-evaluation-harness, tasks/arc, {task}",
        licence="CC BY-SA 4.0",
        hub=HubFiles("allenai/ai2_arc", None, (f"{name}/test-*.parquet",)),
        size=size,
    )


def arc_items(folder: Path, name: str) -> list[Item]:
    """All test questions of a set; an item's id is its row index from 0, its target the index of the right choice.

    Args:
        folder: with the release's NAME-Test.jsonl, or the hub's NAME/test-*.parquet.

    Raises:
        DataError, BadRow: files are missing or unreadable.
    """
    rows = read_rows(find_files(folder, (f"{name}-Test.jsonl", f"{name}/test-*.parquet")), _question)
    return [
        Item(str(place), f"Question: {question}\nAnswer:", target, choices=choices)
        for place, (question, target, choices) in enumerate(rows)
    ]


def _question(row: Row) -> tuple[str, int, tuple[str, ...]]:
    """A row of the hub, or of the release, where the choices are part of the question."""
    asked = column(row, "question")
    if isinstance(asked, dict):
        question, choices = text(asked, "stem"), column(asked, "choices")
        labels, texts = ([one.get(key) for one in choices] for key in ("label", "text"))
    else:
        question, labelled = text(row, "question"), column(row, "choices")
        if not isinstance(labelled, dict) or not {"label", "text"} <= set(labelled):
            raise BadRow(f"column 'choices' is {kind_of(labelled)}, expected an object with 'label' and 'text'")
        labels, texts = list(labelled["label"]), list(labelled["text"])
    answer = text(row, "answerKey")
    _check(labels, texts, answer)
    return question, labels.index(answer), tuple(f" {one}" for one in texts)


def _check(labels: list[Any], texts: list[Any], answer: str) -> None:
    if len(labels) != len(texts) or len(texts) < 2 or not all(isinstance(one, str) for one in texts):
        raise BadRow(
            f"{len(texts)} choices with {len(labels)} labels: expected at least two texts, and a label for each"
        )
    if answer not in labels:
        raise BadRow(f"'answerKey' is {answer!r}, expected one of {', '.join(map(str, labels))}")


def example() -> Example:
    """An item with a right and a wrong response."""
    item = Item("0", "Question: Which of these is a metal?\nAnswer:", 1, choices=(" wood", " iron", " glass", " wool"))
    right, wrong = example_responses(item, (-9.0, -3.0, -8.0, -9.5), (-3.0, -30.0, -8.0, -9.5))
    return Example(item=item, right=right, wrong=wrong)
