"""`--scale tiny`: a study runs with nothing from outside, says so first, and uses what is here or was named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny
from tiny_studies import STUDIES

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts import stand_ins as script
from tunelab import plugins
from tunelab.cli.main import main
from tunelab.config.study import load_study
from tunelab.data.reader import load_examples
from tunelab.errors import DataError, ModelError
from tunelab.evaluation.benchmarks import tinymmlu
from tunelab.report.content import Verdict
from tunelab.studies.stand_ins import FAMILIES, FOLDER, ITEMS, ROWS, stand_in_config, stand_in_tokenizer
from tunelab.studies.tiny_scale import at_tiny_scale
from tunelab.studies.toy_model import shrunk

BY_NAME = {path.stem: path for path in STUDIES}
RANDOM = "Tiny scale, a smoke test: the weights are random; stand-ins replace the tokenizer"


def test_what_ships_is_what_the_script_writes(tmp_path: Path) -> None:
    script.write(tmp_path)
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    shipped = {path.relative_to(FOLDER): path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    assert written == {name: content for name, content in shipped.items() if name.name != "README.md"}


@pytest.mark.parametrize("source", ROWS)
def test_stand_in_rows_are_in_their_source_s_form(source: str) -> None:
    options = {"oasst1": {"paths": "best", "language": "en"}, "columns": {"prompt": "query", "completion": "response"}}
    name = "columns" if "/" in source else source  # a data set on the hub, read by its columns
    loaded = load_examples(name, path=ROWS[source], options=options.get(name, {}))
    assert len(loaded.examples) >= 72 and not loaded.bad_rows
    if name == source:
        assert load_examples("auto", path=ROWS[source]).examples, "its form is recognized by its columns"


def test_rows_of_a_data_set_on_the_hub_have_stand_ins_of_its_own_or_of_its_source(tmp_path: Path) -> None:
    sources = {}
    for name in ("llama32-3b-metamathqa-peft", "llama32-1b-alpaca2k-own-rates"):
        study, _ = at_tiny_scale(load_study(name, scale="tiny"), tmp_path)
        (source,) = study.arm_recipe("base", 0).data.sources
        sources[name] = source
        assert source.repository is None
    peft, litgpt = sources.values()
    assert (peft.name, peft.path) == ("columns", str(ROWS["meta-math/MetaMathQA"]))
    assert (litgpt.name, litgpt.path) == ("alpaca", str(ROWS["alpaca"]))
    assert "the rows of mhenrichsen/alpaca_2k_test" in study.note


def test_an_adapter_of_numbered_layers_fits_the_toy(tmp_path: Path) -> None:
    changes = ["recipe.adapter.layers=[20]", "recipe.adapter.targets='.*q_proj'"]
    asked = load_study("llama32-3b-metamathqa-peft", changes, scale="tiny")
    study, _ = at_tiny_scale(asked, tmp_path)
    for arm in study.arms:
        adapter = study.arm_recipe(arm, 0).adapter
        assert (adapter.targets, adapter.layers) == ("all-linear", None)
        assert adapter.rank == asked.arm_recipe(arm, 0).adapter.rank


@pytest.mark.parametrize("name", ITEMS)
def test_stand_in_items_are_in_their_benchmark_s_form(name: str) -> None:
    module = plugins.load("evaluation/benchmarks", name)
    assert len(module.items(ITEMS[name], module.Options())) >= 8


def test_every_built_in_benchmark_has_stand_ins() -> None:
    modules = {name: plugins.load("evaluation/benchmarks", name) for name in plugins.names("evaluation/benchmarks")}
    assert set(ITEMS) == {name for name, module in modules.items() if module.BENCHMARK.shipped is None}


def test_stand_ins_of_tinymmlu_say_that_they_are_and_only_their_file_is_exempt(tmp_path: Path) -> None:
    items = tinymmlu.items(ITEMS["tinymmlu"], tinymmlu.Options(shots=5))
    assert [one.id for one in items[:2]] == ["stand_in_animals/0", "stand_in_trades/1"]
    assert items[0].examples.count("Answer:") == 5
    (tmp_path / "mmlu.jsonl").write_text((ITEMS["tinymmlu"] / "stand_ins.jsonl").read_text())
    with pytest.raises(DataError, match="row 1 is not one of tinyMMLU's 100 items"):
        tinymmlu.items(tmp_path, tinymmlu.Options(shots=0))


@pytest.mark.parametrize("path", STUDIES, ids=list(BY_NAME))
def test_every_published_model_is_in_the_table(path: Path) -> None:
    study = load_study(path)
    assert {study.arm_recipe(arm, 0).model.name for arm in study.arms} <= set(FAMILIES)


def toy_config(name: str) -> Any:
    family = FAMILIES[name]
    return shrunk(stand_in_config(family, stand_in_tokenizer(family)))


def test_a_toy_keeps_its_family_s_special_numbers() -> None:
    llama31, llama2 = toy_config("meta-llama/Llama-3.1-8B"), toy_config("meta-llama/Llama-2-7b-hf")
    assert (llama31.num_attention_heads, llama31.num_key_value_heads, llama2.num_key_value_heads) == (4, 1, 4)
    assert llama31.rope_parameters["rope_type"] == "llama3" and llama31.rope_parameters["rope_theta"] == 500000.0
    assert toy_config("distilgpt2").tie_word_embeddings and not llama31.tie_word_embeddings
    assert toy_config("microsoft/Phi-3-mini-4k-instruct").sliding_window == 2047
    llama32, qwen3 = toy_config("meta-llama/Llama-3.2-3B"), toy_config("Qwen/Qwen3-0.6B-Base")
    assert llama32.rope_parameters["factor"] == 32.0 and llama32.tie_word_embeddings
    assert qwen3.model_type == "qwen3" and (qwen3.head_dim, qwen3.num_key_value_heads) == (16, 2)
    stories = toy_config("raincandy-u/TinyStories-656K")
    assert stories.tie_word_embeddings and stories.num_key_value_heads == 2


def test_a_tokenizer_has_its_family_s_conventions() -> None:
    llama = stand_in_tokenizer(FAMILIES["meta-llama/Llama-2-7b-hf"])
    assert llama("Ada").input_ids[0] == llama.bos_token_id and llama.chat_template is None
    instruct = stand_in_tokenizer(FAMILIES["meta-llama/Llama-3.1-8B-Instruct"])
    assert instruct.eos_token == "<|eot_id|>"
    phi = stand_in_tokenizer(FAMILIES["microsoft/Phi-3-mini-4k-instruct"])
    asked = phi.apply_chat_template([{"role": "user", "content": "Ada"}], add_generation_prompt=True, tokenize=False)
    assert asked == "<|user|>\nAda<|end|>\n<|assistant|>\n" and phi("<|end|>").input_ids == [phi.vocab["<|end|>"]]


def test_published_values_are_left_out() -> None:
    path = BY_NAME["llama2-oasst1-qlora-vs-lora"]
    assert load_study(path).published and load_study(path, scale="tiny").published == ()


def test_what_is_named_is_used(tmp_path: Path, rows: Path, models: dict[str, Path]) -> None:
    path = BY_NAME["llama2-oasst1-qlora-vs-lora"]
    (tmp_path / "mmlu").mkdir()
    named = [
        f"model={models['llama']}",
        f"recipe.data.sources=[{rows}]",
        f"benchmarks.mmlu.data={tmp_path / 'mmlu'}",
    ]
    study, toys = at_tiny_scale(load_study(path, named, scale="tiny"), tmp_path, named)
    recipe = study.arm_recipe("lora", 0)
    assert (recipe.model.name, recipe.data.sources[0].path, toys) == (str(models["llama"]), str(rows), [])
    assert study.benchmarks["mmlu"]["data"] == str(tmp_path / "mmlu")
    assert study.note == "Tiny scale, a smoke test: a few steps on a few rows. No figure here means anything."


def test_what_is_named_and_not_here_is_fetched_or_refused(tmp_path: Path) -> None:
    named = ["model=distilgpt2"]
    study = load_study(BY_NAME["distilgpt2-qlora-vs-full"], named, scale="tiny")
    with pytest.raises(ModelError, match="distilgpt2: not on this machine"):
        at_tiny_scale(study, tmp_path, named)


def test_what_is_in_the_caches_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, rows and items as the hub's libraries leave them."""
    import datasets
    import huggingface_hub

    held = tmp_path / "cache" / "models--distilgpt2"
    tiny.model_folder(held / "snapshots" / "c0ffee", "gpt2", n_embd=160)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list([{"instruction": "a"}]))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "items"))
    study = load_study(BY_NAME["distilgpt2-qlora-vs-full"], ["benchmarks.mmlu.shots=0"], scale="tiny")

    partly, toys = at_tiny_scale(study, tmp_path)
    assert toys[0].tokenizer.eos_token == "<eos>" and "sources" not in partly.arms["qlora"].recipe.get("data", {})
    assert "the weights are random; stand-ins replace the items of mmlu." in partly.note
    for split in ("test", "dev"):
        (tmp_path / "items" / "all").mkdir(parents=True, exist_ok=True)
        (tmp_path / "items" / "all" / f"{split}-0.parquet").touch()
    fully, _ = at_tiny_scale(study, tmp_path)
    assert "data" not in fully.benchmarks["mmlu"]
    assert fully.note == "Tiny scale, a smoke test: the weights are random. No figure here means anything."


