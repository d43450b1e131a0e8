"""make real-model: skipped visibly without a model; what it keeps has no absolute path and names what failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts import llama_cpp_answers, real_model

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
    named = {word for words in ran for word in words}
    assert {"nf4", "ifeval", "mmlu"} <= named | {step.needs for step in real_model.steps()}
    assert {"inspect", "train", "eval", "compare", "chat", "generate", "merge", "export"} <= verbs
    exported = {words[words.index("--to") + 1] for words in ran if words[0] == "export"}
    assert exported == {"hf", "peft", "compressed-tensors", "gguf", "ollama"}


def test_what_documents_quote() -> None:
    table = "metric                 base       tuned      unit\ncompletion perplexity  9.8 ± 1.8  8.7 ± 1.5\n"
    held_out = f"## tunelab eval runs/lora --max-new-tokens 32\n\n39 s, exit code 0\n\n```\n{table}```\n"
    trained = (
        "speed                 137 tokens/s\npeak resident memory  3.15 GiB\nheld-out loss         2.28 -> 2.16 nats\n"
    )
    training = f"## tunelab train --model model --out runs/lora\n\n```\n{trained}```\n"
    text = real_model.in_short([training, held_out, "## tunelab eval runs/lora --benchmarks mmlu\n\nSkipped: mmlu\n"])
    assert "LoRA: held-out rows, completion perplexity  9.8 ± 1.8  8.7 ± 1.5\n```\n<!-- end scores -->" in text
    assert "LoRA  137 tokens/s  3.15 GiB     2.28 -> 2.16 nats\n```\n<!-- end training -->" in text
    assert "MMLU" not in text and "NF4" not in text


def test_the_merged_model_must_answer_as_the_run_does() -> None:
    tuned, plain = (f"## {name}\n\n1 s, exit code 0\n\n```\nRed.\n```\n" for name in ASKED)
    assert real_model.is_one_answer([tuned, "## tunelab env\n\n```\nother\n```\n", plain])
    cut = tuned.replace("Red.", "Red.\nthe answer was cut off at 48 tokens; raise --max-new-tokens")
    assert real_model.is_one_answer([cut, plain])
    assert real_model.is_one_answer([tuned, "## python plain.py merged\n\nSkipped: merged is not there.\n"])
    assert not real_model.is_one_answer([tuned, plain.replace("Red", "Green")])


def test_answers_of_llama_cpp_are_quoted() -> None:
    counts = "exported-gguf-F16/model.gguf: 8 of 8 answers are tunelab's, token by token (193 tokens)"
    section = (
        f"## python llama_cpp_answers.py answers.jsonl\n\n9 s, exit code 0\n\n```\n{counts}\n  'a': token 3\n```\n"
    )
    assert f"<!-- block llama-cpp -->\n```\n{counts}\n```\n" in real_model.in_short([section])


@pytest.mark.parametrize(
    ("ours", "theirs", "place"),
    [((1, 2), (1, 2, 9), None), ((1, 2, 9), (1, 2), None), ((1, 2, 3), (1, 4, 3), 1), ((1, 2), (1, 2, 3), 2)],
)
def test_where_an_answer_of_llama_cpp_differs(
    ours: tuple[int, ...], theirs: tuple[int, ...], place: int | None
) -> None:
    assert llama_cpp_answers.first_difference(ours, theirs, frozenset({9})) == place


def test_a_page_of_what_is_finished_names_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_model, "run", lambda *_: pytest.fail("was run"))
    (tmp_path / "output").mkdir()
    (tmp_path / "output/00.md").write_text("## tunelab env\n\n1 s, exit code 0\n", encoding="utf-8")
    sections, failed = real_model.record(tmp_path, runs=False)
    assert sections[0].startswith("## tunelab env") and "Not run." in sections[1] and not failed
    assert "2 minutes in all. Beside others." in real_model.page(["90 s, exit code 0"], "2026-12-01", "Beside others.")
