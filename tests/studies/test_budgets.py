"""A study with budgets: every arm trained at each, one report, answers at the largest or at equal cost."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from study_files import searched_study, study_of, write_study_files

from tunelab.cli.main import main
from tunelab.comparison.evaluated import evaluated_in
from tunelab.config.budgets import Budget
from tunelab.config.study import Study
from tunelab.errors import DataError
from tunelab.records.cells import Cell, keep_cell, keep_study, known_cells, read_study
from tunelab.records.runs import Run
from tunelab.report.content import StudyReport
from tunelab.studies.budget_curves import Curves, Trained, amount_words, at_equal
from tunelab.studies.run_study import run_study
from tunelab.studies.study_report import study_report

QUESTIONS = [
    {"ask": "Better?", "is_better": "lora", "than": "full", "on": "held-out"},
    {"ask": "At equal time?", "is_better": "lora", "than": "full", "on": "held-out", "match": "time"},
    {"ask": "As good?", "is_as_good": "lora", "as": "full", "on": "held-out", "within": 0.5, "match": "tokens"},
]


def budget_study(files: Path, **changes: Any) -> Study:
    recipe = {
        "model": str(files / "model"),
        "adapter": {"rank": 4},
        "data": {"sources": [str(files / "rows.jsonl")], "template": "plain", "held_out": 20},
        "train": {"batch_size": 4, "lr": 5e-3, "device": "cpu", "dtype": "fp32"},
        "evaluate": {"max_new_tokens": 2},
    }
    arms = {"base": {"tuned": False}, "full": {"recipe": {"method": "full", "train": {"lr": 1e-3}}}, "lora": {}}
    budgets = {"train.steps": [3, 6]}
    more = {
        "recipe": recipe,
        "arms": arms,
        "seeds": [0],
        "budgets": budgets,
        "questions": QUESTIONS,
        "price_per_hour": 2,
    }
    return study_of(files, **{**more, "price_per_hour": 2.0, **changes})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def done(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a study that ran; full fine-tuning is written down as 1.5 times as slow as LoRA."""
    folder = tmp_path_factory.mktemp("done") / "study"
    assert {cell.status for cell in run_study(budget_study(files), folder)} == {"done"}
    for cell in (cell for cell in read_study(folder)[1] if not cell.benchmark):
        assert cell.budget is not None
        run = Run(folder / cell.folder)
        manifest = run.manifest
        manifest["trained"]["training_seconds"] = cell.budget.value * (1.5 if cell.arm == "full" else 1.0)
        run.manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def report(done: Path) -> StudyReport:
    return study_report(done)


def test_each_budget_is_a_training_with_a_whole_schedule(done: Path) -> None:
    runs = {cell.title: Run(done / cell.folder) for cell in read_study(done)[1] if not cell.benchmark}
    assert list(runs)[:2] == ["full, 3 steps, seed 0: training", "full, 6 steps, seed 0: training"] and len(runs) == 4
    for short, long in (("full, 3", "full, 6"), ("lora, 3", "lora, 6")):
        rates = [
            [one["lr"] for one in runs[f"{name} steps, seed 0: training"].metrics("train")] for name in (short, long)
        ]
        assert [len(one) for one in rates] == [3, 6]
        assert rates[0][-1] < rates[1][2], "the short one has decayed where the long one has not"


def test_the_report_has_every_arm_at_every_budget(report: StudyReport) -> None:
    found = report.budgets
    assert found is not None
    assert [(one.arm, one.budget, one.seeds) for one in found.points] == [
        *(("full", "3 steps", 1), ("full", "6 steps", 1)),
        *(("lora", "3 steps", 1), ("lora", "6 steps", 1)),
    ]
    costs = {(one.arm, one.budget): (one.seconds, one.cost) for one in found.points}
    assert costs["full", "6 steps"] == (9.0, pytest.approx(9 / 3600 * 2)) and costs["lora", "3 steps"][0] == 3.0
    assert found.points[1].tokens > 1.5 * found.points[0].tokens > 0
    scores = found.scores_on("held-out")
    largest = report.main_score("lora", "held-out")
    assert largest is not None and scores["lora", "6 steps"].value == largest.value != scores["lora", "3 steps"].value
    assert found.said[0].endswith("and comparisons are at the largest, 6 steps.")
    assert {"full, 3 steps, seed 0", "lora, 6 steps, seed 0"} <= set(report.provenance)
    assert len([curve for curve in report.curves if curve.arm == "lora"]) == 1, "losses are those of the largest budget"


