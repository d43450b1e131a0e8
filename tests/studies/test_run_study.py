"""A study runs every cell once, goes on where it stood, writes failures down, and is reported without a model."""

from __future__ import annotations

import fcntl
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from study_files import study_of, write_study_files

from tunelab.config.study import Study
from tunelab.errors import ConfigError, Interrupted, RunError
from tunelab.files import file_sha256
from tunelab.records.asked import asked_late
from tunelab.records.cells import Cell, cells_of, keep_cell, keep_study, read_study
from tunelab.records.expected_costs import Expected, expected_costs
from tunelab.records.responses import read_responses
from tunelab.records.runs import Run
from tunelab.studies.run_cell import run_cell
from tunelab.studies.run_study import checked_study, foreseen, run_study
from tunelab.studies.study_answers import LATE
from tunelab.studies.study_report import study_report


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


def perplexity(folder: Path) -> float:
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["scores"]
    return next(float(score["value"]) for score in scores if score["name"] == "completion_perplexity")


def statuses(cells: list[Cell]) -> list[str]:
    return [cell.status for cell in cells]


def test_each_cell_once_and_what_arms_share_is_shared(files: Path) -> None:
    cells = cells_of(study_of(files))
    assert [cell.title for cell in cells] == [
        "base: held-out",
        "lora, seed 0: training",
        "lora, seed 0: held-out",
        "lora, seed 1: training",
        "lora, seed 1: held-out",
        "nf4, seed 0: training",
        "nf4, seed 0: held-out",
        "nf4, seed 1: training",
        "nf4, seed 1: held-out",
    ]
    arms = {"a": {}, "b": {}, "x": {"tuned": False}, "y": {"tuned": False}}
    twins = study_of(files, arms=arms, questions=[])
    assert [cell.arm for cell in cells_of(twins)] == ["a", "a", "a", "a", "x"]


def test_a_study_from_its_cells_to_its_report(files: Path, tmp_path: Path) -> None:
    study = study_of(files)
    cells = run_study(study, tmp_path)
    assert set(statuses(cells)) == {"done"}
    assert not list(tmp_path.glob("runs/*/checkpoints")), "the evaluations after the trainings do without"
    (source,) = Run(tmp_path / cells[1].folder).manifest["data"]["sources"]
    assert source["identity"] == f"sha256:{file_sha256(files / 'rows.jsonl')}"
    report = study_report(tmp_path)
    assert [arm.name for arm in report.arms] == ["base", "lora", "nf4"]
    assert {arm.status for arm in report.arms} == {"done"}
    assert report.questions[0].question == "Does LoRA help?" and report.questions[0].verdict != "unknown"
    main = {one.arm: one for one in report.scores if one.is_main}
    assert main["base"].seeds == 1 and main["lora"].seeds == 2
    assert main["base"].seed_error is None and main["lora"].seed_error is not None
    assert [(one.a, one.b, one.metric) for one in report.comparisons] == [
        ("base", arm, metric) for arm in ("lora", "nf4") for metric in ("completion_loss", "bleu", "rougeL")
    ]
    assert all(one.p_holm is not None and one.n == 20 for one in report.comparisons)
    loss = report.comparisons[0]
    losses = [math.log(perplexity(tmp_path / cell.folder)) for cell in cells if cell.arm == "lora" and cell.benchmark]
    assert loss.seeds == len(losses) == 2, "the base has one evaluation, and stands against both"
    assert loss.seed_error == pytest.approx(abs(losses[0] - losses[1]) / 2)
    assert loss.by_seed[1] - loss.by_seed[0] == pytest.approx(losses[1] - losses[0])
    assert sum(loss.by_seed) / 2 == pytest.approx(loss.difference)
    assert {(one.arm, one.seed, len(one.points)) for one in report.curves} == {
        (arm, seed, 6) for arm in ("lora", "nf4") for seed in (0, 1)
    }
    assert all([step for step, _ in one.held_out] == [0, 6] for one in report.curves), "before and after"
    differing = {one.key: dict(one.values) for one in report.differences}
    assert differing["precision.name"] == {"base": "none", "lora": "none", "nf4": "nf4"}
    assert not any(key.startswith(("adapter.", "train.")) for key in differing), "keys that do not apply to a base"
    assert "training rows" in report.provenance["lora, seed 0"]
    # A second call runs nothing, and a report needs nothing but the directory.
    before = {file.name: file.read_bytes() for file in (tmp_path / "cells").iterdir()}
    run_study(study, tmp_path)
    assert len(before) == 9 and {file.name: file.read_bytes() for file in (tmp_path / "cells").iterdir()} == before
    assert study_report(tmp_path) == report


