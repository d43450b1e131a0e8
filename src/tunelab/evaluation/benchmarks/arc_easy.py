"""ARC, easy set: grade-school science questions that simple retrieval answers.

Paper: Clark et al. 2018, Think you have Solved Question Answering? Try ARC, the AI2 Reasoning Challenge
(arXiv:1803.05457). Prompts and choices are those of lm-evaluation-harness's task arc_easy, byte-identical, without
few-shot examples: the text of each choice follows "Answer:"; the other choices are not shown. (Leaderboards that say
25-shot used examples, and score higher.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunelab.evaluation.benchmark import BenchmarkOptions, Graded, Item, Response, Scored
from tunelab.evaluation.benchmarks._arc import about as _about
from tunelab.evaluation.benchmarks._arc import arc_items, example
from tunelab.evaluation.benchmarks._endings import grade_endings, summarise_endings

BENCHMARK = _about("ARC-Easy", 2_376)

EXAMPLE = example()


class Options(BenchmarkOptions):
    """Only `data`."""


def items(folder: Path, options: Options) -> list[Item]:
    """All test questions, as _arc.arc_items() reads them."""
    return arc_items(folder, "ARC-Easy")


def grade(response: Response, options: BenchmarkOptions) -> dict[str, float]:
    """accuracy, accuracy_norm (per character), the index of the chosen answer, and whether there was a tie.

    Raises:
        DataError: log-probabilities are missing, or the target is not the index of a choice.
    """
    return grade_endings(response)


def summarise(graded: Sequence[Graded], options: Options) -> Scored:
    """Accuracy and accuracy_norm with their standard errors. Raises DataError if there are no responses."""
    return summarise_endings(graded, "arc_easy")
