"""make real-model: skipped visibly without a model; what it keeps has no absolute path and names what failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts import real_model

ASKED = ("tunelab generate runs/lora --prompt x", "python plain.py merged x")


def test_without_a_model_it_is_skipped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["real_model.py"])
    monkeypatch.delenv(real_model.MODEL, raising=False)
    assert real_model.main() == 0 and capsys.readouterr().out == "skipped: TUNELAB_REAL_MODEL names no folder\n"


def test_what_it_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[Sequence[str]] = []

    def run(step: real_model.Step, folder: Path) -> tuple[str, int]:
        ran.append(step.words)
        assert (folder / "model").exists() and (folder / "alpaca_cleaned.json").exists()
        return f"{folder.resolve()}/runs {(tmp_path / 'model').resolve()}", int(step.words[0] == "compare")

    (tmp_path / "model").mkdir()
    (tmp_path / "data/alpaca").mkdir(parents=True)
    (tmp_path / "data/alpaca/alpaca_cleaned.json").write_text("[]")
    monkeypatch.setenv(real_model.MODEL, str(tmp_path / "model"))
    monkeypatch.setenv(real_model.DATA, str(tmp_path / "data"))
    monkeypatch.setattr(real_model, "run", run)
    monkeypatch.setattr(real_model, "RESULTS", tmp_path)
    monkeypatch.setattr(real_model, "REPOSITORY", tmp_path)
    monkeypatch.setattr("sys.argv", ["real_model.py"])
    assert real_model.main() == 1
    assert "failed: tunelab compare runs/lora runs/lora-nf4" in capsys.readouterr().out
    (page,) = tmp_path.glob("*-real-model.md")
    text = page.read_text()
    assert str(tmp_path) not in text and "./runs ..." in text
    assert "## tunelab eval runs/lora --benchmarks ifeval" in text and "Skipped: ifeval is not there." in text
    verbs = {words[0] for words in ran}
    assert {"inspect", "train", "eval", "compare", "chat", "generate", "merge", "export"} <= verbs
    exported = {words[words.index("--to") + 1] for words in ran if words[0] == "export"}
    assert exported == {"hf", "peft", "compressed-tensors", "gguf", "ollama"}


def test_the_merged_model_must_answer_as_the_run_does() -> None:
    tuned, plain = (f"## {name}\n\n1 s, exit code 0\n\n```\nRed.\n```\n" for name in ASKED)
    assert real_model.is_one_answer([tuned, "## tunelab env\n\n```\nother\n```\n", plain])
    cut = tuned.replace("Red.", "Red.\nthe answer was cut off at 48 tokens; raise --max-new-tokens")
    assert real_model.is_one_answer([cut, plain])
    assert real_model.is_one_answer([tuned, "## python plain.py merged\n\nSkipped: merged is not there.\n"])
    assert not real_model.is_one_answer([tuned, plain.replace("Red", "Green")])
