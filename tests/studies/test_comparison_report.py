"""The report of two runs, from what training and scoring wrote alone: no model, no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held_out_files import texts, write_held_out

from tunelab.comparison.compare_runs import compare_runs
from tunelab.config import parse_recipe, to_yaml
from tunelab.errors import ConfigError, UsageError
from tunelab.report.content import StudyReport
from tunelab.report.html_page import html_page
from tunelab.report.markdown_page import markdown_page
from tunelab.studies import report_parts
from tunelab.studies.comparison_report import compare_report

ROWS = 30
RIGHT_A = [0.0] * 25 + [1.0] * 15
RIGHT_B = [1.0] * 20 + [0.0] * 5 + [1.0] * 12 + [0.0] * 3


def colours(folder: Path, values: Sequence[float], *, first: int = 0, name: str = "colours", **header: Any) -> Path:
    """What scoring writes for choices, of which the first is right."""
    header = {"benchmark": name, "arm": "tuned", "model": str(folder), "template": None, "limit": None, **header}
    folder.mkdir(parents=True)
    responses, grades = [header], []
    for number, value in enumerate(values, first):
        likelihoods = [-1.0, -2.0] if value else [-2.0, -1.0]
        record = {"item": f"i{number}", "prompt_hash": "x", "question": f"{number}?", "target": 0}
        responses.append({**record, "choices": [" red", " blue"], "log_probabilities": likelihoods, "text": ""})
        grades.append({"item": f"i{number}", "cluster": "", "values": {"right": value}})
    for file, lines in (("responses", responses), ("grades", grades)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{file}.jsonl").write_text(text, encoding="utf-8")
    score = {"name": "right", "value": float(np.mean(values)), "error": 0.08, "n": len(values), "unit": "0-1"}
    score |= {"higher_is_better": True, "protocol": {"shots": 0}}
    content = {"benchmark": name, "header": header, "scores": [score]}
    (folder / "scores.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def held_out(folder: Path, wrong_every: int, a_token: float, **header: Any) -> Path:
    answers, references = texts(ROWS, wrong_every)
    tokens = [4 + 3 * (row % 7) for row in range(ROWS)]
    noise = np.random.default_rng(wrong_every).normal(0, 0.3, size=ROWS).tolist()
    nats = [count * a_token + one for count, one in zip(tokens, noise, strict=True)]
    return write_held_out(folder, answers, references, nats, tokens, **{"arm": "tuned", **header})


def run_files(folder: Path, *, seed: int = 0, rank: int = 4, rows: str = "aaaa1111bbbb", targets: int = 900) -> Path:
    """What a finished training leaves, as far as a report looks at it: an adapter of 1,000 bytes."""
    tree = {"model": "some/model", "adapter": {"rank": rank}, "data": {"sources": ["rows.jsonl"]}}
    recipe = parse_recipe({**tree, "train": {"lr": 1e-4, "seed": seed}, "out": str(folder)})
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"0" * 1000)
    (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    environment = {"processor": "a chip", "cores": 2, "platform": "Linux", "python": "3.11", "tunelab": "0.1.0"}
    manifest = {
        "status": "finished",
        "sessions": [{"environment": {**environment, "libraries": {"torch": "2.13", "peft": None}}}],
        "model": {"fingerprint": "sha256:m", "digest": {"sha256": "d", "trainable": 1234 * rank}},
        "data": {"train": {"sha256": f"sha256:{rows}"}, "held_out": {"sha256": "h", "kept": ROWS}},
        "trained": {"training_seconds": 10.0 + seed, "tokens_per_second": 50.0, "targets": targets},
        "weights_after": f"weights of {folder.name}",
        "peak_gpu_bytes": None,
        "peak_resident_bytes": 7000 + seed,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    lines = [{"kind": "train", "step": step, "loss": 2.0 / step} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs that answered the same; the second with another rank and seed."""
    a, b = run_files(tmp_path / "one"), run_files(tmp_path / "two", seed=1, rank=8)
    for run, right, wrong_every, loss in ((a, RIGHT_A, 3, 2.0), (b, RIGHT_B, 6, 1.5)):
        colours(run / "evaluations" / "colours-tuned-1", right)
        held_out(run / "evaluations" / "tuned-1", wrong_every, loss)
    return a, b


