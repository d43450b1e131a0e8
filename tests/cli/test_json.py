"""`--json`: stdout is one JSON document with the fields that docs/reference/json.md lists, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from sums_benchmark import write_benchmark, write_responses
from verbs import Bench, Command

from tunelab.config.study import load_study
from tunelab.inference.divergence import Divergence
from tunelab.models.load import DTYPES
from tunelab.publishing.merge import MergeFormat
from tunelab.records.cells import Cell, keep_cell, keep_study

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
CELL = [one.name for one in dataclasses.fields(Cell)]
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


def test_rows_that_are_prepared(tunelab: Command, bench: Bench) -> None:
    found = document(tunelab("prepare", bench.recipe, "--json"))
    (fields,) = tables("prepare")
    assert set(found) == fields and Path(found["path"]).is_dir() and found["training"]["kept"] > 0


def test_merges_and_exports(tunelab: Command, bench: Bench) -> None:
    made, _ = tables("merge")
    found = document(tunelab("merge", bench.lora, "--out", "merged", "--json"))
    assert set(found) == made and all(f"`{name}`" in PAGE for name in found["quality"])
    assert (found["path"], found["format"]) == ("merged", "fp32") and found["quality"]["kl"] >= 0
    stored = json.loads(Path("merged/merge.json").read_text())
    assert stored == {name: value for name, value in found.items() if name != "path"}
    (fields,) = tables("export")
    found = document(tunelab("export", bench.lora, "--to", "peft", "--out", "peft", "--json"))
    assert set(found) == fields and found["files"] == sorted(path.name for path in Path("peft").iterdir())


def test_merges_compared(tunelab: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one = MergeFormat(Divergence(10, 0.01, 0.1, 2.0, 1.0, 1.1), 1000)
    monkeypatch.setattr("tunelab.publishing.merge.compare_merges", lambda run, **_: dict.fromkeys(DTYPES, one))
    found = document(tunelab("merge", bench.lora, "--compare", "--json"))
    assert set(found) == tables("merge")[1] and "nf4" in found["left_out"]
    assert found["formats"]["bf16"]["bytes"] == 1000 and found["formats"]["bf16"]["kept_improvement"] == pytest.approx(
        0.9
    )


def test_a_quantized_model(tunelab: Command, bench: Bench) -> None:
    found = document(tunelab("quantize", bench.model, "--precision", "int8", "--out", "small", "--json"))
    (fields,) = tables("quantize")
    assert set(found) == fields and found["bytes"] < found["dense_bytes"]


def test_studies_and_their_jobs(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    assert {tuple(one) for one in document(tunelab("study", "list", "--json"))["studies"]} == {
        ("name", "title", "needs")
    }
    study = tmp_path / "study.yaml"
    recipe = {name: value for name, value in yaml.safe_load(bench.recipe.read_text()).items() if name != "out"}
    study.write_text(
        json.dumps({"title": "Any", "recipe": recipe, "arms": {"lora": {}}, "benchmarks": {"held-out": {}}})
    )
    fields, usage = tables("study")
    found = document(tunelab("study", "run", study, "--out", "made", "--dry-run", "--json"))
    training, evaluation = found["jobs"]
    assert set(training) == fields and found["missing"] == []
    assert (training["status"], evaluation["needs"]) == ("waiting", training["key"])
    assert "study run --json needs --dry-run" in tunelab("study", "run", study, "--json").err
    keep_study(load_study(study), Path("made"))
    keep_cell(
        Path("made"), dataclasses.replace(Cell(**{name: training[name] for name in CELL}), status="failed", error="x")
    )
    found = document(tunelab("study", "status", "made", "--json"))
    assert found["jobs"][0]["error"] == "x" and {name for one in found["disk_usage"] for name in one} == usage
    said = tunelab("study", "status", "made")
    assert said.code == 0 and said.out.splitlines()[1].split()[3:5] == ["training", "failed"], said.out
    assert "2 jobs: 1 failed, 1 waiting\nfailed: lora, seed 0: training: x" in said.err
    assert "reports, records and logs" in said.out
    assert document(tunelab("study", "clean", "made", "--dry-run", "--json")) == {"would_free_bytes": 0}
    assert document(tunelab("study", "clean", "made", "--json")) == {"freed_bytes": 0}
    assert "freed 0 B: checkpoints of finished trainings" in tunelab("study", "clean", "made").err
    for verb in ("status", "clean"):
        assert "nowhere: no study there" in tunelab("study", verb, "nowhere").err
        assert "no study's directory given" in tunelab("study", verb).err


def test_the_environment(tunelab: Command) -> None:
    found = document(tunelab("env", "--json"))["environment"]
    assert {"tunelab", "Python", "torch", "memory"} <= set(found) and all(
        isinstance(one, str) for one in found.values()
    )


def test_an_error_leaves_stdout_empty(tunelab: Command) -> None:
    said = tunelab("compare", "nowhere", "--json")
    assert said.code != 0 and said.out == "" and said.err.startswith("error: ")
