"""AlpacaEval: 805 instructions; writes the input of alpaca_eval's judge and reports what needs no judge.

Paper: Dubois et al. 2024, Length-Controlled AlpacaEval (arXiv:2404.04475); repository tatsu-lab/alpaca_eval. A win
rate needs a judge, which alpaca_eval runs: scoring writes its `model_outputs.json` next to the responses, and
evaluation/win_rate.py reads its annotations. Quality cannot be measured without a judge: the metric here is
the share of instructions answered at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelab.data.sources._source import Row, optional_text, text
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
from tunelab.files import write_json_atomically
from tunelab.statistics.standard_errors import mean_with_error

BENCHMARK = Benchmark(
    kind="generate",
    metric="answered",
    chance=None,
    cluster=None,
    source="Dubois et al. 2024 (arXiv:2404.04475); tatsu-lab/alpaca_eval",
    licence="CC BY-NC 4.0",
    hub=HubFiles("tatsu-lab/alpaca_eval", "2edc6fad8be6b14ea7230aabfd08188da6b8b814", ("alpaca_eval.json",)),
    max_new_tokens=2048,
    chat=True,
    size=805,
)

FILES = ("alpaca_eval.json", "alpaca_eval.jsonl", "*.jsonl", "*.json")


class Options(BenchmarkOptions):
    """Only `data`: a JSON or JSONL file whose rows have an `instruction`, or a folder with one such file."""


_TARGET = {"dataset": "helpful_base"}

EXAMPLE = Example(
    item=Item("0", "Name three colours.", _TARGET),
    right=Response("0", "", "Name three colours.", _TARGET, text="Red, green and blue.", stop_reason="stop"),
    wrong=Response("0", "", "Name three colours.", _TARGET, text=" \n", stop_reason="stop"),
)


def items(folder: Path, options: Options) -> list[Item]:
    """The unchanged instructions; an item's id is its row index from 0.

    Raises:
        DataError, BadRow: files are missing, ambiguous or unreadable.
    """
    files = [folder] if folder.is_file() else find_files(folder, FILES)
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise DataError(
            f"{folder}: contains {names}: expected one file of instructions",
            "give the file's path, or name it alpaca_eval.json",
        )
    rows = read_rows(files, _instruction)
    return [
        Item(id=str(place), question=instruction, target={"dataset": dataset})
        for place, (instruction, dataset) in enumerate(rows)
    ]


def grade(response: Response, options: Options) -> dict[str, float]:
    """`answered`: 1.0 for any text, 0.0 for a blank answer."""
    return {"answered": float(bool(output_text(response)))}


def summarise(graded: Sequence[Graded], options: Options) -> Scored:
    """Share of instructions answered; answer lengths and cut-off answers are facts, as no length is better or worse."""
    protocol = {
        "follows": "alpaca_eval's generation: the instruction as the user's turn",
        "judge": "none: this is no win rate",
        "error": "standard error of the mean over items",
    }
    characters = mean_with_error(len(output_text(one.response)) for one in graded)
    tokens = mean_with_error(one.response.answer_tokens for one in graded)
    return Scored(
        scores=[mean_score("answered", [one.values["answered"] for one in graded], protocol)],
        warnings=cut_warnings(graded) + truncated_warnings(graded),
        facts={
            "mean_characters": characters.value,
            "mean_characters_error": characters.error,
            "mean_tokens": tokens.value,
            "mean_tokens_error": tokens.error,
            "answers_cut": sum(is_cut(one.response) for one in graded),
            "answers_empty": sum(not output_text(one.response) for one in graded),
            "prompts_truncated": sum(one.response.truncated_tokens > 0 for one in graded),
        },
    )


def write_outputs(responses: Sequence[Response], header: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write folder/model_outputs.json from the responses of one file, whose header names their model.

    Raises:
        DataError: see write_model_outputs().
    """
    path = folder / "model_outputs.json"
    write_model_outputs(responses, generator_name(header), path)
    return [path]


def generator_name(header: Mapping[str, Any]) -> str:
    """A model's name in alpaca_eval's tables: "distilgpt2-base", "distilgpt2-tuned-1a2b3c4d"; "" if unknown.

    The digits are from the hash of the trained weights: the adapter, or the full model.
    """
    name = str(header.get("model_name") or "").rpartition("/")[2]
    trained = header.get("adapter") or header.get("weights") or ""
    digits = trained if isinstance(trained, str) else str(trained.get("sha256", ""))
    parts = (name, str(header.get("arm") or ""), digits.removeprefix("sha256:")[:8])
    return "-".join(part for part in parts if part) if name else ""


def output_text(response: Response) -> str:
    """The answer stripped of white space, as in alpaca_eval's own generation."""
    return response.text.strip()


def write_model_outputs(responses: Sequence[Response], generator: str, path: Path) -> None:
    """Write the file that `alpaca_eval --model_outputs PATH` reads, with the rows in the items' order.

    Args:
        generator: the model's name in alpaca_eval's tables.
        path: the file, usually model_outputs.json; its folder is created if missing.

    Raises:
        DataError: no responses, an empty generator name, a response that is not AlpacaEval's, or a duplicate item.
    """
    if not responses:
        raise DataError(f"{path}: there are no responses to write")
    if not generator.strip():
        raise DataError(f"{path}: the generator has no name", "give one: alpaca_eval uses it to identify the model")
    by_place: dict[int, dict[str, Any]] = {}
    for response in responses:
        if not response.item.isdecimal() or not isinstance(response.target, dict) or "dataset" not in response.target:
            raise DataError(
                f"{path}: the response to item {response.item!r} is not from AlpacaEval",
                "generate with --benchmarks alpacaeval",
            )
        if int(response.item) in by_place:
            raise DataError(f"{path}: item {response.item} has two responses", "give one model's responses at a time")
        by_place[int(response.item)] = {
            "dataset": response.target["dataset"],
            "instruction": response.question,
            "output": output_text(response),
            "generator": generator,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, [by_place[place] for place in sorted(by_place)])


def _instruction(row: Row) -> tuple[str, str]:
    instruction = text(row, "instruction")
    if not instruction.strip():
        raise BadRow("column 'instruction' is blank")
    return instruction, optional_text(row, "dataset")