def test_two_runs(runs: tuple[Path, Path]) -> None:
    report = compare_report(*runs)
    assert report.title == "two against one"
    one, two = report.arms
    assert (one.name, one.model, one.adapter, one.data, one.status) == (
        "one",
        "some/model",
        "LoRA r 4",
        "rows.jsonl",
        "done",
    )
    assert (two.adapter, two.training_seconds, two.tokens_per_second) == ("LoRA r 8", 11.0, 50.0)
    assert (two.peak_memory_bytes, two.trainable_parameters, two.disk_bytes) == (7001, 9872, 1000)
    assert one.evaluation_seconds is None and one.cost is None
    found = compare_runs(*runs)
    assert [(c.benchmark, c.metric, c.difference, c.p_holm) for c in report.comparisons] == [
        (c.benchmark, c.metric, c.difference, c.p_holm) for c in found
    ]
    assert len(found) == 4 and {(c.a, c.b) for c in report.comparisons} == {("one", "two")}
    right, loss = report.questions
    assert right.question == "Is two better than one on colours?" and right.verdict == "better"
    assert right.answer.startswith("two is better than one by 42.5 points (95 % interval ")
    assert loss.question == "Is two better than one on held-out?" and "nats per token" in loss.answer
    assert [(curve.arm, curve.seed, curve.points) for curve in report.curves] == [
        ("one", 0, ((1, 2.0), (2, 1.0))),
        ("two", 1, ((1, 2.0), (2, 1.0))),
    ]


def test_scores_flips_and_what_differs(runs: tuple[Path, Path]) -> None:
    report = compare_report(*runs)
    shown = {(score.arm, score.name): score for score in report.scores}
    assert shown["two", "right"].value == pytest.approx(32 / 40) and shown["two", "right"].error == 0.08
    columns = {name for (arm, name), score in shown.items() if arm == "two" and score.in_table}
    assert columns == {"right", "bleu", "rougeL"}
    assert {score.name for score in report.scores if score.is_main} == {"right", "completion_perplexity"}
    assert shown["one", "bleu"].error is not None and ("one", "rouge1") in shown
    kinds = [flip.kind for flip in report.flips]
    assert (kinds.count("gained"), kinds.count("lost"), report.flips_left_out) == (20, 3, 0)
    first = report.flips[0]
    assert (first.question, first.text_a, first.text_b, first.target) == ("0?", "blue", "red", "red")
    differing = {one.key: dict(one.values) for one in report.differences}
    assert differing == {"adapter.rank": {"one": "4", "two": "8"}, "train.seed": {"one": "0", "two": "1"}}
    assert report.provenance["machine and versions"]["torch"] == "2.13"
    assert "peft" not in report.provenance["machine and versions"]
    assert report.provenance["two"]["run"] == "two" and "rank: 8" in report.provenance["two"]["recipe"]
    assert "tuned-1\n{" in report.provenance["one"]["evaluation: held-out"]


def test_more_flips_than_a_page_holds(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_parts, "MOST_FLIPS", 21)
    report = compare_report(*runs)
    assert [flip.kind for flip in report.flips].count("lost") == 1 and report.flips_left_out == 2


def test_what_it_does_not_prove(runs: tuple[Path, Path]) -> None:
    said = compare_report(*runs).not_proved
    assert any(one.startswith("Every tuned arm was trained once") for one in said)
    assert any(one.startswith("Peak memory is that of training") for one in said)
    assert said[-1].startswith("Holm's correction covers the 4 comparisons of this report")
    assert not any("different" in one or "left out" in one or "differs" in one for one in said)
    (only,) = compare_report(*runs, benchmarks=["colours"]).comparisons
    assert only.p_holm == only.p
    assert compare_report(*runs, benchmarks=["colours"]).not_proved[-1].startswith("Holm's correction covers the one c")


def test_arms_that_were_not_treated_alike(tmp_path: Path) -> None:
    a = run_files(tmp_path / "one")
    b = run_files(tmp_path / "two", rows="cccc2222dddd", targets=1800)
    colours(a / "evaluations" / "colours-tuned-1", RIGHT_A, limit=40)
    colours(b / "evaluations" / "colours-tuned-1", RIGHT_B, first=4, template="alpaca", limit=40)
    colours(b / "evaluations" / "shapes-tuned-1", RIGHT_B, name="shapes")
    (b / "manifest.json").write_text((b / "manifest.json").read_text().replace("a chip", "another chip"))
    report = compare_report(a, b, allow_diff=["template"], common_items_only=True)
    said = "\n".join(report.not_proved)
    assert "different training rows (hashes): one aaaa1111, two cccc2222." in said
    assert "different numbers of target tokens: one 900, two 1,800." in said
    assert "colours: 8 items that only one of the two answered were left out of the comparison" in said
    assert "colours: template differs: null (one), alpaca (two)." in said
    assert "colours was evaluated on 40 of its items: results on the rest" in said
    assert "Only two was scored on shapes: no comparison." in said
    assert {score.benchmark for score in report.scores} == {"colours"}
    assert report.provenance["two: machine and versions"]["processor"] == "another chip, 2 cores"


def test_held_out_rows_that_were_not_all_asked(runs: tuple[Path, Path]) -> None:
    manifest = json.loads((runs[1] / "manifest.json").read_text())
    manifest["data"]["held_out"]["kept"] = 50
    (runs[1] / "manifest.json").write_text(json.dumps(manifest))
    said = compare_report(*runs).not_proved
    assert "held-out was evaluated on 30 of 50 rows: results on the rest may differ." in said


