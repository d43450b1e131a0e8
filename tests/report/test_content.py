"""A report goes to JSON and back; what does not fit is refused by its place."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_reports import example_report

from tunelab.errors import DataError, RunError
from tunelab.report.content import Arm, Curve, StudyReport, read_report, write_report

REPORT = example_report()


def test_a_report_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, REPORT)
    assert read_report(path) == REPORT
    names = [one.name for one in dataclasses.fields(StudyReport)]
    assert list(json.loads(path.read_text("utf-8"))) == ["format_version", *names]


def test_an_int_is_read_as_a_float() -> None:
    stored = StudyReport("t", "c", (), (Arm("a", "m", "none", "none", "", cost=2),)).to_json()
    cost = StudyReport.from_json(stored).arms[0].cost
    assert cost == 2.0 and isinstance(cost, float)


def test_a_file_from_before_is_read_with_the_defaults_of_what_came_later() -> None:
    stored = REPORT.to_json()
    for score in stored["scores"]:
        del score["in_table"]
    for one in stored["published"]:
        del one["metric"], one["measured"], one["error"]
    read = StudyReport.from_json(stored)
    assert not any(score.in_table for score in read.scores)
    assert {(one.metric, one.measured, one.error) for one in read.published} == {("", None, None)}
    assert [one.value for one in read.published] == [one.value for one in REPORT.published]


def drop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda value: value.pop(name)


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(whole: Any) -> None:
        for step in path[:-1]:
            whole = whole[step]
        whole[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("flips"), "StudyReport lacks flips"),
        (put("flops", value=[]), "StudyReport has unknown flops"),
        (put("arms", 1, "colour", value="red"), r"arms\[1\] has unknown colour"),
        (lambda value: value["scores"][3].pop("error"), r"scores\[3\] lacks error"),
        (put("scores", 3, "value", value="0.4"), r"scores\[3\].value is '0.4': expected a number"),
        (put("scores", 3, "value", value=float("nan")), r"scores\[3\].value is nan: expected a finite number"),
        (put("scores", 0, "n", value=True), r"scores\[0\].n is True: expected an integer"),
        (put("scores", 0, "is_main", value=1), r"scores\[0\].is_main is 1: expected true or false"),
        (put("arms", 0, "status", value="ok"), r"arms\[0\].status is 'ok': expected 'done' or 'failed' or 'missing'"),
        (put("title", value=None), "title is None: expected a string"),
        (put("arms", value={}), "arms is {}: expected a list"),
        (put("arms", 0, value=[]), r"arms\[0\] is \[\]: expected an object"),
        (put("provenance", value=[]), r"provenance is \[\]: expected an object"),
        (put("provenance", "versions", "torch", value=2), "provenance.versions.torch is 2: expected a string"),
        (put("curves", 0, "points", 0, value=[1]), r"curves\[0\].points\[0\] is \[1\]: expected a list of 2"),
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    stored = copy.deepcopy(REPORT.to_json())
    change(stored)
    with pytest.raises(RunError, match=message) as caught:
        StudyReport.from_json(stored)
    assert "render the report again" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": (REPORT.arms[0], REPORT.arms[0])}, "the report has arm 'base bf16' more than once"),
        ({"scores": (REPORT.scores[0], REPORT.scores[0])}, "has score 'base bf16, mmlu, accuracy' more than once"),
        (
            {"scores": (REPORT.scores[0], dataclasses.replace(REPORT.scores[0], name="macro"))},
            "has main score 'base bf16, mmlu' more than once",
        ),
        ({"curves": (Curve("lora r8", 0, ()),)}, "curves of the report name 'lora r8': expected arms of the report"),
    ],
)
def test_parts_that_do_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataclasses.replace(REPORT, **changes)


def test_a_file_that_is_no_report_is_named(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(RunError, match=r"report\.json: no report here"):
        read_report(path)
    path.write_text("{", "utf-8")
    with pytest.raises(RunError, match=r"report\.json is not JSON"):
        read_report(path)
    path.write_text("{}", "utf-8")
    with pytest.raises(RunError, match=r"report\.json: StudyReport lacks title, created"):
        read_report(path)
    write_report(path, REPORT)
    path.write_text(path.read_text("utf-8").replace('"base nf4"', '"base bf16"'), "utf-8")
    with pytest.raises(RunError, match=r"report\.json: the report has arm 'base bf16' more than once"):
        read_report(path)


def test_what_an_arm_is_made_of() -> None:
    assert [arm.parts.removeprefix("meta-llama/Llama-2-7b-hf") for arm in REPORT.arms] == [
        "",
        " · nf4",
        " · lora · alpaca-gpt4",
        " · nf4 · lora · alpaca-gpt4",
        " · full fine-tuning · alpaca-gpt4",
    ]


def test_scores_of_an_arm() -> None:
    assert REPORT.benchmarks == ["mmlu", "ifeval", "gsm8k", "held-out"]
    score = REPORT.main_score("lora r128 bf16", "ifeval")
    assert score is not None and score.name == "prompt_strict"
    assert REPORT.main_score("full bf16", "ifeval") is None
    assert [one.value for one in REPORT.published_of("lora r128 bf16", "mmlu")] == [0.45]
