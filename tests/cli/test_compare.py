"""`tunelab compare` of held-out rows at the command line, and the report that it writes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from held_out_files import texts, write_held_out
from verbs import Bench, Command


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
    assert [line[1] for line in lines] == ["completion", "bleu", "rougeL"]
    assert all(line[-1] == "30" for line in lines)
    assert "Holm over 3" in said.out
    for metric in ("completion loss", "bleu", "rougeL"):
        assert f"held-out, {metric}: " in said.err
    assert said.err.count("precision differs: ") == 1  # told once, not with each figure
    assert "by " in said.err and "points (95 % interval" in said.err


def test_a_folder_that_is_called_as_a_column(tunelab: Command, tmp_path: Path) -> None:
    """A folder called p lost its column to that of the p-values, and every row was one cell longer than its head."""
    first, second = two_evaluations(tmp_path)
    Path("p").symlink_to(first)
    said = tunelab("compare", "p", second)
    assert said.code == 0, said.err
    assert re.search(r"benchmark +metric +p +\S+ +difference +95 % interval +p +p \(Holm over 3\) +items", said.out)


def test_only_held_out_rows_and_unlike_ones(tunelab: Command, tmp_path: Path) -> None:
    a, b = two_evaluations(tmp_path)
    said = tunelab("compare", a, b, "--benchmarks", "held-out")
    assert said.code == 0 and "completion loss" in said.out
    said = tunelab("compare", a, b, "--benchmarks", "mmlu")
    assert said.code == 1 and "have no scores of mmlu in common" in said.err
    answers, references = texts(30, 4)
    other = write_held_out(tmp_path / "c" / "tuned-c", answers, references, [9.0] * 30, [5] * 30, data="sha256:2")
    said = tunelab("compare", a, other.parent)
    assert said.code == 1 and 'data: "sha256:1"' in said.err and "have different prompts" in said.err


def test_a_report_of_two_runs(tunelab: Command, bench: Bench) -> None:
    for name, run in (("lora", bench.lora), ("full", bench.full)):
        shutil.copytree(run, name, ignore=shutil.ignore_patterns("evaluations"))
        assert tunelab("eval", name).code == 0
    plain = tunelab("compare", "full", "lora")
    assert plain.code == 0 and "side by side, add --out DIR" in plain.err
    said = tunelab("compare", "full", "lora", "--out", "both/page")
    assert said.code == 0, said.err
    assert said.out == plain.out and "\nreport: both/page/report.html" in said.err
    assert "add --out DIR" not in said.err
    stored = json.loads(Path("both/page/report.json").read_text(encoding="utf-8"))
    full, lora = stored["arms"]
    assert (full["name"], full["adapter"], lora["adapter"]) == ("full", "full fine-tuning", "LoRA r 4")
    assert all(
        arm[cost] > 0 for arm in (full, lora) for cost in ("peak_memory_bytes", "training_seconds", "disk_bytes")
    )
    assert len(stored["comparisons"]) == 3 and [len(curve["points"]) for curve in stored["curves"]] == [2, 4]
    assert "method" in [one["key"] for one in stored["differences"]]
    assert "Arms were trained on different numbers of target tokens: full " in "".join(stored["not_proved"])


def test_a_report_is_rendered_again_without_its_runs(tunelab: Command, tmp_path: Path) -> None:
    a, b = two_evaluations(tmp_path)
    assert tunelab("compare", a, b, "--out", "page").code == 0
    shutil.rmtree(a)
    shutil.rmtree(b)
    page = Path("page/report.html").read_text(encoding="utf-8")
    for asked in ("page", "page/report.json"):
        Path("page/report.html").unlink()
        said = tunelab("report", asked)
        assert said.code == 0 and "Is b better than a on held-out? b is better than a by " in said.out
        assert Path("page/report.html").read_text(encoding="utf-8") == page
    assert sorted(path.name for path in Path("page").iterdir()) == ["report.html", "report.json", "report.md"]
    said = tunelab("report", tmp_path / "nowhere")
    assert said.code == 1 and "no study there" in said.err


def test_a_studys_report_is_not_overwritten(tunelab: Command, tmp_path: Path) -> None:
    Path("study").mkdir()
    Path("study/study.json").write_text("{}", encoding="utf-8")
    said = tunelab("compare", *two_evaluations(tmp_path), "--out", "study")
    assert said.code == 2 and "study: contains a study with its own report" in said.err and not said.out
    Path("a-file").write_text("mine", encoding="utf-8")
    said = tunelab("compare", "one", "two", "--out", "a-file")
    assert said.code == 2 and "a-file: is a file, expected a directory" in said.err
