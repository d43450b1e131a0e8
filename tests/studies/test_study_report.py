"""What a study's report compares, answers and names as unlike, from its directory alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from own_benchmarks import write_benchmarks
from tiny import model_folder, rows_file

from tunelab import plugins
from tunelab.config.study import Study, parse_study
from tunelab.report.content import StudyReport
from tunelab.statistics.paired_tests import holm
from tunelab.studies import study_report as reports
from tunelab.studies.run_study import run_study
from tunelab.studies.study_report import study_report


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A base, two arms on the same rows, and one on fewer rows, which other rows are held out of."""
    files = tmp_path_factory.mktemp("files")
    model_folder(files / "model", "llama", hidden_size=64, intermediate_size=128)
    rows_file(files / "rows.jsonl", rows=60)
    own = write_benchmarks(files)
    asked: list[dict[str, Any]] = [
        {"ask": "Loss?", "is_better": "lora", "than": "base", "on": "held-out"},
        {"ask": "BLEU?", "is_better": "lora", "than": "base", "on": "held-out", "metric": "bleu"},
        {"ask": "Fewer?", "is_better": "fewer", "than": "lora", "on": "held-out", "metric": "rougeL"},
        {"ask": "Choices?", "is_better": "lora", "than": "base", "on": str(own.choices)},
        {"ask": "By name?", "is_better": "lora", "than": "base", "on": str(own.choices), "metric": "right"},
        {"ask": "As good?", "is_as_good": "lora", "as": "base", "on": "held-out", "within": 20},
        {"ask": "Kept?", "is_as_good": "fewer", "as": "lora", "on": str(own.choices)},
        {"ask": "Taste?", "is_better": "lora", "than": "base", "on": str(own.choices), "metric": "taste"},
    ]
    tree = {
        "title": "few rows",
        "recipe": {
            "model": str(files / "model"),
            "adapter": {"rank": 4},
            "data": {"sources": [str(files / "rows.jsonl")], "template": "plain", "held_out": 12},
            "train": {"epochs": 0.2, "batch_size": 4, "lr": 5e-3, "device": "cpu", "dtype": "fp32"},
            "evaluate": {"max_new_tokens": 3},
        },
        "arms": {"base": {"tuned": False}, "lora": {}, "fewer": {"recipe": {"data": {"size": 40}}}},
        "seeds": [0, 1],
        "benchmarks": {"held-out": {}, str(own.choices): {"limit": 6, "data": str(own.data)}},
        "questions": asked,
        "compare": [["base", "lora"]],
        "published": [
            {"what": what, "values": {"base": 1.0, "lora": 2.0}, "source": "a paper"}
            for what in (
                "held-out bleu",
                "final training loss",
                "training hours",
                "minutes per epoch",
                "peak memory in GB",
            )
        ],
    }
    return parse_study(tree)


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made")
    assert {cell.status for cell in run_study(study, made)} == {"done"}
    return made


@pytest.fixture(scope="module")
def report(folder: Path) -> StudyReport:
    return study_report(folder)


def test_held_out_rows_are_compared_by_three_figures(study: Study, report: StudyReport) -> None:
    choices = plugins.label(list(study.benchmarks)[1])
    made = [(one.a, one.b, one.benchmark, one.metric) for one in report.comparisons]
    assert made == [
        ("base", "lora", "held-out", "completion_loss"),
        ("base", "lora", "held-out", "bleu"),
        ("base", "lora", "held-out", "rougeL"),
        ("base", "lora", choices, "right"),
        ("lora", "fewer", choices, "right"),
    ]
    assert {one.n for one in report.comparisons[:3]} == {12}
    # Questions ask for all but one, which is exploratory, a family of its own.
    assert [one.exploratory for one in report.comparisons] == [False, False, True, False, False]
    assert [one.p_holm for one in report.comparisons if one.exploratory] == holm(
        [one.p or 0.0 for one in report.comparisons if one.exploratory]
    )
    assert any("exploratory: they have a Holm correction of their own" in one for one in report.not_proved)
    # Two trainings of each tuned arm: verdicts are over rows and trainings.
    assert {one.degrees for one in report.comparisons[:3]} == {(11.0, 1.0)}
    assert report.comparisons[0].test == "t-test over items and trainings, 11 and 1 degrees of freedom"
    # The figures are those of the table.
    values = {(one.arm, one.name): one.value for one in report.scores if one.benchmark == "held-out"}
    for one, name in zip(report.comparisons[1:3], ("bleu", "rougeL"), strict=True):
        assert one.difference == pytest.approx(values["lora", name] - values["base", name])


