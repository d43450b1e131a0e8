"""`tunelab eval --check`: a row for each thing that was looked at, words for what to distrust, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from verbs import Bench, Command

from tunelab.answering import self_check as checking
from tunelab.answering.benchmark_responses import BenchmarkSettings
from tunelab.answering.findings import Finding

LOOKED_AT = ("batch size (choices)", "shared few-shot prefix", "letters (A to D)")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, BenchmarkSettings]]:
    """What the workflow is asked; it finds one thing that is sound, without any model."""
    made: list[tuple[str, BenchmarkSettings]] = []

    def sound(subject: str, settings: BenchmarkSettings, *, progress: Any) -> list[Finding]:
        made.append((subject, settings))
        return [Finding("end of answers", "12 of 12 answers ended")]

    monkeypatch.setattr(checking, "check", sound)
    return made


def test_a_model_that_knows_nothing(tunelab: Command, tmp_path: Any) -> None:
    model = tiny.model_folder(tmp_path / "model", max_position_embeddings=2048)
    said = tunelab("eval", model, "--check", "--template", "plain", "train.dtype=fp32")
    assert said.code == 0, said.err
    assert said.cells["check"] == ["found"]
    assert all(what in said.cells for what in (*LOOKED_AT, "template on or off", "end of answers"))
    assert "0 of 24 answers changed" in said.cells["shared few-shot prefix"][0]
    assert "letters (A to D): no better than guessing on easy questions" in said.err
    assert "shared few-shot prefix" not in said.err and "nothing found" not in said.err


def test_what_is_asked_for_is_passed_on(
    tunelab: Command, bench: Bench, asked: list[tuple[str, BenchmarkSettings]]
) -> None:
    adapter = bench.lora / "adapter"
    words = ["--adapter", adapter, "--arm", "base", "--precision", "nf4", "--template", "plain", "train.dtype=bf16"]
    assert tunelab("eval", "--model", "gpt2", "--check", *words).code == 0
    changes = ("precision.name=nf4", "train.dtype=bf16")
    expected = BenchmarkSettings(arms=("base",), adapter=adapter, template="plain", changes=changes)
    assert asked == [("gpt2", expected)]


def test_nothing_to_distrust_is_said(
    tunelab: Command, bench: Bench, asked: list[tuple[str, BenchmarkSettings]]
) -> None:
    said = tunelab("eval", bench.lora, "--check")
    assert said.code == 0 and said.err == "nothing found to distrust\n"
    assert said.cells == {"check": ["found"], "end of answers": ["12 of 12 answers ended"]}
    assert asked == [(str(bench.lora), BenchmarkSettings())]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "--benchmarks", "mmlu"], "--benchmarks cannot be used with --check"),
        (["RUN", "--limit", "3", "--no-chat-template"], "--limit, --chat-template cannot be used with --check"),
        ([], "no run or model given"),
        (["RUN", "--model", "gpt2"], "several: "),
        (["RUN", "--precision", "nf4"], "precision.name=nf4 cannot change it"),
        (["RUN", "--template", "plain"], "template plain cannot change it"),
        (["MODEL", "--arm", "tuned"], "has no tuned arm"),
    ],
)
def test_wrong_uses(words: list[str], message: str, tunelab: Command, bench: Bench) -> None:
    places = {"RUN": str(bench.lora), "MODEL": str(bench.model)}
    said = tunelab("eval", "--check", *[places.get(word, word) for word in words])
    assert said.code == 2 and said.out == "" and message in said.err, said.err
