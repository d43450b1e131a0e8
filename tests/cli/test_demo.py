"""`tunelab demo`, with few steps and few rows of its own study."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from verbs import Command

from tunelab.errors import Interrupted
from tunelab.studies import demo

SHORT = (
    "seeds=[0]",
    "recipe.train.steps=2",
    "recipe.data.size=40",
    "recipe.data.held_out=8",
    "recipe.evaluate.max_new_tokens=2",
)


def shortened(monkeypatch: pytest.MonkeyPatch, arms: Sequence[str], *changes: str) -> None:
    """`tunelab demo` runs a few steps of these arms."""
    whole = demo.demo_study((*SHORT, *changes))
    kept = {arm: whole.arms[arm] for arm in arms}
    questions = tuple(one for one in whole.questions if {one.against, one.arm} <= kept.keys())
    study = whole.model_copy(update={"arms": kept, "compare": (), "questions": questions})
    monkeypatch.setattr(demo, "demo_study", lambda: study)


@pytest.mark.slow  # the test below is its sample
def test_it_answers_shows_and_says_what_to_try(tunelab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [question.ask for question in demo.demo_study().questions]
    shortened(monkeypatch, ["base", "full", "lora", "nf4"], "seeds=[0, 1]")
    said = tunelab("demo")
    assert said.code == 0, said.err
    assert [line.startswith(ask) for line, ask in zip(said.out.splitlines(), asked, strict=False)] == [True] * 3
    assert "Quality" in said.out and "Cost" in said.out and "Comparisons" not in said.out
    assert "\ncaveat: " not in said.err and "\nreport: runs/demo-1/report.html" in said.err
    for name in ("report.html", "report.md", "report.json"):
        assert Path("runs/demo-1", name).is_file()
    report = json.loads(Path("runs/demo-1/report.json").read_text(encoding="utf-8"))
    assert [arm["status"] for arm in report["arms"]] == ["done"] * 4
    # Every path that is named as a next step is there, but for what the step makes.
    words = [word for line in said.err.splitlines() for word in shlex.split(line, comments=True)]
    named = [word for word in words if word.startswith("runs/demo-1/") and not word.endswith("/merged")]
    assert len(named) == 5 and "each 2 times" in said.err and [word for word in named if not Path(word).exists()] == []
    said = tunelab("inspect", next(word for word in named if word.endswith("recipe.yaml")), "--rows", "2")
    assert said.code == 0, said.err


def test_a_demo_goes_on_in_its_directory(tunelab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, ["base", "lora"])
    stages: list[str] = []
    monkeypatch.setattr("tunelab.cli.demo.progress_bar", lambda: nullcontext(lambda stage, *_: stages.append(stage)))
    assert tunelab("demo", "--out", "mine").code == 0
    assert list(dict.fromkeys(stages)) == [
        *("base: scoring", "base: answering", "lora: training", "lora: scoring", "lora: answering"),
    ]
    (run,) = Path("mine/runs").iterdir()
    made = (run / "manifest.json").stat().st_mtime_ns
    for record in Path("mine/cells").glob("held-out-*.json"):
        record.unlink()
    said = tunelab("demo", "--out", "mine")
    assert said.code == 0 and (run / "manifest.json").stat().st_mtime_ns == made
    assert len(list(Path("mine/cells").glob("held-out-*.json"))) == 2
    assert not Path("runs").exists()


def test_a_stopped_demo_says_how_it_resumes(tunelab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, ["lora"])

    def stopped(*arguments: object, **more: object) -> None:
        raise Interrupted("lora, seed 0: training: stopped after step 1 of 2", "run the same command to resume")

    monkeypatch.setattr("tunelab.studies.run_study.run_study", stopped)
    said = tunelab("demo")
    assert said.code == 130 and said.err.endswith("hint: resume with: tunelab demo --out runs/demo-1\n")


def test_the_first_free_directory_is_taken(tunelab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, ["base", "lora"], "recipe.train.lr=1.0e+30")
    Path("runs/demo-1").mkdir(parents=True)
    said = tunelab("demo")
    assert said.code == 1
    assert "`tunelab demo --out runs/demo-2` resumes" in said.err and Path("runs/demo-2/study.json").exists()
    assert "failed: lora, seed 0: training: TrainingError" in said.err and "Next:" not in said.err