def test_a_stopped_study_goes_on_to_the_same_report(files: Path, tmp_path: Path) -> None:
    study = study_of(files, seeds=[0])
    run_study(study, tmp_path / "whole")

    def stop_at(where: str) -> Any:
        def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
            if where in stage and done >= 3:
                raise KeyboardInterrupt

        return stops

    for where in ("lora, seed 0: training", "nf4, seed 0: held-out: "):
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            run_study(study, tmp_path / "parts", progress=stop_at(where))
        assert "waiting" in statuses(read_study(tmp_path / "parts")[1])
        is_training = where.endswith("training")
        assert len(list(tmp_path.glob("parts/runs/*/checkpoints"))) == is_training, "only what is to be resumed"
    assert set(statuses(run_study(study, tmp_path / "parts"))) == {"done"}
    assert not list(tmp_path.glob("*/runs/*/checkpoints"))
    whole, parts = study_report(tmp_path / "whole"), study_report(tmp_path / "parts")
    assert (whole.scores, whole.comparisons, whole.flips) == (parts.scores, parts.comparisons, parts.flips)
    points = [[(one.arm, one.points) for one in report.curves] for report in (whole, parts)]
    assert points[0] == points[1]


def test_checkpoints_are_kept_where_a_study_says_so(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(recipe: object, path: Path, progress: object) -> Run:
        (path / "checkpoints" / "step-00000006").mkdir(parents=True)
        run = Run(path)
        run.update_manifest(peak_gpu_bytes=0, peak_resident_bytes=1)
        return run

    monkeypatch.setattr("tunelab.studies.run_cell._train", trained)
    for keeps, folder in ((True, tmp_path / "kept"), (False, tmp_path / "removed")):
        study = study_of(files, seeds=[0], remove_checkpoints=not keeps)
        cell = next(one for one in cells_of(study) if not one.benchmark)
        keep_study(study, folder)
        assert run_cell(folder, cell.key).status == "done"
        assert len(list(folder.glob("runs/*/checkpoints"))) == keeps


def test_a_cleanup_that_fails_does_not_fail_the_job(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(recipe: object, path: Path, progress: object) -> Run:
        path.mkdir(parents=True)
        run = Run(path)
        run.update_manifest(peak_gpu_bytes=0, peak_resident_bytes=1)
        return run

    def refused(run: Run) -> None:
        raise OSError("Device or resource busy")

    said: list[str] = []
    monkeypatch.setattr("tunelab.studies.run_cell._train", trained)
    monkeypatch.setattr("tunelab.studies.run_cell.remove_checkpoints", refused)
    study = study_of(files, seeds=[0])
    cell = next(one for one in cells_of(study) if not one.benchmark)
    keep_study(study, tmp_path / "out")
    found = run_cell(tmp_path / "out", cell.key, progress=lambda stage, done, total, detail="": said.append(detail))
    assert found.status == "done" and said == ["Device or resource busy"]


def test_a_failed_cell_is_written_down_and_the_rest_goes_on(files: Path, tmp_path: Path) -> None:
    arms = {"broken": {"recipe": {"train": {"lr": 1e30}}}, "lora": {}, "gone": {"tuned": False}}
    shutil.copytree(files / "model", tmp_path / "no-weights", ignore=shutil.ignore_patterns("*.safetensors"))
    arms["gone"]["recipe"] = {"model": str(tmp_path / "no-weights")}
    study = study_of(files, arms=arms, seeds=[0], questions=[])
    found = {cell.title: cell for cell in run_study(study, tmp_path / "out")}
    assert found["broken, seed 0: training"].status == found["broken, seed 0: held-out"].status == "failed"
    assert "the loss is" in found["broken, seed 0: training"].error
    assert "its training failed" in found["broken, seed 0: held-out"].error
    assert found["gone: held-out"].status == "failed"
    assert found["lora, seed 0: held-out"].status == "done"
    report = study_report(tmp_path / "out")
    assert {arm.name: arm.status for arm in report.arms} == {"broken": "failed", "lora": "done", "gone": "failed"}
    errors = {arm.name: arm.error for arm in report.arms}
    assert errors["broken"].startswith("broken, seed 0: training: TrainingError: ") and not errors["lora"]


def test_a_benchmark_with_flips(files: Path, tmp_path: Path) -> None:
    benchmark = {str(files / "choices.py"): {"limit": 6, "data": str(files / "data")}}
    study = study_of(files, benchmarks=benchmark, seeds=[0], questions=[])
    assert set(statuses(run_study(study, tmp_path))) == {"done"}
    report = study_report(tmp_path)
    assert {one.n for one in report.scores if one.is_main} == {6}
    for one in report.comparisons:
        flips = [flip for flip in report.flips if (flip.a, flip.b) == (one.a, one.b)]
        assert one.gained is not None and one.lost is not None and len(flips) == one.gained + one.lost
    assert any("was evaluated on 6 of its items" in sentence for sentence in report.not_proved)


def test_times_and_memory_are_expected_from_cells_that_are_done() -> None:
    def cell(arm: str, seed: int, benchmark: str, seconds: float, memory: int | None = None) -> Cell:
        status: Any = "done" if seconds else "waiting"
        return Cell(f"{arm}{seed}{benchmark}", arm, seed, benchmark, "", status, "", seconds, memory)

    cells = [
        cell("a", 0, "", 10.0, 100),
        cell("b", 0, "", 30.0, 300),
        cell("a", 1, "", 0),
        cell("c", 0, "", 0),
        cell("a", 0, "m", 0),
    ]
    assert expected_costs(cells) == {"a1": Expected(10.0, 100), "c0": Expected(20.0, 300), "a0m": Expected(None, None)}


def test_what_can_be_seen_is_said_before_anything_runs(files: Path) -> None:
    study = study_of(files, benchmarks={"mmlu": {"limit": 500}, "gsm8k": {}, "held-out": {}})
    mmlu, gsm8k, held_out = foreseen(study)
    assert mmlu.startswith("mmlu: 500 items, minimum detectable difference ") and "(at 80 % power, 1 comparison" in mmlu
    assert "gsm8k: 1,319 items" in gsm8k
    # The t of 80 % power and of the one question's 0.05 together, over the root of 20 rows.
    assert held_out.startswith(
        "held-out: 20 rows, minimum detectable difference 0.66 standard deviations of the paired"
    )
    points = [float(sentence.split("detectable difference ")[1].split(" ")[0]) for sentence in (mmlu, gsm8k)]
    assert 5 < points[0] < 10 and points[1] < points[0]
    few = foreseen(study_of(files, benchmarks={"mmlu": {"limit": 3}}, questions=[]))[0]
    assert few.startswith("mmlu: no result can be significant with 3 items (at 80 % power")
    texts = study_of(files, benchmarks={"forgetting": {}}, questions=[])
    assert foreseen(texts)[0].startswith("forgetting: 14 domains, minimum detectable difference ")
    texts = study_of(files, benchmarks={"forgetting": {"limit": 3}}, questions=[])
    assert foreseen(texts)[0].startswith("forgetting: no result can be significant with 3 domains")
    few_rows = study.recipe | {"data": study.recipe["data"] | {"held_out": 5}}
    (said,) = foreseen(study_of(files, recipe=few_rows, benchmarks={"held-out": {}}))
    assert said.startswith("held-out: no result can be significant with 5 rows")
    recipe = study.recipe | {"data": study.recipe["data"] | {"held_out": 0.5}}
    assert (
        "held-out: the number of items, and so the detectable difference, is not known"
        in foreseen(study_of(files, recipe=recipe))[0]
    )


def test_what_a_margin_needs_is_said_before_anything_runs(files: Path) -> None:
    asked: list[dict[str, Any]] = [
        {"ask": "Loss?", "is_as_good": "nf4", "as": "lora", "on": "held-out"},
        {"ask": "Share?", "is_as_good": "nf4", "as": "lora", "on": "mmlu"},
        {"ask": "Points?", "is_as_good": "nf4", "as": "lora", "on": "mmlu", "within": 0.01},
        {"ask": "Forgotten?", "is_like": "lora", "to": "base", "on": "mmlu"},
        {"ask": "Few?", "is_like": "nf4", "to": "lora", "on": "gsm8k", "keeps": 0.5},
    ]
    tree = {"mmlu": {"limit": 500}, "gsm8k": {"limit": 20}, "held-out": {}}
    loss, kept, points, forgotten, few = foreseen(study_of(files, benchmarks=tree, questions=asked))[3:]
    assert loss == (
        "Loss? nf4 is as good as lora if it keeps at least 90 % of what that gains over base; whether 20 rows can show "
        "that is known once both were evaluated, from how much rows differ"
    )
    assert kept.endswith(
        "500 items can show a margin of 5.0 points if 20 % of items are right in only one arm, so lora must gain 50 "
        "points over base"
    )
    assert points.startswith("Points? nf4 is as good as lora within 0.01 (the metric's unit); 500 items can show a ")
    assert points.endswith("; a margin of 1 point needs about 12,400 items")
    assert "lora is like base within 1 point; " in forgotten
    assert "if it keeps 50 % to 150 % of what that gains over base" in few and "so lora must gain" in few


def test_margins_of_what_is_no_share_of_right_answers_are_in_its_unit(files: Path) -> None:
    asked = [
        {"ask": "Lost?", "is_as_good": "lora", "as": "base", "on": "forgetting"},
        {"ask": "Sure?", "is_as_good": "lora", "as": "base", "on": "mmlu", "metric": "log_probability"},
        {"ask": "Calibrated?", "is_as_good": "lora", "as": "base", "on": "mmlu", "metric": "brier"},
    ]
    tree = {"mmlu": {"limit": 500}, "forgetting": {}}
    lost, sure, calibrated = foreseen(study_of(files, benchmarks=tree, questions=asked))[2:]
    assert lost.startswith(
        "Lost? lora is as good as base within 0.01 bits/byte; whether 28 texts can show that is known"
    )
    assert "within 0.02 nats; whether 500 items can show that" in sure
    assert "within 0.01 of 2; whether 500 items can show that" in calibrated


@pytest.mark.parametrize(
    ("on", "metric", "within", "said"),
    [
        ("held-out", "bleu", 0.01, "0.01 of a metric from 0 to 100 is 0.01 points"),
        ("held-out", "chrf", 100, "100 is no margin of a metric from 0 to 100: every difference is within it"),
        ("mmlu", None, 1, "1 is no margin of a metric from 0 to 1"),
        ("mmlu", "brier", 2, "2 is no margin of a metric from 0 to 2"),
    ],
)
def test_a_margin_of_another_unit_is_refused_before_anything_runs(
    files: Path, on: str, metric: str | None, within: float, said: str
) -> None:
    asked = {"ask": "?", "is_as_good": "nf4", "as": "lora", "on": on, "metric": metric, "within": within}
    study = study_of(files, benchmarks={"mmlu": {}, "held-out": {}}, questions=[asked])
    with pytest.raises(ConfigError, match=f"questions.0.within: {said}"):
        checked_study(study)
    assert checked_study(study_of(files, questions=[{**asked, "on": "held-out", "metric": "rougeL", "within": 1}]))


def test_an_untuned_arm_s_own_template_is_what_benchmarks_prompt_it_in(files: Path, tmp_path: Path) -> None:
    benchmarks = {str(files / "writing.py"): {"limit": 2, "data": str(files / "data")}}
    arms = {"plain": {"tuned": False}, "asked": {"tuned": False, "recipe": {"data": {"template": "human-assistant"}}}}
    new = {"model": {"new_tokens": "template"}, "data": {"template": "chatml"}}  # tokens that the base lacks
    arms["chatml"] = {"tuned": False, "recipe": new}
    question = {"ask": "?", "is_better": "asked", "than": "plain", "on": str(files / "writing.py")}
    study = study_of(files, arms=arms, seeds=[0], benchmarks=benchmarks, questions=[question])
    cells = run_study(study, tmp_path)
    assert [cell.error for cell in cells] == ["", "", ""] and cells[0].key != cells[1].key
    headers = [read_responses(tmp_path / cell.folder / "responses.jsonl")[0] for cell in cells]
    assert [header["template"] for header in headers] == [None, "human-assistant", "chatml"]
    assert "writing: template differs: null (plain), human-assistant (asked)." in study_report(tmp_path).not_proved
    before = study_of(files, arms={"plain": {"tuned": False}}, seeds=[0], benchmarks=benchmarks, questions=[])
    assert [cell.key for cell in cells_of(before)] == [cells[0].key], "keys of arms without one stay"


def test_a_question_or_margin_of_after_the_results_is_named(files: Path, tmp_path: Path) -> None:
    asked = {"ask": "As good?", "is_as_good": "nf4", "as": "lora", "on": "held-out"}
    study = study_of(files, questions=[asked])
    keep_study(study, tmp_path)
    changed = study_of(files, questions=[asked | {"within": 0.5}])
    keep_study(changed, tmp_path)  # nothing was measured yet
    assert asked_late(changed, tmp_path) == []
    keep_cell(tmp_path, Cell("held-out-1", "lora", 0, "held-out", status="done"))
    reworded = study_of(files, questions=[asked | {"within": 0.5, "ask": "Is it?"}])
    keep_study(reworded, tmp_path)
    assert asked_late(read_study(tmp_path)[0], tmp_path) == [], "the words may change"
    more = {"ask": "Better?", "is_better": "nf4", "than": "lora", "on": "held-out"}
    late = study_of(files, questions=[asked | {"within": 0.4}, more, asked | {"within": 0.5}])
    keep_study(late, tmp_path)
    assert asked_late(read_study(tmp_path)[0], tmp_path) == list(late.questions[:2])
    assert json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))["questions"][0]["as"] == "lora"
    # A study of before: what it had asked by then is written down when it is run again.
    (tmp_path / "asked.json").unlink()
    assert asked_late(late, tmp_path) == []
    keep_study(changed, tmp_path)
    assert asked_late(changed, tmp_path) == [], "0.5 was asked among others"
    assert asked_late(study, tmp_path) == list(study.questions)
    assert "after results were there" in LATE


