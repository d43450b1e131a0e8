"""A file of items is evaluated like any benchmark: of a run and its base, resumed, compared, in a study, as the guide
shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from study_files import study_of, write_study_files
from tiny import recipe

import tunelab
from tunelab.answering.benchmark_responses import BenchmarkSettings, evaluate_benchmarks
from tunelab.cli.main import main
from tunelab.comparison.compare_runs import compare_runs
from tunelab.errors import ConfigError, DataError
from tunelab.records.cells import cells_of, read_study
from tunelab.records.responses import read_responses
from tunelab.records.runs import Run
from tunelab.scoring.score import score_file
from tunelab.studies.run_study import checked_study, foreseen, run_study

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "benchmarks.md"


@pytest.fixture(scope="module")
def run(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return tunelab.finetune(recipe(models["llama"], rows, folder / "run", train__steps=2))


def write_examples(folder: Path) -> list[str]:
    """The files that the guide shows."""
    shown = re.findall(r"<!-- example (\S+) -->\n```json\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    for name, text in shown:
        (folder / name).write_text(text, encoding="utf-8")
    return [name for name, _ in shown]


def test_the_guide_s_files_on_a_run_and_its_base(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = write_examples(tmp_path)
    assert names == ["capitals.jsonl", "choices.jsonl"]
    command = ["eval", str(run.path), "--benchmarks", ",".join(names), "--max-new-tokens", "6"]
    assert main(command) == 0
    first = capsys.readouterr()
    assert re.search(r"^accuracy ", first.out, re.MULTILINE)
    assert "capitals tuned: 3 items, prompted as one user turn in the template plain" in first.err
    assert "choices tuned: 2 items, prompted as one user turn in the template plain" in first.err
    stored = sorted(run.evaluations.glob("c*/responses.jsonl"))
    assert len(stored) == 4
    before = [path.read_bytes() for path in stored]
    assert main(command) == 0 and [path.read_bytes() for path in stored] == before, "stored answers are used again"
    for name in names:
        (tmp_path / name).unlink()
    scored = score_file(stored[0])
    assert scored.benchmark == "capitals.jsonl" and len(scored.graded) == 3, "scoring needs no file of items"
    assert set(scored.scored.groups) == {"group Europe", "group America"}
    found = compare_runs(run.path, benchmarks=["capitals.jsonl", "choices"])
    assert [(one.benchmark, one.metric, one.n) for one in found] == [
        ("capitals", "accuracy", 3),
        ("choices", "accuracy", 2),
    ]


def test_an_interrupted_evaluation_resumes_and_a_changed_file_starts_anew(
    models: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    lines = [json.dumps({"prompt": f"{number} is", "answer": str(number)}) + "\n" for number in range(6)]
    path.write_text("".join(lines))
    settings = BenchmarkSettings(out=tmp_path / "out", max_new_tokens=3)
    (whole,) = evaluate_benchmarks(str(models["llama"]), [str(path)], settings)
    file = whole.responses["base"].path
    content = file.read_bytes()
    file.write_bytes(b"".join(content.splitlines(keepends=True)[:3]) + b'{"item": "4"')
    (resumed,) = evaluate_benchmarks(str(models["llama"]), [str(path)], settings)
    assert resumed.responses["base"].path == file and sorted(file.read_bytes().splitlines()) == sorted(
        content.splitlines()
    )
    path.write_text("".join(lines[:-1]) + json.dumps({"prompt": "5 is", "answer": "5", "match": "contains"}) + "\n")
    (changed,) = evaluate_benchmarks(str(models["llama"]), [str(path)], settings)
    assert changed.responses["base"].path != file and file.read_bytes() is not None
    headers = [read_responses(one.responses["base"].path)[0] for one in (whole, changed)]
    assert headers[0]["benchmark_options"]["sha256"] != headers[1]["benchmark_options"]["sha256"]
    with pytest.raises(DataError, match=r"benchmark_options\.sha256"):
        compare_runs(file.parent, changed.responses["base"].path.parent)


def test_a_study_of_a_file(tmp_path: Path) -> None:
    write_study_files(tmp_path)
    path = tmp_path / "mine.jsonl"
    lines = [{"prompt": f"{n} cat", "choices": ["red", "blue dog"], "answer": n % 2} for n in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan: dict[str, Any] = {
        "arms": {"base": {"tuned": False}, "lora": {}},
        "seeds": [0],
        "benchmarks": {str(path): {"limit": 4}},
        "questions": [{"ask": "Does it help?", "is_better": "lora", "than": "base", "on": str(path)}],
    }
    study = study_of(tmp_path, **plan)
    assert foreseen(study)[0].startswith(f"{path}: no result can be significant with 4 items")
    cells = run_study(study, tmp_path / "out")
    assert [cell.status for cell in cells] == ["done"] * 3, [cell.error for cell in cells]
    kept, _ = read_study(tmp_path / "out")
    assert len(kept.benchmarks[str(path)]["sha256"]) == 64
    from tunelab.studies.study_report import study_report

    report = study_report(tmp_path / "out")
    assert report.questions and [one.n for one in report.comparisons] == [4]
    path.write_text("".join(json.dumps(line | {"group": "a"}) + "\n" for line in lines))
    keys = [{cell.key for cell in cells_of(checked_study(one))} for one in (study, study_of(tmp_path, **plan))]
    assert keys[0] == keys[1] != {cell.key for cell in cells}, "a changed file makes new evaluations"
    with pytest.raises(DataError, match="the file changed"):
        checked_study(kept)


def test_a_study_checks_its_benchmarks_before_it_trains(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "?"}\n')
    with pytest.raises(DataError, match="line 1: has no 'answer'"):
        run_study(study_of(tmp_path, benchmarks={str(path): {}}, questions=[]), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"ifeval\.moed: unknown option"):
        run_study(study_of(tmp_path, benchmarks={"ifeval": {"moed": "x"}}, questions=[]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
