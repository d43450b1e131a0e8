"""Promise: what a study's jobs need is checked before the first one runs, and every key of its benchmarks is used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from study_files import study_of, write_study_files
from tiny import model_folder

from tunelab.config.study_tree import merged
from tunelab.errors import ConfigError
from tunelab.files import file_sha256
from tunelab.models.digest import adapter_hash
from tunelab.models.load import tokenizer_fingerprint, weights_digest
from tunelab.preparation.base import template_digest
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.records.cells import Cell, cells_of, keep_cell, known_cells, read_cell
from tunelab.records.runs import Run
from tunelab.studies.run_study import checked_study, run_study
from tunelab.studies.study_report import study_report
from tunelab.studies.unchanged import check_unchanged, untuned_recipe


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


def lacks(files: Path, out: Path, **changes: Any) -> str:
    """What run_study() says before the first job; nothing was run, and nothing written."""
    with pytest.raises(ConfigError) as caught:
        run_study(study_of(files, **changes), out)
    assert not out.exists()
    return caught.value.message


def test_all_that_is_missing_is_named_before_the_first_job(files: Path, tmp_path: Path) -> None:
    arms = {
        "lora": {},
        "gone": {"recipe": {"model": str(files / "nowhere")}},
        "rows": {"recipe": {"data": {"sources": ["none.jsonl"]}}},
        "tracked": {"recipe": {"train": {"trackers": ["wandb"]}}},
    }
    benchmarks = {"held-out": {}, "ifeval": {"data": str(tmp_path / "no-folder")}, "mmlu": {"data": str(files)}}
    said = lacks(files, tmp_path / "out", arms=arms, benchmarks=benchmarks, questions=[])
    assert "before the first job: 4 problems" in said, "wandb is installed for the tests"
    assert f"arms.gone: model: {files / 'nowhere'}: no such folder" in said
    assert "arms.rows: data: none.jsonl: no such file" in said
    assert "benchmarks.ifeval: ifeval.data=" in said and "no such folder" in said
    assert "benchmarks.mmlu: " in said


def test_a_missing_gguf_file_hides_no_other_problem(files: Path, tmp_path: Path) -> None:
    """Disk space is counted by the model's files, which are not there."""
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a.gguf", "b.gguf"):
        (two / name).write_bytes(b"GGUF")
    missing = {"file": "none.gguf", "folder": str(tmp_path / "none"), "two": str(two)}
    arms = {name: {"recipe": {"model": place, "method": "full"}} for name, place in missing.items()}
    arms["rows"] = {"recipe": {"data": {"sources": ["none.jsonl"]}}}
    said = lacks(files, tmp_path / "out", arms=arms, questions=[])
    assert "before the first job: 4 problems" in said
    assert "arms.file: model: none.gguf: no such file" in said and f"arms.folder: model: {tmp_path}/none: no" in said
    assert f"arms.two: model: {two}: has 2 GGUF files" in said and "arms.rows: data: none.jsonl: no such file" in said


def test_what_changed_since_a_job_was_done_is_named(files: Path, tmp_path: Path) -> None:
    """A job that is done is not run again, so that another's would be of other rows, or of another model."""
    rows = tmp_path / "rows.jsonl"
    shutil.copy(files / "rows.jsonl", rows)
    study = study_of(files, seeds=[0], questions=[])
    study = study.model_copy(update={"recipe": {**study.recipe, "data": {"sources": [str(rows)]}}})
    weights = weights_digest(files / "model")
    for cell in cells_of(study):
        made = replace(cell, status="done", folder=f"made/{cell.key}")
        (tmp_path / "out" / made.folder).mkdir(parents=True)
        manifest = {"model": {"weights_sha256": weights}, "data": {"sources": [{"identity": ""}]}}
        manifest["data"]["sources"][0]["identity"] = f"sha256:{file_sha256(rows)}"
        Run(tmp_path / "out" / made.folder).update_manifest(**manifest)
        (tmp_path / "out" / made.folder / "scores.json").write_text(json.dumps({"header": {"model": weights}}))
        keep_cell(tmp_path / "out", made)
    run_study(study, tmp_path / "out")
    with open(rows, "a", encoding="utf-8") as file:
        file.write('{"prompt": "One more?", "completion": "Yes."}\n')
    said = rf"arms\.lora: {rows} has changed since the job 'lora, seed 0: training'.*restore it, or run the study in"
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        run_study(study, tmp_path / "out")
    shutil.copy(files / "rows.jsonl", rows)
    run_study(study, tmp_path / "out")
    other = tmp_path / "other"
    model_folder(other, "llama")
    shutil.copy(files / "model" / "model.safetensors", tmp_path / "kept")
    try:
        shutil.copy(other / "model.safetensors", files / "model" / "model.safetensors")
        with pytest.raises(ConfigError, match=r"arms\.base: .*/model has changed since the job 'base: held-out'"):
            run_study(study, tmp_path / "out")
    finally:
        shutil.copy(tmp_path / "kept", files / "model" / "model.safetensors")
    rows.unlink()
    run_study(study, tmp_path / "out")


