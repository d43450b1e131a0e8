"""`tunelab compare` of held-out rows at the command line, from stored evaluations alone."""

from __future__ import annotations

from pathlib import Path

from held_out_files import texts, write_held_out
from verbs import Command


def two_evaluations(folder: Path) -> list[Path]:
    """The second answers nearer to the references, finds them likelier, and is stored in fewer bits."""
    made = []
    for name, wrong_every, loss, precision in (("a", 3, 2.0, None), ("b", 7, 1.5, {"format": "nf4"})):
        answers, references = texts(30, wrong_every)
        nats = [loss * (5 + row % 4) + 0.1 * (row % 3) for row in range(30)]
        tokens = [5 + row % 4 for row in range(30)]
        path = folder / name / f"tuned-{name}"
        made.append(write_held_out(path, answers, references, nats, tokens, arm="tuned", precision=precision).parent)
    return made


def test_held_out_rows_of_two_folders(tunelab: Command, tmp_path: Path) -> None:
    said = tunelab("compare", *two_evaluations(tmp_path))
    assert said.code == 0, said.err
    lines = [line.split() for line in said.out.splitlines() if line.startswith("held-out")]
    assert [line[1] for line in lines] == ["response", "bleu", "rougeL"]
    assert all(line[-1] == "30" for line in lines)
    assert "Holm over 3" in said.out
    for metric in ("response loss", "bleu", "rougeL"):
        assert f"held-out, {metric}: " in said.err
    assert said.err.count("precision differs: ") == 1  # told once, not with each figure
    assert "by " in said.err and "points (95 % interval" in said.err


def test_only_held_out_rows_and_unlike_ones(tunelab: Command, tmp_path: Path) -> None:
    a, b = two_evaluations(tmp_path)
    said = tunelab("compare", a, b, "--on", "held-out")
    assert said.code == 0 and "response loss" in said.out
    said = tunelab("compare", a, b, "--on", "mmlu")
    assert said.code == 1 and "have no scores of mmlu in common" in said.err
    answers, references = texts(30, 4)
    other = write_held_out(tmp_path / "c" / "tuned-c", answers, references, [9.0] * 30, [5] * 30, data="sha256:2")
    said = tunelab("compare", a, other.parent)
    assert said.code == 1 and 'data: "sha256:1"' in said.err and "ask something else" in said.err