def test_a_report_names_no_place(report: StudyReport, folder: Path) -> None:
    assert str(folder.parent) not in json.dumps(report.to_json())


def test_questions_are_answered_by_the_figure_that_they_name(report: StudyReport) -> None:
    verdicts = {(one.metric, one.benchmark): one.verdict for one in report.comparisons if one.b == "lora"}
    answers = {one.question: one.answer.removesuffix(".").lower() for one in report.questions}
    found = {metric: words.lower() for (metric, _), words in verdicts.items()}
    assert answers["Loss?"] == found["completion_loss"]
    assert answers["BLEU?"] == f"{found['bleu']}. published: 2 (lora), 1 (base)"
    assert answers["Choices?"] == answers["By name?"] == found["right"]
    assert answers["Fewer?"] == "unknown: the two arms could not be compared by rougel"
    assert answers["Taste?"] == "unknown: the two arms could not be compared by taste"


def test_questions_with_a_margin_are_answered_in_their_own_words(folder: Path, report: StudyReport) -> None:
    answers = {one.question: one for one in report.questions}
    asked = answers["As good?"]
    assert asked.verdict == "as good" and asked.answer.startswith("Yes, within the margin: lora ")
    assert "; margin 20 nats per token; over items and 2 trainings, p < 0.001" in asked.answer
    assert "after Holm over 5 questions)" in asked.answer, "those that could be compared"
    # The two arms were hardly trained: nothing was gained that a share could be kept of.
    kept = answers["Kept?"]
    assert kept.verdict == "not known" and "what lora gained over base was not shown" in kept.answer
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert study["questions"][-2]["keeps"] == 0.9, "the rule is written down before anything runs"
    assert not any("after results were there" in one.answer for one in report.questions)


def test_what_is_unlike_is_named(report: StudyReport) -> None:
    said = list(report.not_proved)
    (rows,) = [one for one in said if one.startswith("Arms were trained on different training rows (hashes): with")]
    assert "with seed 0 lora " in rows and "; with seed 1 lora " in rows and ", fewer " in rows
    (targets,) = [
        one for one in said if one.startswith("Arms were trained on different numbers of target tokens: with")
    ]
    assert targets.endswith("This may explain differences between them.")
    # The tokens of the rows stand in the loss's way, the references in that of both others.
    refused = [one for one in said if one.startswith("lora and fewer were not compared on held-out by ")]
    assert [one.split(" by ")[1].split(":")[0] for one in refused] == ["completion_loss", "bleu, rougeL"]
    assert all("data: " in one for one in refused)
    assert any("taste: " in one and "was not scored by taste, but by: right" in one for one in said)


def test_arms_that_were_asked_in_different_ways_are_named(study: Study, folder: Path) -> None:
    found = reports._Found(study, folder, {cell.key: cell for cell in reports.read_study(folder)[1]})
    made = reports.study_answers(study, found.evaluated, []).comparisons
    choices = next(one for one in made if one.metric == "right" and one.a_name == "base")
    differing = {"template": (None, "plain"), "adapter": ("(absent)", "sha256:1"), "tunelab": ("1", "2")}
    asked = [replace(choices, differing=differing), replace(choices, b_name="nf4", differing=differing)]
    said = list(reports._caveats(found, asked, None))
    assert f"{choices.benchmark}: template differs: null (base), plain (lora, nf4)." in said
    assert f"{choices.benchmark}: tunelab differs: 1 (base), 2 (lora, nf4)." in said
    assert not any("adapter differs" in one for one in said)