@pytest.mark.parametrize("what", ["adapter_model.safetensors", "config.json", "tokenizer.json", "turns.jinja"])
def test_a_file_next_to_rows_and_weights_that_changed_is_named(files: Path, tmp_path: Path, what: str) -> None:
    """Trainings that came after would have started from another adapter, or have read rows as other tokens."""
    model, adapter, template = tmp_path / "model", tmp_path / "adapter", tmp_path / "turns.jinja"
    shutil.copytree(files / "model", model)
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    template.write_text("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}", encoding="utf-8")
    recipe = {"model": str(model), "adapter": {"from": str(adapter)}}
    recipe["data"] = {"sources": [str(files / "rows.jsonl")], "template": "chat", "chat_template": str(template)}
    study = study_of(files, recipe=recipe, arms={"lora": {}}, seeds=[0], questions=[])
    cells = cells_of(study)
    tokenizer = load_recipe_tokenizer(study.arm_recipe("lora", 0))
    for cell in cells:
        keep_cell(tmp_path / "out", replace(cell, status="done", folder=cell.key))
    run = Run(tmp_path / "out" / cells[0].key)
    run.path.mkdir(parents=True)
    run.update_manifest(
        model={"config_sha256": file_sha256(model / "config.json")},
        adapter={"from": {"sha256": adapter_hash(adapter)}},
        tokenizer=tokenizer_fingerprint(tokenizer),
        data={"sources": [], "chat_template_sha256": template_digest(tokenizer)},
    )
    check_unchanged(study, known_cells(study, tmp_path / "out"), tmp_path / "out")
    changed = next(tmp_path.glob(f"[am]*/{what}"), template)
    text = changed.read_text(encoding="utf-8").replace('"normalizer": null', '"normalizer": {"type": "Lowercase"}')
    changed.write_text(text.replace("e", "f", 1) if what != "tokenizer.json" else text, encoding="utf-8")
    place = {"adapter_model.safetensors": adapter, "config.json": changed, "turns.jinja": template}.get(what, model)
    said = rf"arms\.lora: (the tokenizer of )?{place} has changed since the job 'lora, seed 0: training'"
    with pytest.raises(ConfigError, match=said):
        check_unchanged(study, known_cells(study, tmp_path / "out"), tmp_path / "out")
    if what == "tokenizer.json":  # another version of the library writes the same tokenizer differently
        run.update_manifest(sessions=[{"environment": {"libraries": {"tokenizers": "0.1"}}}])
        check_unchanged(study, known_cells(study, tmp_path / "out"), tmp_path / "out")
    changed.unlink()
    check_unchanged(study, known_cells(study, tmp_path / "out"), tmp_path / "out")


@pytest.mark.parametrize("what", ["config.json", "tokenizer.json", "turns.jinja", "rows.jsonl"])
def test_what_changed_between_jobs_of_an_arm_that_is_not_tuned_is_named(files: Path, tmp_path: Path, what: str) -> None:
    """The second benchmark would have been answered by another tokenizer, in another template, than the first."""
    model, template, rows = tmp_path / "model", tmp_path / "turns.jinja", tmp_path / "rows.jsonl"
    shutil.copytree(files / "model", model)
    shutil.copy(files / "rows.jsonl", rows)
    template.write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", encoding="utf-8")
    data = {"sources": [str(rows)], "template": "chat", "chat_template": str(template)}
    arms = {"base": {"tuned": False, "recipe": {"model": str(model), "data": data}}}
    study = study_of(files, arms=arms, seeds=[0], questions=[], benchmarks={"held-out": {}})
    assert [cell.status for cell in run_study(study, tmp_path / "out")] == ["done"]
    run_study(study, tmp_path / "out")
    (changed,) = [*tmp_path.glob(what), *model.glob(what)]
    text = changed.read_text(encoding="utf-8").replace('"normalizer": null', '"normalizer": {"type": "Lowercase"}')
    changed.write_text(text + (" " if what == "config.json" else "\n"), encoding="utf-8")
    place = model if what == "tokenizer.json" else changed
    said = rf"arms\.base: (the tokenizer of )?{place} has changed since the job 'base: held-out'"
    with pytest.raises(ConfigError, match=said):
        run_study(study, tmp_path / "out")
    changed.unlink()
    check_unchanged(study, known_cells(study, tmp_path / "out"), tmp_path / "out")


def test_a_template_that_an_untuned_arm_is_not_asked_in_may_change(files: Path, tmp_path: Path) -> None:
    template = tmp_path / "turns.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}</s>{% endfor %}", encoding="utf-8")
    study = study_of(files, arms={"base": {"tuned": False}}, seeds=[0], questions=[])
    data = {**study.recipe["data"], "template": "chat", "chat_template": str(template)}
    study = study.model_copy(update={"recipe": {**study.recipe, "data": data}})
    recipe = untuned_recipe(study, Cell("key", "base", None, "mmlu"))
    assert recipe.data.chat_template is None
    assert untuned_recipe(study, Cell("key", "base", None, "held-out")).data.chat_template == str(template)