def test_a_run_and_its_base(tmp_path: Path) -> None:
    run = run_files(tmp_path / "one")
    for arm, right, wrong_every in (("base", RIGHT_A, 3), ("tuned", RIGHT_B, 6)):
        colours(run / "evaluations" / f"colours-{arm}-1", right, arm=arm)
        held_out(run / "evaluations" / f"{arm}-1", wrong_every, 1.5, arm=arm)
    report = compare_report(run)
    base, tuned = report.arms
    assert (base.name, base.training_seconds, base.trainable_parameters, base.adapter) == ("base", 0.0, 0, "none")
    assert base.peak_memory_bytes is None and base.disk_bytes is None
    assert (tuned.name, tuned.training_seconds, tuned.adapter) == ("tuned", 10.0, "LoRA r 4")
    assert report.title == "tuned against base (one)"
    assert "Is tuned better than base on colours?" in [one.question for one in report.questions]
    assert [(one.key, dict(one.values)) for one in report.differences] == [
        ("tuned", {"base": "false", "tuned": "true"})
    ], "no adapter's rank and no learning rate of a base"
    assert [curve.arm for curve in report.curves] == ["tuned"]
    assert not any("evaluated as its base" in one for one in report.not_proved)


def test_folders_of_evaluations(tmp_path: Path) -> None:
    nf4 = {"name": "nf4", "options": {"double": True}}
    a = colours(tmp_path / "a", RIGHT_A, arm="base", model_name="some/model", precision=nf4)
    b = colours(tmp_path / "b", RIGHT_B, adapter="sha256:1", model="sha256:0123456789abcdef")
    report = compare_report(a, b)
    one, two = report.arms
    assert (one.model, one.precision, one.adapter) == ("some/model", "nf4", "none")
    assert (two.model, two.precision, two.adapter) == ("sha256:01234567", "none", "adapter")
    costs = ("peak_memory_bytes", "training_seconds", "tokens_per_second", "trainable_parameters", "disk_bytes")
    assert [getattr(arm, cost) for arm in (one, two) for cost in costs] == [None] * 10
    assert not report.differences and not report.curves and "machine and versions" not in report.provenance
    assert "a has only evaluations: how it was trained, and at what cost, is not known." in report.not_proved
    assert not any("trained once" in one for one in report.not_proved)


def test_a_run_whose_training_is_not_known_to_have_finished(runs: tuple[Path, Path]) -> None:
    manifest = json.loads((runs[1] / "manifest.json").read_text())
    (runs[1] / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    two = compare_report(*runs).arms[1]
    assert two.adapter == "LoRA r 8" and two.training_seconds is None and two.disk_bytes is None


def test_runs_that_were_measured_before_training(tmp_path: Path) -> None:
    a, b = run_files(tmp_path / "one"), run_files(tmp_path / "two")
    for run, right in ((a, RIGHT_A), (b, RIGHT_B)):
        colours(run / "evaluations" / "colours-base-1", right, arm="base")
    report = compare_report(a, b)
    assert [arm.training_seconds for arm in report.arms] == [0.0, 0.0]
    assert (
        "two was evaluated as its base, before training: the effect of training was not measured." in report.not_proved
    )


def test_names_are_made_unlike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in ("x/lora/run", "y/lora/run"):
        colours(run_files(tmp_path / run) / "evaluations" / "colours-tuned-1", RIGHT_A)
    found = compare_report(tmp_path / "x/lora/run", tmp_path / "y/lora/run")
    assert [arm.name for arm in found.arms] == ["x/lora/run", "y/lora/run"]
    with pytest.raises(UsageError, match="are the same"):
        compare_report(tmp_path / "x/lora/run", tmp_path / "x" / ".." / "x/lora/run")
    for place, right in (("base", RIGHT_A), ("tuned", RIGHT_B)):  # folders that are called as the arms of a run are
        colours(run_files(tmp_path / place) / "evaluations" / "colours-tuned-1", right)
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("base")
    assert [arm.name for arm in compare_report("link", "tuned").arms] == ["link", "tuned"]
    named = compare_report("base", "tuned")
    assert named.title == "tuned against base" and named.arms[0].adapter == "LoRA r 4"


def test_it_is_stored_and_rendered_as_a_studys(runs: tuple[Path, Path]) -> None:
    report = compare_report(*runs)
    assert StudyReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert "two is better than one" in markdown_page(report)
    page = html_page(report)
    assert "Is two better than one on colours?" in page and "LoRA r 8" in page


def test_a_recipe_that_is_wrong(runs: tuple[Path, Path]) -> None:
    (runs[0] / "recipe.yaml").write_text("model: x\nadaptor: lora\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="adaptor"):
        compare_report(*runs)


def test_needs_no_torch(runs: tuple[Path, Path]) -> None:
    code = (
        "import sys, tunelab; assert len(tunelab.compare_report(*sys.argv[1:]).comparisons) == 4; "
        "assert not {'torch', 'transformers', 'sacrebleu', 'rouge_score', 'nltk'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, *map(str, runs)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
