"""`tunelab generate --benchmarks`: responses alone, paths on stdout; `tunelab score` makes of them what eval does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from own_benchmarks import OwnBenchmarks, write_benchmarks
from verbs import Bench, Command


@pytest.fixture
def own(tmp_path: Path) -> OwnBenchmarks:
    return write_benchmarks(tmp_path / "own")


def on(own: OwnBenchmarks) -> list[str]:
    return ["--benchmarks", f"{own.choices},{own.writing}", f"choices.data={own.data}", f"writing.data={own.data}"]


def test_generate_and_score_are_eval(tunelab: Command, bench: Bench, own: OwnBenchmarks, tmp_path: Path) -> None:
    words = [*on(own), "--limit", "6", "--micro-batch-tokens", "300"]
    made = tunelab("generate", bench.model, *words, "--out", "made")
    assert made.code == 0, made.err
    paths = [Path(line) for line in made.out.splitlines()]
    assert [path.parent.name.rpartition("-")[0] for path in paths] == ["choices-base", "writing-base"]
    assert all(path.exists() and not (path.parent / "scores.json").exists() for path in paths)
    assert f"tunelab score {paths[0]} {paths[1]}" in made.err and "prompted without a template" in made.err
    allowed = ("--allow-code", own.choices, "--allow-code", own.writing)
    assert " ".join(map(str, ("tunelab score", *paths, *allowed))) in made.err
    scored = tunelab("score", *paths, *allowed)
    assert scored.code == 0, scored.err
    evaluated = tunelab("eval", bench.model, *words, "--out", "evaluated")
    assert evaluated.code == 0
    for path in paths:
        same = tmp_path / "evaluated" / path.parent.name
        assert (same / "responses.jsonl").read_bytes() == path.read_bytes()
        assert (same / "scores.json").read_bytes() == (path.parent / "scores.json").read_bytes()


def test_a_run_keeps_them_with_itself(tunelab: Command, bench: Bench, own: OwnBenchmarks, tmp_path: Path) -> None:
    shutil.copytree(bench.lora, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluations"))
    made = tunelab("generate", tmp_path / "copy", *on(own), "--limit", "2", "--arm", "tuned", "--max-new-tokens", "3")
    assert made.code == 0, made.err
    assert [Path(line).parent.parent for line in made.out.splitlines()] == [tmp_path / "copy/evaluations"] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "x", "--raw"], "--prompt, --raw cannot be used with --benchmarks"),
        (["--temperature", "0.7", "--stop", "x"], "--temperature, --stop cannot be used with --benchmarks"),
    ],
)
def test_wrong_uses(words: list[str], message: str, tunelab: Command, bench: Bench, own: OwnBenchmarks) -> None:
    said = tunelab("generate", bench.model, *on(own), *words)
    assert said.code == 2 and said.out == "" and message in said.err


@pytest.mark.parametrize("words", [["--backend", "vllm"], ["--no-chat-template"]])
def test_flags_of_benchmarks_need_on(words: list[str], tunelab: Command, bench: Bench) -> None:
    said = tunelab("generate", "--model", bench.model, "--prompt", "x", *words)
    assert said.code == 2 and "needs --benchmarks" in said.err
