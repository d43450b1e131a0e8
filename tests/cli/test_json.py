"""`--json`: stdout is one JSON document with the fields that docs/reference/json.md lists, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sums_benchmark import write_benchmark, write_responses
from verbs import Bench, Command

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
SCORE = {"name", "value", "error", "n", "unit", "higher_is_better", "protocol"}


def tables(heading: str) -> list[set[str]]:
    """The fields in the first column of each table below a heading of the page."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", part, re.MULTILINE):
        cells = [line.split("|")[1] for line in table.splitlines()[2:]]
        found.append({name for cell in cells for name in re.findall(r"`(\w+)`", cell)})
    return found


def document(said: Any) -> dict[str, Any]:
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def test_train(tunelab: Command, bench: Bench) -> None:
    found = document(tunelab("train", bench.recipe, "--out", "made", "--json"))
    assert [set(found)] == tables("train")
    assert (found["run"], found["status"], found["steps"]) == ("made", "finished", 4)
    assert found["trained_parameters"] < found["parameters"] and found["held_out_loss_after"] > 0


def test_evaluation_and_comparison_of_a_run(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    found = document(tunelab("eval", bench.lora, "--limit", "4", "--json"))
    held_out, file = tables("eval")
    assert set(found) == held_out and set(found["arms"]) == {"base", "tuned"} and found["rows"] == 4
    assert all(set(score) == SCORE for scores in found["arms"].values() for score in scores)
    assert set(found["loss_change"]) == {"value", "error", "n"}
    assert file == {"benchmark", "arms"}
    (fields,) = tables("compare")
    compared = document(tunelab("compare", bench.lora, "--json"))["comparisons"]
    assert all(set(one) == fields for one in compared) and {one["benchmark"] for one in compared} == {"held-out"}
    loss = next(one for one in compared if one["metric"] == "completion_loss")
    assert loss["difference"] == pytest.approx(found["loss_change"]["value"], rel=1e-6)


def test_scores(tunelab: Command, tmp_path: Path) -> None:
    benchmark = str(write_benchmark(tmp_path))
    path = write_responses(tmp_path / "responses.jsonl", benchmark, ["1", "x"])
    (found,) = document(tunelab("score", path, "--json", "--allow-code", benchmark))["files"]
    (fields,) = tables("score")
    assert set(found) == fields and found["benchmark"].endswith("sums.py") and found["responses"] == 2
    assert found["scores"][0]["value"] == 0.5 and set(found["scores"][0]) == SCORE
    assert Path(found["scores_path"]).exists() and found["groups"]["all"]


def test_what_inspect_shows(tunelab: Command, bench: Bench) -> None:
    found = document(tunelab("inspect", bench.recipe, "--rows", "2", "--json"))
    (fields,) = tables("inspect")
    assert set(found) == fields
    assert [name for name in {*found["training"], *found["sources"][0]} if f"`{name}`" not in PAGE] == []
    assert len(found["rows"]) == 2
    for row in found["rows"]:
        assert set(row) == {"ids", "tokens", "targets"}
        assert len(row["ids"]) == len(row["tokens"]) == len(row["targets"]) and not row["targets"][0]


def test_an_error_leaves_stdout_empty(tunelab: Command) -> None:
    said = tunelab("compare", "nowhere", "--json")
    assert said.code != 0 and said.out == "" and said.err.startswith("error: ")
