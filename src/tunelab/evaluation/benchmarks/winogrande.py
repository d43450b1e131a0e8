"""WinoGrande: which of two names fills the blank of a sentence; the rest of the sentence is scored after each.

Paper: Sakaguchi et al. 2019, WinoGrande: An Adversarial Winograd Schema Challenge at Scale (arXiv:1907.10641). As in
lm-evaluation-harness's task winogrande (without few-shot examples), the evaluation is partial: both names are put into
the blank, and the log-probability of what follows the blank, the same text, is compared. The 1,267 items are those of
the validation split, as the test split's answers are not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunelab.data.sources._source import Row, text
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
from tunelab.evaluation.benchmarks._endings import example_responses, summarise_endings
from tunelab.evaluation.benchmarks._rows import find_files, read_rows
from tunelab.evaluation.multiple_choice import grade_choice

BENCHMARK = Benchmark(
    kind="likelihood",
    metric="accuracy",
    chance=0.5,
    cluster=None,
    source="Sakaguchi et al. 2019 (arXiv:1907.10641); EleutherAI/lm-evaluation-harness, tasks/winogrande",
    licence="CC BY",
    hub=HubFiles("allenai/winogrande", None, ("winogrande_xl/validation-*.parquet",)),
    size=1_267,
)

FILES = ("dev.jsonl", "winogrande_xl/validation-*.parquet", "validation-*.parquet")


class Options(BenchmarkOptions):
    """Only `data`."""


def items(folder: Path, options: Options) -> list[Item]:
    """All items; an item's id is its row index from 0, and its target the index of the right name.

    Args:
        folder: with the release's dev.jsonl, or the hub's winogrande_xl/validation-*.parquet.

    Raises:
        DataError, BadRow: files are missing or unreadable.
    """
    rows = read_rows(find_files(folder, FILES), _sentence)
    return [
        Item(str(place), before, target, choices=names, ending=ending)
        for place, (before, names, ending, target) in enumerate(rows)
    ]


def _sentence(row: Row) -> tuple[str, tuple[str, str], str, int]:
    """What is before the blank, the two names, the ending, and the index of the right name."""
    before, blank, after = text(row, "sentence").partition("_")
    if not blank or not after.strip():
        raise BadRow("'sentence' has no blank (_) with text after it")
    answer = text(row, "answer")
    if answer not in ("1", "2"):
        raise BadRow(f"'answer' is {answer!r}, expected 1 or 2", "the test split has no answers: use the other one")
    return before, (text(row, "option1"), text(row, "option2")), f" {after.strip()}", int(answer) - 1


def grade(response: Response, options: BenchmarkOptions) -> dict[str, float]:
    """accuracy, the index of the name after which the ending is likelier, and whether there was a tie.

    Raises:
        DataError: log-probabilities are missing, or the target is not the index of a choice.
    """
    return grade_choice(response)


def summarise(graded: Sequence[Graded], options: Options) -> Scored:
    """Accuracy with its standard error. Raises DataError if there are no responses."""
    return summarise_endings(graded, "winogrande")


_ITEM = Item("0", "The cup did not fit into the box because the ", 0, choices=("cup", "box"), ending=" was too large.")
_RIGHT, _WRONG = example_responses(_ITEM, (-4.0, -6.0), (-6.0, -4.0))

EXAMPLE = Example(item=_ITEM, right=_RIGHT, wrong=_WRONG)
