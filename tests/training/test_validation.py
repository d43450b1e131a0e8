"""Promise: what chooses never sees the rows that are measured. Validation rows choose, held-out rows measure.

The leak test: other held-out rows in the same places, and every weight is the same to the byte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe

from tunelab.cli.main import main
from tunelab.config import as_recipe, load_recipe, parse_recipe
from tunelab.config.study import parse_study
from tunelab.errors import ConfigError, DataError, RunError
from tunelab.preparation.rows import prepare as prepare_recipe
from tunelab.preparation.rows import read_source, select
from tunelab.records.cells import keep_study, read_study
from tunelab.records.runs import Run
from tunelab.studies.report_parts import chosen_by_measured_rows, training_curve
from tunelab.training import saved_weights
from tunelab.training.finetune import finetune, resume

#: Choose in every way that a recipe has: the best weights, and when to stop.
CHOOSING = {
    "data__held_out": 6,
    "data__validation": 4,
    "train__eval_every": 1,
    "train__load_best_at_end": True,
    "train__early_stopping_patience": 2,
    "train__lr": 5e-2,
}


def with_other_held_out_rows(made: dict[str, Any], file: Path) -> dict[str, Any]:
    """The recipe on a copy of its rows in which others stand where the held-out ones stood."""
    data = as_recipe(made).data
    measured = {example.origin for example in select(data, [read_source(data, 0)]).held_out}
    lines = Path(made["data"]["sources"][0]["path"]).read_text(encoding="utf-8").splitlines()
    places = [number for number in range(len(lines)) if any(one.endswith(f"row {number + 1}") for one in measured)]
    assert len(places) == made["data"]["held_out"]
    for number in places:
        lines[number] = json.dumps({"prompt": f"other {number}?", "completion": "another answer, and a longer one"})
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = {**made["data"]["sources"][0], "path": str(file)}
    return {**made, "data": {**made["data"], "sources": [source]}}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_other_held_out_rows_change_no_weight(
    method: str, models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full fine-tuning also chooses the dtype to save in, by what rounding costs on rows."""
    rounded: list[list[int]] = []
    measure = saved_weights.answer_distributions
    monkeypatch.setattr(
        saved_weights, "answer_distributions", lambda model, rows: rounded.append(rows[0][0]) or measure(model, rows)
    )
    settings = {**CHOOSING, "method": method, "train__save_dtype": "bf16" if method == "full" else "auto"}
    made = recipe(models["llama"], rows, tmp_path / "a", **settings)
    first = finetune(made)
    other = with_other_held_out_rows({**made, "out": str(tmp_path / "b")}, tmp_path / "other.jsonl")
    second = finetune(other)
    result = "adapter/adapter_model.safetensors" if method == "lora" else "model/model.safetensors"
    assert (first.path / result).read_bytes() == (second.path / result).read_bytes()
    for name in ("weights_after", "validation_loss_after", "trained"):
        a, b = first.manifest[name], second.manifest[name]
        assert (a["best_step"], a["steps"]) == (b["best_step"], b["steps"]) if name == "trained" else a == b
    assert first.manifest["held_out_loss_after"] != second.manifest["held_out_loss_after"]
    chosen = prepare_recipe(made).validation.row(0)[0].tolist()
    assert bool(rounded) == (method == "full") and all(ids == chosen for ids in rounded)


