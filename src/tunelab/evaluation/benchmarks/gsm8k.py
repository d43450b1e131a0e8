"""GSM8K: grade-school math word problems, answered step by step.

Paper: Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems (arXiv:2110.14168); repository
openai/grade-school-math. Prompt, stop strings, answer extraction and comparison follow
lm-evaluation-harness's task gsm8k (version 3) with one difference: it draws its few-shot examples at random from the
training rows; here they are the first `shots` training rows, so that every model sees the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from tunelab.data.sources._source import Row, text
from tunelab.errors import BadRow, DataError
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
from tunelab.evaluation.benchmarks._rows import find_files, read_rows
from tunelab.evaluation.benchmarks._scores import cut_warnings, is_cut, mean_score, truncated_warnings

BENCHMARK = Benchmark(
    kind="generate",
    metric="exact_strict",
    chance=None,
    cluster=None,
    source="Cobbe et al. 2021 (arXiv:2110.14168); lm-evaluation-harness, task gsm8k, version 3",
    licence="MIT",
    hub=HubFiles(
        "openai/gsm8k", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c", ("main/train-*.parquet", "main/test-*.parquet")
    ),
    max_new_tokens=256,
    stop_strings=("Question:", "</s>", "<|im_end|>"),
    size=1_319,
)

FILES = {split: (f"{split}.jsonl", f"main/{split}-*.parquet", f"{split}-*.parquet") for split in ("train", "test")}

STRICT = re.compile(r"#### (-?[0-9.,]+)")
FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")

# Above this share of answers without "#### NUMBER", exact_strict measures the format more than the arithmetic.
FORM_SHARE = 0.5


class Options(BenchmarkOptions):
    shots: int = Field(5, ge=0, le=8, description="Few-shot examples: the first training rows.")


EXAMPLE = Example(
    item=Item("0", "Question: Ann has 3 pens and buys 4. How many has she?\nAnswer:", "3+4=<<3+4=7>>7\n#### 7"),
    right=Response(
        "0",
        "",
        "Question: Ann has 3 pens and buys 4. How many has she?\nAnswer:",
        "3+4=<<3+4=7>>7\n#### 7",
        text=" #### 7",
    ),
    wrong=Response(
        "0",
        "",
        "Question: Ann has 3 pens and buys 4. How many has she?\nAnswer:",
        "3+4=<<3+4=7>>7\n#### 7",
        text=" #### 8",
    ),
)


def items(folder: Path, options: Options) -> list[Item]:
    """The test problems; an item's id is its row index from 0, its target the complete reference solution.

    Raises:
        DataError, BadRow: files are missing or unreadable, or there are fewer training rows than `shots`.
    """
    problems = read_rows(find_files(folder, FILES["test"]), _problem)
    examples = _examples(folder, options.shots)
    return [
        Item(id=str(place), question=_question(question), target=answer, examples=examples)
        for place, (question, answer) in enumerate(problems)
    ]


def grade(response: Response, options: Options) -> dict[str, float]:
    """`exact_strict` (the number after the first "####") and `exact_flexible` (the last number), each 1.0 or 0.0.

    Raises:
        DataError: the response has no reference solution.
    """
    if not isinstance(response.target, str) or not response.target.strip():
        raise DataError(
            f"gsm8k: item {response.item}: target is {response.target!r}, expected the reference solution's text",
            "the responses are from another benchmark, or from another version",
        )
    expected = normalise(response.target)
    found = {"exact_strict": strict_answer(response.text), "exact_flexible": flexible_answer(response.text)}
    return {name: float(answer is not None and normalise(answer) == expected) for name, answer in found.items()}


def summarise(graded: Sequence[Graded], options: Options) -> Scored:
    """Both accuracies with their standard errors, and how many answers were cut off or had no number."""
    protocol = {
        "follows": "lm-evaluation-harness gsm8k, version 3",
        "shots": options.shots,
        "examples": f"the first {options.shots} rows of train (lm-evaluation-harness draws them at random)",
        "error": "standard error of the mean over items",
    }
    unmarked = sum(strict_answer(one.response.text) is None for one in graded)
    warnings = cut_warnings(graded) + truncated_warnings(graded)
    if unmarked > FORM_SHARE * len(graded):
        warnings.append(
            f'{unmarked} of {len(graded)} answers have no "#### NUMBER": exact_strict counts them as wrong because of '
            "their format, even if the number is right; see exact_flexible"
        )
    return Scored(
        scores=[
            mean_score(name, [one.values[name] for one in graded], protocol)
            for name in ("exact_strict", "exact_flexible")
        ],
        warnings=warnings,
        facts={
            "answers_cut": sum(is_cut(one.response) for one in graded),
            "answers_without_marked_number": unmarked,
            "answers_without_number": sum(flexible_answer(one.response.text) is None for one in graded),
            "prompts_truncated": sum(one.response.truncated_tokens > 0 for one in graded),
        },
    )


def strict_answer(text: str) -> str | None:
    """The first number after "#### ", as written; None if there is none."""
    match = STRICT.search(text)
    return match.group(1) if match else None


def flexible_answer(text: str) -> str | None:
    """The last match that looks like a number, as written ("$1,200.", also "..."); None if there is none."""
    found = FLEXIBLE.findall(text)
    return found[-1] if found else None


def normalise(answer: str) -> str:
    """The compared form: no commas or dollar signs, nothing up to the last "#### ", no final period, lower case."""
    bare = answer.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return re.sub(r"\.$", "", bare).lower()


def _question(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def _examples(folder: Path, shots: int) -> str:
    if not shots:
        return ""
    files = find_files(folder, FILES["train"])
    rows = read_rows(files, _problem)[:shots]
    if len(rows) < shots:
        raise DataError(f"{files[0]}: {len(rows)} rows, but shots={shots}", f"use gsm8k.shots={len(rows)} or fewer")
    return "".join(f"{_question(question)} {answer}\n\n" for question, answer in rows)


def _problem(row: Row) -> tuple[str, str]:
    question, answer = text(row, "question"), text(row, "answer")
    if not STRICT.search(answer):
        raise BadRow(f"column 'answer' ends in {answer[-20:]!r}, expected \"#### NUMBER\"")
    return question, answer
