"""A user's own benchmark for the tests of scoring: sums, with answers that can be slow or break the grading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunelab.allowed_code import allow_code
from tunelab.files import write_text_atomically
from tunelab.records.responses import ResponseFile

SOURCE = '''"""Sums of two numbers."""
import time

from pydantic import Field

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Benchmark, BenchmarkOptions, Example, Item, Response, Score, Scored
from tunelab.statistics.standard_errors import mean_with_error

BENCHMARK = Benchmark("generate", "right", None, None, "made here", "none", None, max_new_tokens=8)


class Options(BenchmarkOptions):
    strict: bool = Field(True, description="The answer must be the number alone.")
    shots: int = Field(0, ge=0, le=3, description="Solved sums before.")


def items(folder, options):
    return [Item(str(i), f"{i}+1=", str(i + 1)) for i in range(4)]


def grade(response, options):
    if response.text == "loud":
        print("a benchmark may print")
    time.sleep(float(response.text[5:]) if response.text.startswith("sleep") else 0)
    if response.text == "refuse":
        raise DataError("this cannot be judged", "leave it out")
    if response.text == "break":
        raise KeyError("something")
    if response.text == "nothing":
        return {}
    if response.text == "nan":
        return {"right": float("nan")}
    text = response.text if options.strict else response.text.strip()
    return {"right": float(text == response.target), "length": (len(text),)}


def summarise(graded, options):
    if all(one.response.text == "no scores" for one in graded):
        return Scored([])
    if all(one.response.text == "no summary" for one in graded):
        raise DataError("nothing to summarise", "answer something")
    found = mean_with_error(one.values["right"] for one in graded)
    score = Score("right", found.value, found.error, found.n, "0-1", True, {"strict": options.strict})
    longest = max(one.values["length"][0] for one in graded)
    return Scored([score], {"all": [score]}, ["only sums"], {"longest": longest})


EXAMPLE = Example(Item("0", "0+1=", "1"), Response("0", "", "0+1=", "1", text="1"), Response("0", "", "0+1=", "1"))
'''


def write_benchmark(folder: Path) -> Path:
    """The benchmark's file."""
    path = folder / "sums.py"
    write_text_atomically(path, SOURCE)
    allow_code(path)
    return path


def write_responses(path: Path, benchmark: str, texts: list[str], **header: Any) -> Path:
    """A file of responses to the sums 0+1, 1+1, ... as an evaluation writes it."""
    full = {"benchmark": benchmark, "benchmark_options": {"strict": True, "shots": 0}, "model": "m", **header}
    with ResponseFile(path, full) as file:
        for number, text in enumerate(texts):
            response = {"item": str(number), "prompt_hash": "h", "question": f"{number}+1=", "target": str(number + 1)}
            rest = {"cluster": "", "text": text, "choices": [], "log_probabilities": [], "choice_tokens": []}
            file.append({**response, **rest, "stop_reason": "stop"} | dict.fromkeys(COUNTS, 0))
    return path


COUNTS = ("prompt_tokens", "truncated_tokens", "answer_tokens")
