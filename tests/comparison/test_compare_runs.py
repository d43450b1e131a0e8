"""Two evaluations side by side, from what scoring wrote alone: no model, no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tunelab.comparison.compare_runs import compare_runs, compared, evaluated_in
from tunelab.comparison.paired_evaluations import Side, compare_sides
from tunelab.comparison.verdict import verdict
from tunelab.errors import DataError, RunError, UsageError

FILES = ("responses.jsonl", "grades.jsonl")


def evaluation(folder: Path, values: list[float | None], **changes: Any) -> Path:
    """What scoring writes for a benchmark of right and wrong."""
    header = {"benchmark": "sums", "arm": "base", "model": folder.name, "template": None, **changes}
    folder.mkdir(parents=True)
    responses = [{"item": f"i{n}", "prompt_hash": folder.name, "question": f"{n}+1?"} for n in range(len(values))]
    lines = [header, *responses]
    (folder / "responses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    grades = [{"item": f"i{n}", "cluster": "", "values": {"exact": value}} for n, value in enumerate(values)]
    (folder / "grades.jsonl").write_text("".join(json.dumps(line) + "\n" for line in grades), encoding="utf-8")
    known = [value for value in values if value is not None]
    score = {"name": "exact", "value": sum(known) / len(known), "error": 0.1, "n": len(known), "unit": "0-1"}
    score |= {"higher_is_better": True, "protocol": {"shots": 0}}
    content = {"benchmark": header["benchmark"], "header": header, "scores": [score]}
    (folder / "scores.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_what_one_gained_and_lost(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", [0.0] * 40 + [1.0] * 20)
    b = evaluation(tmp_path / "b", [1.0] * 30 + [0.0] * 10 + [1.0] * 15 + [0.0] * 5)
    (found,) = compare_runs(a, b)
    assert (found.benchmark, found.metric, found.n) == ("sums", "exact", 60)
    assert found.difference == pytest.approx(25 / 60)
    assert found.gained is not None and found.lost is not None
    assert (len(found.gained), len(found.lost)) == (30, 5)
    assert "b is better than" in verdict(found)
    assert found.differing["model"] == ("a", "b")


def test_a_folder_of_evaluations_is_compared_benchmark_by_benchmark(tmp_path: Path) -> None:
    for side, right in (("x", 1.0), ("y", 0.0)):
        evaluation(tmp_path / side / "sums-1", [right, 1.0, 0.0] * 4)
        evaluation(tmp_path / side / "words-1", [right, 0.0, 1.0] * 4, benchmark="words")
    found = compare_runs(tmp_path / "x", tmp_path / "y")
    assert [one.benchmark for one in found] == ["sums", "words"]
    assert all(one.family == 2 and one.p_holm is not None for one in found)
    assert [one.benchmark for one in compare_runs(tmp_path / "x", tmp_path / "y", benchmarks=["words"])] == ["words"]
    with pytest.raises(RunError, match="have no scores of ifeval in common"):
        compare_runs(tmp_path / "x", tmp_path / "y", benchmarks=["ifeval"])


def test_a_folder_that_mixes_arms_says_what_is_left_out(tmp_path: Path) -> None:
    for side in ("x", "y"):
        evaluation(tmp_path / side / "sums-1", [0.0, 1.0] * 8, arm="tuned")
        evaluation(tmp_path / side / "words-1", [0.0, 1.0] * 8, benchmark="words")
    found = compared(tmp_path / "x", tmp_path / "y")
    assert [one.benchmark for one in found.comparisons] == ["sums"]
    assert found.left_out == tuple(
        f"words is not compared: in {tmp_path / side} only base was scored on it, not the tuned arm" for side in "xy"
    )
    in_python = compare_runs(tmp_path / "x", tmp_path / "y")
    assert in_python.remarks == found.remarks == found.left_out
    assert "words is not compared" in in_python._repr_html_()


def test_a_run_alone_is_compared_with_its_base(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: x\n", encoding="utf-8")
    evaluation(tmp_path / "evaluations" / "sums-base-1", [0.0, 1.0] * 8)
    evaluation(tmp_path / "evaluations" / "sums-tuned-1", [1.0, 1.0] * 8, arm="tuned")
    (found,) = compare_runs(tmp_path)
    assert (found.a_name, found.b_name, found.difference) == ("base", "tuned", 0.5)


def test_two_runs_are_compared_by_their_tuned_arms(tmp_path: Path) -> None:
    for name, value in (("one", 0.0), ("two", 1.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("model: x\n", encoding="utf-8")
        evaluation(tmp_path / name / "evaluations" / "sums-base-1", [0.0, 1.0] * 8)
        evaluation(tmp_path / name / "evaluations" / "sums-tuned-1", [value, 1.0] * 8, arm="tuned")
    (found,) = compare_runs(tmp_path / "one", tmp_path / "two")
    assert found.difference == 0.5 and found.a_name.endswith("one")


def test_what_is_unlike_is_refused_by_name(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", [0.0, 1.0] * 8)
    b = evaluation(tmp_path / "b", [0.0, 1.0] * 8, template="alpaca")
    with pytest.raises(DataError, match="template"):
        compare_runs(a, b)
    assert compare_runs(a, b, allow_diff=["template"])[0].differing["template"] == (None, "alpaca")


def test_of_several_evaluations_the_pair_that_was_asked_alike(tmp_path: Path) -> None:
    for side, right in (("x", 1.0), ("y", 0.0)):
        evaluation(tmp_path / side / "sums-1", [right, 1.0, 0.0] * 4, limit=12)
    evaluation(tmp_path / "x" / "sums-2", [1.0, 1.0, 0.0], limit=3)
    (found,) = compare_runs(tmp_path / "x", tmp_path / "y")
    assert found.n == 12
    evaluation(tmp_path / "y" / "sums-2", [0.0, 1.0, 0.0], limit=3)
    with pytest.raises(UsageError, match="x has several evaluations of sums: sums-1, sums-2"):
        compare_runs(tmp_path / "x", tmp_path / "y")


def test_of_several_versions_the_one_of_both(tmp_path: Path) -> None:
    for side, right in (("x", 1.0), ("y", 0.0)):
        evaluation(tmp_path / side / "sums-1", [right, 1.0, 0.0] * 4, tunelab="0.2", decoding={"beams": 1})
    evaluation(tmp_path / "x" / "sums-2", [0.0, 0.0, 0.0] * 4, tunelab="0.1", decoding={"beams": 1})
    (found,) = compare_runs(tmp_path / "x", tmp_path / "y")
    assert found.a_value == pytest.approx(2 / 3)
    # Where answers end is the model's own.
    stop = {"beams": 2, "stop_token_ids": [7]}
    evaluation(tmp_path / "z" / "sums-1", [0.0, 1.0, 0.0] * 4, tunelab="0.3", decoding=stop)
    evaluation(tmp_path / "x" / "sums-3", [0.0, 1.0, 1.0] * 4, tunelab="0.1", decoding={**stop, "stop_token_ids": [8]})
    (found,) = compare_runs(tmp_path / "x", tmp_path / "z")
    assert found.a_value == pytest.approx(2 / 3) and found.differing["tunelab"] == ("0.1", "0.3")


def test_every_named_benchmark_must_be_common(tmp_path: Path) -> None:
    for side in "xy":
        evaluation(tmp_path / side / "sums-1", [1.0, 0.0] * 4)
    with pytest.raises(RunError, match="have no scores of words, ifeval in common"):
        compare_runs(tmp_path / "x", tmp_path / "y", benchmarks=["sums", "words", "ifeval"])


def test_a_run_whose_base_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: x\n", encoding="utf-8")
    evaluation(tmp_path / "evaluations" / "sums-tuned-1", [1.0, 1.0] * 8, arm="tuned")
    with pytest.raises(RunError, match=r"base and tuned arm of .* have no scores in common") as raised:
        compare_runs(tmp_path)
    assert f"tunelab eval {tmp_path} evaluates both" in raised.value.hint


@pytest.mark.parametrize("name", ["responses.jsonl", "grades.jsonl"])
def test_what_changed_since_it_was_scored_is_refused(tmp_path: Path, name: str) -> None:
    a, b = evaluation(tmp_path / "a", [0.0, 1.0] * 8), evaluation(tmp_path / "b", [1.0, 1.0] * 8)
    for folder in (a, b):
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        hashes = [f"sha256:{hashlib.sha256((folder / one).read_bytes()).hexdigest()}" for one in FILES]
        scores |= {"responses": {"responses.jsonl": hashes[0]}, "grades": hashes[1]}
        (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    assert len(compare_runs(a, b)) == 1
    with open(b / name, "a", encoding="utf-8") as file:  # more answers came, from the machine that makes them
        file.write((b / name).read_text(encoding="utf-8").splitlines()[-1].replace("i15", "i16") + "\n")
    with pytest.raises(RunError, match=rf"b/{name}: has changed since it was scored") as error:
        compare_runs(a, b)
    assert error.value.hint == f"score again: tunelab score {b}"


@pytest.mark.parametrize("values", [{"exact": 1.0, "each": [1.0, 0.0]}, {"exact": 1.0}])
def test_a_metric_without_a_value_per_item_cannot_be_compared_by(tmp_path: Path, values: dict[str, Any]) -> None:
    """IFEval's instructions are several per item; an accuracy by cluster is of all items together."""
    sides = []
    for name in ("a", "b"):
        folder = evaluation(tmp_path / name, [1.0] * 8)
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        scores["scores"].append({**scores["scores"][0], "name": "each"})
        (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
        grades = [{"item": f"i{n}", "cluster": "", "values": values} for n in range(8)]
        (folder / "grades.jsonl").write_text("".join(json.dumps(line) + "\n" for line in grades), encoding="utf-8")
        sides.append(Side(name, evaluated_in(folder)))
    assert compare_sides(*sides, "exact").n == 8
    with pytest.raises(RunError, match="sums: each has no single value per item") as error:
        compare_sides(*sides, "each")
    assert error.value.hint == "compare by one of: exact"


def test_what_is_no_run_gets_a_hint_that_can_be_followed(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "sums-1", [1.0, 0.0] * 4)
    with pytest.raises(RunError, match="sums-1: a folder of evaluations, not a run") as raised:
        compare_runs(folder)
    assert raised.value.hint == "give two folders, or a run to compare with its base"
    study = tmp_path / "study"
    study.mkdir()
    with pytest.raises(RunError, match="study: no scores found") as raised:
        compare_runs(study, folder)
    assert raised.value.hint == "give a run, or the folder of an evaluation"
    (study / "study.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="study: no scores found") as raised:
        compare_runs(study)
    assert f"its runs, in {study / 'runs'}; `tunelab report {study}`" in raised.value.hint


def test_items_without_a_value_are_left_out(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", [None, *[0.0, 1.0] * 8])
    b = evaluation(tmp_path / "b", [None, *[0.0, 1.0] * 8])
    assert compare_runs(a, b)[0].n == 16
    c = evaluation(tmp_path / "c", [1.0, *[0.0, 1.0] * 8])
    with pytest.raises(DataError, match="i0"):
        compare_runs(a, c)
    assert compare_runs(a, c, common_items_only=True)[0].left_out == 1


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such directory"):
        evaluated_in(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no scores found"):
        evaluated_in(tmp_path)
    evaluation(tmp_path / "x" / "sums-1", [1.0, 0.0])
    evaluation(tmp_path / "x" / "sums-2", [1.0, 0.0])
    with pytest.raises(UsageError, match="has several evaluations of sums: sums-1, sums-2"):
        compare_runs(tmp_path / "x", tmp_path / "x" / "sums-1")
    scores = tmp_path / "x" / "sums-1" / "scores.json"
    without_rows = {**json.loads(scores.read_text(encoding="utf-8")), "rows": None}
    for damaged in ("{", json.dumps(without_rows), "[" * 100_000):
        scores.write_text(damaged, encoding="utf-8")
        with pytest.raises(RunError, match="not a valid score file"):
            evaluated_in(tmp_path / "x")