def test_answers_say_at_which_budget_they_hold(report: StudyReport) -> None:
    plain, time, tokens = report.questions
    assert plain.answer.endswith(" At 6 steps, the largest budget.") and plain.about
    assert time.answer.startswith(
        "At 6.0 s of training (full at about 4 steps, between 3 and 6 steps, lora at 6 steps): "
    )
    assert time.about == () and "this lora model" in time.answer and "; each was trained once" in time.answer
    assert tokens.answer.startswith("At ") and "supervised tokens (full at 6 steps, lora at 6 steps): " in tokens.answer


def test_between_budgets_the_difference_is_that_of_weighted_losses(done: Path, report: StudyReport) -> None:
    assert report.budgets is not None
    time, tokens = report.budgets.equal
    weight = math.log(6 / 4.5) / math.log(2)

    def loss(title: str) -> float:
        (cell,) = (cell for cell in read_study(done)[1] if cell.title.startswith(title) and cell.benchmark)
        return evaluated_in(done / cell.folder)[0].figure("completion_loss")

    full = (1 - weight) * loss("full, 3 steps") + weight * loss("full, 6 steps")
    assert time.difference == pytest.approx(loss("lora, 6 steps") - full) and time.amount == 6.0
    slope = (loss("full, 6 steps") - loss("full, 3 steps")) / math.log(2)
    assert time.if_10_percent_more == pytest.approx(-slope * math.log(1.1)) and tokens.if_10_percent_more is None
    assert report.budgets.said[-1] == "Times were measured once, and count as exact."
    assert tokens.difference == pytest.approx(loss("lora, 6 steps") - loss("full, 6 steps"))
    assert time.p_holm is not None and time.p_holm >= time.p, "corrected with the study's other questions"
    plain = [one for one in report.comparisons if (one.a, one.b, one.metric) == ("full", "lora", "completion_loss")]
    assert len(plain) == 1 and not plain[0].exploratory


def test_it_is_on_the_console_in_markdown_and_on_the_page(
    done: Path, report: StudyReport, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(done)]) == 0
    said = capsys.readouterr()
    assert "Budgets" in said.out and "At equal tokens, time or cost" in said.out
    assert "Each budget is a training of its own" in " ".join(said.err.split())
    page, text = (done / "report.html").read_text("utf-8"), (done / "report.md").read_text("utf-8")
    assert page.count('<section id="budgets"') == 1 and page.count('id="plot-budgets-held-out-time"') == 1
    assert "## Budgets" in text and "## At equal tokens, time or cost" in text
    assert json.loads((done / "report.json").read_text("utf-8"))["budgets"]["points"][0]["budget"] == "3 steps"


def test_it_is_stored_and_read(report: StudyReport) -> None:
    assert StudyReport.from_json(report.to_json()) == report
    before = {key: value for key, value in report.to_json().items() if key != "budgets"}
    assert StudyReport.from_json(before).budgets is None
    assert report.budgets is not None
    strange = dataclasses.replace(report.budgets.points[0], arm="other")
    with pytest.raises(DataError, match="budgets of the report name 'other'"):
        dataclasses.replace(report, budgets=dataclasses.replace(report.budgets, points=(strange,)))


def trained(budget: int, seconds: float, cost: float | None = None) -> Trained:
    return Trained(Budget("train.steps", budget), (0,), 100.0 * budget, seconds, cost)


SLOW, FAST = [trained(1, 10.0), trained(2, 20.0)], [trained(1, 1.0), trained(2, 2.0)]