def test_a_model_that_is_not_tuned_is_asked_with_the_date_of_the_recipe(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "model", tmp_path / "model")
    template = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    (tmp_path / "model" / "chat_template.jinja").write_text(template, encoding="utf-8")

    def dated(day: str) -> Study:
        data = {"sources": ["none.jsonl"], "template": "chat", "date": day}
        recipe = {"model": str(tmp_path / "model"), "data": data}
        benchmark = {str(files / "writing.py"): {"limit": 2, "data": str(files / "data")}}
        arms = {"base": {"tuned": False}}
        return study_of(files, recipe=recipe, arms=arms, benchmarks=benchmark, seeds=[0], questions=[])

    (cell,) = run_study(dated("2024-02-29"), tmp_path / "out")
    assert cell.status == "done", cell.error
    header = json.loads((tmp_path / "out" / cell.folder / "scores.json").read_text(encoding="utf-8"))["header"]
    assert header["date"] == "2024-02-29"
    assert cells_of(dated("2020-01-01"))[0].key != cell.key, "another date is another evaluation"


def test_directories_that_are_none_of_this_study(files: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no study there"):
        read_study(tmp_path)
    keep_study(study_of(files), tmp_path)
    with pytest.raises(RunError, match="contains another study"):
        run_study(study_of(files, title="another"), tmp_path)
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process runs this study"):
            run_study(study_of(files), tmp_path)
    assert not (tmp_path / "cells").exists()
    assert json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))["title"] == "few bits"
