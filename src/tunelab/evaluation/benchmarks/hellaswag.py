"""HellaSwag: which of four endings follows a description of an everyday scene.

Paper: Zellers et al. 2019, HellaSwag: Can a Machine Really Finish Your Sentence? (arXiv:1905.07830); repository
rowanz/hellaswag. Prompts and endings are those of lm-evaluation-harness's task hellaswag, byte-identical, without
few-shot examples: the activity, the context, and brackets of WikiHow's markup removed. The 10,042 items are those of
the validation split, as the test split's answers are not published. Published figures are mostly accuracy_norm (the
harness's acc_norm).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tunelab.data.sources._source import Row, column, text
from tunelab.data.sources._source import items as listed
from tunelab.errors import BadRow
from tunelab.evaluation.benchmark import (
    Benchmark,
    BenchmarkOptions,
    Example,
    Graded,
    HubFiles,
    Item,
    Response,
    Scored,
)
from tunelab.evaluation.benchmarks._endings import example_responses, grade_endings, summarise_endings
from tunelab.evaluation.benchmarks._rows import find_files, read_rows

BENCHMARK = Benchmark(
    kind="likelihood",
    metric="accuracy",
    chance=0.25,
    cluster=None,
    source="Zellers et al. 2019 (arXiv:1905.07830); EleutherAI/lm-evaluation-harness, tasks/hellaswag",
    licence="MIT",
    hub=HubFiles("Rowan/hellaswag", None, ("data/validation-*.parquet",)),
    size=10_042,
)

FILES = ("hellaswag_val.jsonl", "data/validation-*.parquet", "validation-*.parquet")


class Options(BenchmarkOptions):
    """Only `data`."""


def items(folder: Path, options: Options) -> list[Item]:
    """All items; an item's id is its row index from 0, and its target the index of the right ending.

    Args:
        folder: with the repository's hellaswag_val.jsonl, or the hub's data/validation-*.parquet.

    Raises:
        DataError, BadRow: files are missing or unreadable.
    """
    rows = read_rows(find_files(folder, FILES), _question)
    return [
        Item(str(place), question, target, choices=choices) for place, (question, target, choices) in enumerate(rows)
    ]


def _question(row: Row) -> tuple[str, int, tuple[str, ...]]:
    context = f"{text(row, 'ctx_a')} {text(row, 'ctx_b').capitalize()}"
    endings = listed(row, "endings")
    if len(endings) != 4 or not all(isinstance(one, str) for one in endings):
        raise BadRow(f"'endings' has {len(endings)} entries, expected four texts")
    label = str(column(row, "label"))
    if label not in ("0", "1", "2", "3"):
        raise BadRow(f"'label' is {label!r}, expected 0 to 3", "the test split has no answers: use the other one")
    question = without_markup(f"{text(row, 'activity_label')}: {context}")
    return question, int(label), tuple(f" {without_markup(one)}" for one in endings)


def without_markup(part: str) -> str:
    """A context or ending without WikiHow's brackets, as lm-evaluation-harness removes them (hellaswag/utils.py)."""
    part = part.strip().replace(" [title]", ". ")
    return re.sub("\\[.*?\\]", "", part).replace("  ", " ")


def grade(response: Response, options: BenchmarkOptions) -> dict[str, float]:
    """accuracy, accuracy_norm (per character), the index of the chosen ending, and whether there was a tie.

    Raises:
        DataError: log-probabilities are missing, or the target is not the index of a choice.
    """
    return grade_endings(response)


def summarise(graded: Sequence[Graded], options: Options) -> Scored:
    """Accuracy and accuracy_norm with their standard errors. Raises DataError if there are no responses."""
    return summarise_endings(graded, "hellaswag")


_ITEM = Item(
    "0",
    "Making tea: A woman fills a kettle. She",
    2,
    choices=(" paints it.", " sings to it.", " puts it on the stove.", " plants it."),
)
_RIGHT, _WRONG = example_responses(_ITEM, (-9.0, -8.0, -4.0, -9.5), (-4.0, -8.0, -40.0, -9.5))

EXAMPLE = Example(item=_ITEM, right=_RIGHT, wrong=_WRONG)
