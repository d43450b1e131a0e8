"""`tunelab score`: files side by side, doubts on stderr, other tools' files, and no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sums_benchmark import write_benchmark, write_responses
from verbs import Command


@pytest.fixture
def benchmark(tmp_path: Path) -> str:
    return str(write_benchmark(tmp_path))


def test_files_are_shown_side_by_side(tunelab: Command, tmp_path: Path, benchmark: str) -> None:
    base = write_responses(tmp_path / "base" / "responses.jsonl", benchmark, ["1", "x", "x", "x"], items=4)
    tuned = write_responses(tmp_path / "tuned" / "responses.jsonl", benchmark, ["1", "2", "x", "4"], items=5)
    said = tunelab("score", "--allow-code", benchmark, base.parent, tuned)
    assert said.code == 0
    assert said.cells == {
        "sums": ["base", "tuned", "unit", "better"],
        "right": ["0.25 ± 0.25", "0.75 ± 0.25", "0-1", "higher"],
    }
    assert said.err.splitlines() == [
        "warning: base, tuned: only sums",
        "warning: tuned: the file has answers to 4 of 5 items: the evaluation is not finished",
        f"base: 4 responses of sums; scores: {base.with_name('scores.json')}",
        f"tuned: 4 responses of sums; scores: {tuned.with_name('scores.json')}",
        "± is one standard error over items",
    ]
    assert tunelab("score", "--allow-code", benchmark, base, tuned, "--workers", "1").out == said.out


def test_groups_are_shown_where_they_are_asked_for(tunelab: Command, tmp_path: Path, benchmark: str) -> None:
    path = write_responses(tmp_path / "responses.jsonl", benchmark, ["1", "x"])
    assert "all" not in tunelab("score", "--allow-code", benchmark, ".").cells
    assert tunelab("score", "--allow-code", benchmark, path, "--by-group").cells["all"] == [
        tmp_path.name,
        "unit",
        "better",
    ]


def test_options_and_files_of_one_name(tunelab: Command, tmp_path: Path, benchmark: str) -> None:
    paths = [write_responses(tmp_path / n / "same" / "responses.jsonl", benchmark, [" 1", "2"]) for n in ("a", "b")]
    said = tunelab("score", "--allow-code", benchmark, *paths, "sums.strict=no")
    assert said.cells["sums"][:2] == [str(path) for path in paths], "names that repeat are told apart by their path"
    assert said.cells["right"][:2] == ["1 (0.34 to 1)", "1 (0.34 to 1)"]
    assert "every item scored the same, and others may differ" in said.err
    assert "sums.strict is False here; the responses were made with True" in said.err


def test_a_benchmark_can_be_named(tunelab: Command, tmp_path: Path, benchmark: str) -> None:
    path = write_responses(tmp_path / "responses.jsonl", "gone.py", ["1", "2"])
    assert "gone.py: no such file" in tunelab("score", path).err
    assert tunelab("score", path, "--as", benchmark).cells["right"][0] == "1 (0.34 to 1)"


def test_samples_of_a_folder_are_scored_as_one(tunelab: Command, tmp_path: Path) -> None:
    for subject, values in (("virology", [-1.0, -2.0]), ("anatomy", [-2.0, -1.0])):
        doc = {"question": "Why?", "subject": subject, "choices": list("abcd"), "answer": 0}
        arguments = {f"gen_args_{n}": {"arg_0": "Why?\nAnswer:", "arg_1": f" {x}"} for n, x in enumerate("ABCD")}
        resps = [[[str(value), "False"]] for value in (*values, -8.0, -9.0)]
        rows = [{"doc_id": n, "doc": doc, "arguments": arguments, "resps": resps, "filter": "none"} for n in range(2)]
        file = tmp_path / f"samples_mmlu_{subject}_2025-01-01.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = tunelab("score", tmp_path)
    assert said.code == 0 and said.cells["mmlu"][0] == tmp_path.name
    assert said.cells["accuracy"][0] == "0.50 ± 0.29", said.out
    stored = json.loads((tmp_path / "mmlu.scored" / "scores.json").read_text())
    assert stored["options"]["shots"] == 0 and len(stored["header"]["files"]) == len(stored["responses"]) == 2
    prompts = "made by another tool, not checked here (lm-evaluation-harness, 0 shots)"
    assert {score["protocol"]["prompts"] for score in stored["scores"]} == {prompts}
    gsm8k = {"doc_id": 0, "doc": {"question": "q", "answer": "#### 3"}, "resps": [["#### 3"]], "arguments": {}}
    (tmp_path / "samples_gsm8k.jsonl").write_text(json.dumps(gsm8k))
    said = tunelab("score", tmp_path)
    assert said.code == 1 and f"{tmp_path}: contains samples of several benchmarks: gsm8k, mmlu" in said.err
    assert tunelab("score", tmp_path, "--as", "gsm8k").cells["exact strict"][0] == "1 ± ?"
    said = tunelab("score", tmp_path, "--as", "ifeval")
    assert f"{tmp_path}: contains no samples of ifeval, only of gsm8k, mmlu" in said.err


def test_more_shots_than_a_benchmark_has_are_told(tunelab: Command, tmp_path: Path) -> None:
    context = "Question: a\nAnswer: #### 1\n\n" * 12 + "Question: q\nAnswer:"
    sample: dict[str, Any] = {"doc_id": 0, "doc": {"question": "q", "answer": "#### 3"}, "resps": [["#### 3"]]}
    sample["arguments"] = {"gen_args_0": {"arg_0": context, "arg_1": {}}}
    (tmp_path / "x.jsonl").write_text(json.dumps(sample))
    said = tunelab("score", "./x.jsonl")
    assert said.code == 0 and said.cells["gsm8k"][0] == "x"
    assert "x: the prompts have 12 few-shot examples: Input should be less than or equal to 8" in said.err
    assert sorted(path.name for path in (tmp_path / "x.scored").iterdir()) == [
        "grades.jsonl",
        "responses.jsonl",
        "scores.json",
    ]


def test_win_rates_of_alpaca_evals_annotations(tunelab: Command, tmp_path: Path) -> None:
    row = {"instruction": "i", "output_1": "a", "generator_1": "base", "output_2": "b", "generator_2": "mine"}
    rows = [{**row, "instruction": f"i{n}", "annotator": "judge", "preference": p} for n, p in enumerate([2, 2, 1, 2])]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    for path in (tmp_path, "annotations.json"):
        said = tunelab("score", path)
        assert said.code == 0 and said.cells["win rate"][0] == "75 ± 25", said
    grades = (tmp_path / "annotations.scored" / "grades.jsonl").read_text().splitlines()
    assert json.loads(grades[2]) == {"item": "2", "cluster": "i2", "values": {"win": 0.0}}


@pytest.mark.slow  # the benchmark's own tests hold a sample
def test_ifevals_reference_responses(tunelab: Command, shared_data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("NLTK_DATA", str(shared_data / "nltk_data"))
    name = "mistralai__Mistral-7B-Instruct-v0.3.strict.jsonl"
    reference = (shared_data / "ifeval" / "reference" / name).read_text(encoding="utf-8")
    (tmp_path / "theirs.jsonl").write_text(reference, encoding="utf-8")
    said = tunelab("score", "theirs.jsonl", "--data", shared_data / "ifeval")
    assert said.code == 0
    assert "1 of 541 prompts are not ifeval's and were left out: line 340 ('What is inside Shinto" in said.err
    assert "1 of ifeval's 541 items have no response here: 2785" in said.err
    theirs = [json.loads(line) for line in reference.splitlines()]
    share = sum(row["follow_all_instructions"] for row in theirs) / len(theirs)
    ours = float(said.cells["prompt strict"][0].split()[0])
    assert ours == pytest.approx(share, abs=0.006), "all but a few that the reference draws by chance"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0", "x"], "--workers is 0, expected a positive integer"),
        (["ifeval.mode=reference"], "no responses to score"),
        (["FILE", "FILE"], "a file is given twice"),
        (["FILE", "mmlu.shots=0"], "options of mmlu are given, but the responses are of sums"),
        (["FILE", "sums.strikt=no"], "sums.strikt: unknown option"),
    ],
)
def test_wrong_uses(words: list[str], message: str, tunelab: Command, tmp_path: Path, benchmark: str) -> None:
    path = write_responses(tmp_path / "responses.jsonl", benchmark, ["1"])
    said = tunelab("score", "--allow-code", benchmark, *[path if word == "FILE" else word for word in words])
    assert (said.code, said.out) == (2, "") and message in said.err


def test_a_word_that_looks_like_an_option_may_be_a_file(tunelab: Command, tmp_path: Path, benchmark: str) -> None:
    path = write_responses(tmp_path / "responses.jsonl", benchmark, ["1"])
    path.rename(tmp_path / "arm.lr=3")
    assert tunelab("score", "--allow-code", benchmark, "arm.lr=3").code == 0


def test_the_command_imports_no_torch(tmp_path: Path) -> None:
    benchmark = str(write_benchmark(tmp_path))
    path = write_responses(tmp_path / "responses.jsonl", benchmark, ["1", "x"])
    code = (
        "import sys; from tunelab.cli.main import main\n"
        f"assert main(['score', {str(path)!r}, '--allow-code', {benchmark!r}]) == 0\n"
        "found = {'torch', 'transformers', 'datasets', 'peft', 'pandas'} & set(sys.modules)\n"
        "assert not found, found"
    )
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("sums")