def test_a_benchmark_whose_code_changed_since_it_was_scored_is_named(files: Path, tmp_path: Path) -> None:
    own = tmp_path / "choices.py"
    shutil.copy(files / "choices.py", own)
    benchmark = {str(own): {"limit": 2, "data": str(files / "data")}}
    study = study_of(files, arms={"base": {"tuned": False}}, seeds=[0], questions=[], benchmarks=benchmark)
    assert [cell.status for cell in run_study(study, tmp_path / "out")] == ["done"]
    run_study(study, tmp_path / "out")
    own.write_text(own.read_text(encoding="utf-8").replace("== response.target", "!= response.target"), "utf-8")
    with pytest.raises(ConfigError, match=rf"arms\.base: {own} has changed since the job 'base: {own}'"):
        run_study(study, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": {"train": {"seed": 7}}}, r"recipe\.train\.seed: has no effect in a study.*seeds: \[0, 1\]"),
        ({"arms": {"lora": {"recipe": {"train": {"seed": 7}}}}}, r"arms\.lora\.recipe\.train\.seed: has no effect"),
        ({"recipe": {"out": "runs/mine"}}, r"recipe\.out: has no effect in a study.*--out names the study's directory"),
    ],
)
def test_keys_that_a_study_sets_itself_are_refused(files: Path, change: dict[str, Any], said: str) -> None:
    study = study_of(files, questions=[], **{key: value for key, value in change.items() if key == "arms"})
    if "recipe" in change:
        study = study.model_copy(update={"recipe": merged(study.recipe, change["recipe"])})
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        checked_study(study)


def test_a_tracker_that_is_not_installed(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = {"train": {"trackers": ["trackio"]}}
    said = lacks(files, tmp_path / "out", arms={"a": {"recipe": recipe}}, questions=[])
    assert "arms.a: train: train.trackers: trackio is not installed" in said


def test_an_option_that_the_benchmark_does_not_have(files: Path, tmp_path: Path) -> None:
    said = lacks(files, tmp_path / "out", benchmarks={"gsm8k": {"shot": 3}}, questions=[])
    assert "gsm8k.shot: unknown option" in said and "did you mean 'shots'?" in said


def test_a_full_disk(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000))
    said = lacks(files, tmp_path / "out", arms={"full": {"recipe": {"method": "full"}}}, questions=[])
    assert "full fine-tuning will write at least" in said and "1000 B are free" in said


@pytest.mark.parametrize(
    ("benchmarks", "said"),
    [
        ({"held-out": {"limits": 1}}, "benchmarks.held-out.limits: unknown key"),
        ({"held-out": {"limit": 0}}, "benchmarks.held-out.limit: 0, expected a positive integer"),
        ({"gsm8k": {"limit": "many"}}, "benchmarks.gsm8k.limit: 'many', expected a positive integer"),
        ({"gsm8k": {"max_new_tokens": -1}}, "benchmarks.gsm8k.max_new_tokens: -1, expected a positive integer"),
    ],
)
def test_a_wrong_key_of_a_benchmark(files: Path, benchmarks: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of(files, benchmarks=benchmarks, questions=[])
    assert said in caught.value.message and "1 problem" in caught.value.message


def test_the_keys_of_held_out_are_those_that_it_is_evaluated_with(files: Path, tmp_path: Path) -> None:
    """It was ignored: all rows were measured, and the report said that one was."""
    keys = {"limit": 3, "max_new_tokens": 1}
    arms = {"base": {"tuned": False}, "lora": {}}
    study = study_of(files, arms=arms, seeds=[0], benchmarks={"held-out": keys})
    run_study(study, tmp_path)
    for cell in cells_of(study):
        if cell.benchmark:
            done = read_cell(tmp_path, cell.key)
            assert done is not None
            scores = json.loads((tmp_path / done.folder / "scores.json").read_text())["scores"]
            assert {score["n"] for score in scores} == {3}, cell.title
    caveats = " ".join(study_report(tmp_path).not_proved)
    assert "held-out was evaluated on 3 of " in caveats
    other = study_of(files, arms=arms, seeds=[0], benchmarks={"held-out": {**keys, "limit": 4}})
    assert {cell.key for cell in cells_of(other) if cell.benchmark}.isdisjoint(
        {cell.key for cell in cells_of(study)}
    ), "another limit is another evaluation"
    assert [cell.key for cell in cells_of(other) if not cell.benchmark] == [
        cell.key for cell in cells_of(study) if not cell.benchmark
    ], "of the same training"
    run_study(other, tmp_path)
    assert "held-out was evaluated on 4 of " in " ".join(study_report(tmp_path).not_proved)