def test_validation_rows_are_apart_and_the_same_for_every_seed_and_method(
    models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    made = recipe(models["llama"], rows, tmp_path / "run", data__held_out=6, data__validation=4)
    data = prepare_recipe(made)
    assert {name: counts.kept for name, (_, counts) in data.splits.items()} == {
        "training": 14,
        "held-out": 6,
        "validation": 4,
    }
    without = prepare_recipe({**made, "data": {**made["data"], "validation": 0}})
    assert without.held_out.sha256 == data.held_out.sha256 and list(without.splits) == ["training", "held-out"]
    other = prepare_recipe({**made, "method": "full", "train": {**made["train"], "seed": 5}})
    assert other.validation.sha256 == data.validation.sha256 and other.from_cache


def test_a_validation_split_without_rows_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    long = json.dumps({"prompt": "long?", "completion": "x" * 200})
    lines = [long, *(json.dumps({"prompt": f"{number}?", "completion": "yes"}) for number in range(9))]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    seeds = range(20)
    made = [recipe(models["llama"], tmp_path / "rows.jsonl", tmp_path, data__validation=1, data__seed=n) for n in seeds]
    chosen = [select(one.data, [read_source(one.data, 0)]).validation[0] for one in map(as_recipe, made)]
    first = next(one for one, example in zip(made, chosen, strict=True) if example.origin.endswith("row 1"))
    with pytest.raises(DataError, match=r"no validation row is left: of 1 rows 1 are longer than 128 tokens") as caught:
        prepare_recipe(first)
    assert "data.validation=0" in caught.value.hint


def test_a_run_records_its_validation_rows_and_is_not_resumed_with_others(
    models: dict[str, Path], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe(models["llama"], rows, tmp_path / "run", data__validation=4, train__eval_every=3)
    run = finetune(made)
    assert run.manifest["data"]["validation"]["kept"] == 4
    assert [one["step"] for one in run.metrics("validation")] == [3, 6] and not run.metrics("held-out")
    (curve,) = training_curve("lora", 0, run)
    assert [step for step, _ in curve.validation] == [0, 3, 6] and curve.held_out == ()
    assert main(["inspect", str(run.recipe_file), "--rows", "1"]) == 0
    assert "validation" in capsys.readouterr().out
    run.update_manifest(status="interrupted", data={**run.manifest["data"], "validation": {"sha256": "of other rows"}})
    with pytest.raises(RunError, match="the validation rows have changed since the run started"):
        resume(run.path)


def test_choosing_by_held_out_rows_is_refused_with_the_remedy(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "gpt2", "--data", str(rows), "train.eval_every=2", "train.load_best_at_end=true"]
    assert main(["train", *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the best weights are chosen by validation rows; held-out rows only measure the result" in said
    assert "set data.validation=0.05, or train.load_best_at_end=false" in said


OLD = {"load_best_at_end": True, "eval_every": 2}


def test_runs_and_studies_of_before_are_still_read(tmp_path: Path) -> None:
    tree = {"model": "gpt2", "data": {"sources": ["alpaca"]}, "train": OLD}
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(ConfigError, match="chosen by validation rows"):
        load_recipe(file)
    assert load_recipe(file, is_asked=False).train.load_best_at_end
    study = {"title": "t", "recipe": tree, "arms": {"a": {}}, "benchmarks": {"held-out": {}}}
    with pytest.raises(ConfigError, match=r"arms\.a: train\.load_best_at_end: the best weights are chosen"):
        parse_study(study)
    keep_study(parse_study(study, is_asked=False), tmp_path / "study")
    assert read_study(tmp_path / "study")[0].arm_recipe("a", 0).train.load_best_at_end


def test_a_report_says_where_held_out_rows_chose(tmp_path: Path) -> None:
    runs = {}
    for name, data, train in (
        ("old", {}, OLD),
        ("stopped", {}, {"early_stopping_patience": 2, "eval_every": 2}),
        ("new", {"validation": 4}, OLD),
        ("last", {}, {}),
    ):
        runs[name] = Run(tmp_path / name)
        runs[name].path.mkdir()
        tree = {"model": "gpt2", "data": {"sources": ["alpaca"], **data}, "train": train}
        runs[name].recipe_file.write_text(json.dumps(tree), encoding="utf-8")
    (said,) = chosen_by_measured_rows(runs)
    assert "Held-out rows chose the weights, or the step to stop at, of old, stopped, and then measured them" in said


def test_no_validation_rows_is_the_default() -> None:
    assert parse_recipe({"model": "gpt2", "data": "alpaca"}).data.validation == 0
