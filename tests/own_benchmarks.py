"""Two small benchmarks as a user would write them, with their files: one compares choices, one reads answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tunelab.allowed_code import allow_code

SHARED = """
import json
from typing import Literal
from tunelab.evaluation.benchmark import (
    Benchmark, BenchmarkOptions, Example, Graded, HubFiles, Item, Response, Score, Scored
)
from tunelab.statistics.standard_errors import mean_with_error


class Options(BenchmarkOptions):
    shots: int = 2
    order: Literal["as it is", "backwards"] = "as it is"


def rows(folder):
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def summarise(graded, options):
    found = mean_with_error([one.values["right"] for one in graded])
    return Scored([Score("right", found.value, found.error, found.n, "0-1", True)], warnings=["made for a test"])
"""

CHOICES = f'''"""Which word was it?"""
{SHARED}
BENCHMARK = Benchmark("likelihood", "right", 0.25, "subject", "made up", "MIT", None)


def items(folder, options):
    shown = "".join(f"{{row['word']}}? {{row['answer']}}\\n" for row in rows(folder)[:options.shots])
    built = [
        Item(row["id"], row["word"] + "?", row["answer"], f"On {{row['subject']}}:\\n" + shown,
             (" red", " blue", " up", " sun"), row["subject"])
        for row in rows(folder)
    ]
    return built[::-1] if options.order == "backwards" else built


def grade(response, options):
    best = max(range(4), key=lambda place: response.log_probabilities[place])
    return {{"right": float(response.choices[best].strip() == response.target)}}
'''

WRITING = f'''"""What comes next?"""
{SHARED}
BENCHMARK = Benchmark(
    "generate", "right", None, None, "made up", "MIT", None, max_new_tokens=12, stop_strings=("\\n",), chat=True
)


def items(folder, options):
    return [Item(row["id"], row["word"] + " is", row["answer"]) for row in rows(folder)]


def grade(response, options):
    return {{"right": float(response.target in response.text)}}
'''

WORDS = ("red", "blue", "up", "sun")


@dataclass(frozen=True)
class OwnBenchmarks:
    """Paths of the two files, and of the folder with their items."""

    choices: Path
    writing: Path
    data: Path

    @property
    def options(self) -> dict[str, dict[str, str]]:
        return {name: {"data": str(self.data)} for name in ("choices", "writing")}


def write_benchmarks(folder: Path, items: int = 20) -> OwnBenchmarks:
    """`choices.py`, `writing.py` and data/items.jsonl; items are of the subjects a (half of them), b and c."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "id": f"i{number}",
            "word": f"{number} {WORDS[number % 3]}" + " dog" * (number % 4),
            "answer": WORDS[number % 4],
            "subject": "a" if number < items // 2 else "bc"[number % 2],
        }
        for number in range(items)
    ]
    (data / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = OwnBenchmarks(folder / "choices.py", folder / "writing.py", data)
    made.choices.write_text(CHOICES)
    made.writing.write_text(WRITING)
    allow_code(made.choices, made.writing)
    return made