def test_arms_of_the_same_rows_are_not_named(study: Study, folder: Path) -> None:
    cells = {cell.key: cell for cell in reports.read_study(folder)[1]}
    alike = study.model_copy(update={"arms": {name: study.arms[name] for name in ("base", "lora")}})
    assert list(reports._unlike_training(reports._Found(alike, folder, cells))) == []
    assert len(list(reports._unlike_training(reports._Found(study, folder, cells)))) == 2


def test_what_was_published_stands_beside_what_was_measured(folder: Path, report: StudyReport) -> None:
    found = {(one.arm, one.benchmark): one for one in report.published}
    assert len(found) == 10
    bleu = report.score("lora", "held-out", "bleu")
    assert bleu is not None and bleu.in_table and found["lora", "held-out"].measured == bleu.value
    assert {one.name for one in report.scores if one.in_table} == {"bleu", "rougeL", "right"}
    losses = [curve.points[-1][1] for curve in report.curves if curve.arm == "lora"]  # a tenth of few steps is one
    assert found["lora", "final training loss"].measured == pytest.approx(sum(losses) / 2)
    lora = next(arm for arm in report.arms if arm.name == "lora")
    assert lora.training_seconds is not None and lora.peak_memory_bytes is not None
    assert found["lora", "training time"].measured == pytest.approx(lora.training_seconds / 3600)
    an_epoch = pytest.approx(lora.training_seconds / 0.2 / 60)
    assert found["lora", "training time per epoch"].measured == an_epoch
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("runs/*/manifest.json")]
    peaks = [one["peak_resident_bytes"] / 1e9 for one in manifests]  # of training alone; the arm's is of evaluation too
    assert found["lora", "peak memory"].measured in peaks
    assert found["base", "training time"].measured is None and found["base", "final training loss"].measured is None
    assert found["base", "peak memory"].measured is not None


def test_costs_are_means_of_one_run(folder: Path, report: StudyReport) -> None:
    _, cells = reports.read_study(folder)
    of_lora = [cell for cell in cells if cell.arm == "lora"]
    evaluating = sum(cell.seconds for cell in of_lora if cell.benchmark) / 2  # two seeds, all benchmarks
    lora = next(arm for arm in report.arms if arm.name == "lora")
    assert lora.evaluation_seconds == pytest.approx(evaluating)
    if reports.Run(folder / of_lora[0].folder).peak_memory[1] is not None:  # Linux says what the process began with
        assert lora.start_memory_bytes is not None and lora.peak_memory_bytes is not None
        assert 2**26 < lora.start_memory_bytes < lora.peak_memory_bytes, "Python and torch have more than 64 MiB"


def test_flips_are_told_once(report: StudyReport) -> None:
    flips = [(one.a, one.b, one.benchmark, one.item) for one in report.flips]
    assert len(flips) == len(set(flips)) == sum((one.gained or 0) + (one.lost or 0) for one in report.comparisons)


def test_an_evaluation_of_an_earlier_version_is_told(study: Study, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for path in copy.rglob("answer_scores.jsonl"):
        path.unlink()
    report = study_report(copy)
    assert [one.metric for one in report.comparisons if one.benchmark == "held-out"] == ["completion_loss"]
    (told,) = [
        one for one in report.not_proved if "base and lora were not compared on held-out by bleu, rougeL: " in one
    ]
    assert "did not store scores per answer" in told


def test_an_evaluation_stores_what_each_answer_scored(folder: Path) -> None:
    (path, *_) = sorted(folder.rglob("answer_scores.jsonl"))
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(records) == 12 and all(len(record["bleu_counts"]) == 10 for record in records)
    scores = {one["name"]: one["value"] for one in json.loads((path.parent / "scores.json").read_text())["scores"]}
    assert sum(record["rougeL"] for record in records) / 12 == pytest.approx(scores["rougeL"])