@pytest.mark.parametrize(
    ("curves", "by", "message"),
    [
        (
            Curves({"full": SLOW, "lora": FAST}, lambda *_: {0: None}),  # type: ignore[dict-item,return-value]
            "time",
            r"nothing in common: one ends before the other begins \(full 10.0 s to 20.0 s, lora 1.0 s to 2.0 s\)",
        ),
        (Curves({"full": SLOW, "lora": SLOW}, lambda *_: {}), "time", "full has no results on mmlu"),
        (
            Curves({"full": SLOW, "lora": FAST}, lambda *_: {}, "Trainings ran on unlike hardware"),
            "time",
            "Trainings ran on unlike hardware",
        ),
        (
            Curves({"full": SLOW, "lora": SLOW}, lambda *_: {0: None}),  # type: ignore[dict-item,return-value]
            "cost",
            "the study has no price_per_hour",
        ),
    ],
)
def test_what_cannot_be_read_is_not_measured(curves: Curves, by: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        at_equal(curves, "full", "lora", "mmlu", by)


def test_amounts_are_said_in_their_units() -> None:
    assert amount_words("tokens", 12_345.4) == "12,345 supervised tokens"
    assert amount_words("cost", 1.23456) == "a price of 1.23"


def test_nothing_is_run_again(files: Path, done: Path) -> None:
    before = {file.name: file.read_bytes() for file in (done / "cells").iterdir()}
    run_study(budget_study(files), done)
    assert {file.name: file.read_bytes() for file in (done / "cells").iterdir()} == before
    more = [cell for cell in known_cells(budget_study(files, budgets={"train.steps": [1, 3, 6]}), done)]
    assert [cell.title for cell in more if cell.status == "waiting" and not cell.benchmark] == [
        "full, 1 step, seed 0: training",
        "lora, 1 step, seed 0: training",
    ]


def test_a_failed_training_is_named_and_its_arm_is_read_without_it(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "study")
    for cell in read_study(done)[1]:
        if cell.title.startswith("lora, 3 steps"):
            lost = dataclasses.replace(cell, status="failed", error="MemoryError: no room")
            keep_cell(tmp_path / "study", lost)
            if not cell.benchmark:
                shutil.rmtree(tmp_path / "study" / cell.folder)
    found = study_report(tmp_path / "study")
    assert found.budgets is not None
    assert "lora, 3 steps, seed 0: training failed: MemoryError: no room" in found.budgets.said
    assert [one.budget for one in found.budgets.points if one.arm == "lora"] == ["6 steps"]
    assert found.questions[1].answer.startswith("At 6.0 s of training"), "the other budget is enough"


def test_a_dry_run_says_how_many_trainings(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = budget_study(files)
    (tmp_path / "study.yaml").write_text(json.dumps(study.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    assert main(["study", "run", str(tmp_path / "study.yaml"), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "4 trainings at 2 budgets (3 steps, 6 steps), each with a whole schedule of its own" in said


def test_rates_are_searched_at_the_largest_budget(files: Path, tmp_path: Path) -> None:
    recipe = searched_study(files).recipe
    recipe["train"].pop("steps")
    study = budget_study(files, recipe=recipe, questions=[], search={}, arms={"lora": {}})
    keep_study(study, tmp_path)
    tries = [cell for cell in known_cells(study, tmp_path) if cell.lr is not None]
    assert len(tries) == 5 and {cell.budget for cell in tries} == {Budget("train.steps", 6.0)}
    assert tries[0].title == "lora, lr 0.0005: trial"
    for cell in tries:
        keep_cell(tmp_path, searched(cell))
    final = [cell for cell in read_study(tmp_path)[1] if cell.lr is None and not cell.benchmark]
    assert [cell.title for cell in final] == ["lora, 3 steps, seed 0: training", "lora, 6 steps, seed 0: training"]
    chosen = read_study(tmp_path)[0]
    assert {chosen.at(cell.budget).arm_recipe("lora", 0).train.lr for cell in final} == {0.00158}
    found = study_report(tmp_path)
    assert found.budgets is not None and any(
        "searched at the largest budget, 6 steps" in one for one in found.budgets.said
    )


def searched(cell: Cell) -> Cell:
    assert cell.lr is not None
    return dataclasses.replace(cell, status="done", validation_loss=abs(math.log(cell.lr / 0.00158)))