def run_tiny(path: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    """Run a study at tiny scale and look at what it says first; its report."""
    assert main(["study", "run", str(path), "--scale", "tiny", "--out", str(out), *more]) == 0
    shown = capsys.readouterr()
    note = shown.out.splitlines()[0]
    assert note.startswith(RANDOM) and note.endswith("No figure here means anything.")
    assert shown.err.splitlines()[0] == note, "said before anything runs"
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["note"] == note and report["published"] == []
    assert (out / "report.md").read_text(encoding="utf-8").splitlines()[2] == f"**{note}**"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.index(note) < page.index("<h1>") and "Published and measured" not in page
    assert {arm["status"] for arm in report["arms"]} == {"done"}
    return report


def test_a_study_runs_with_nothing_from_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The smallest; all are in the slow tests."""
    report = run_tiny(BY_NAME["phi3-alpaca-cleaned"], tmp_path, capsys)
    assert f"{RANDOM} and the rows of alpaca-cleaned." in report["note"]
    assert report["arms"][0]["model"] == "tiny-random-microsoft--Phi-3-mini-4k-instruct"


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=list(BY_NAME))
def test_every_study_runs_with_nothing_from_outside(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_tiny(path, tmp_path, capsys)
    study = load_study(path, scale="tiny")
    assert len(report["questions"]) == len(study.questions) and report["comparisons"]
    assert {one["verdict"] for one in report["questions"]} <= {*get_args(Verdict)} - {"unknown"}
    assert not any("were not compared" in sentence for sentence in report["not_proved"])


def test_a_dry_run_lists_the_jobs_that_a_run_would_have_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    path = str(BY_NAME["phi3-alpaca-cleaned"])
    assert main(["study", "run", path, "--scale", "tiny", "--out", str(out), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith(RANDOM) and "tuned, seed 0: training" in shown.out and not out.exists()
