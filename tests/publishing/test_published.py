"""What leaves the house is prompted by other programs as it was trained: template and end tokens go with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from gguf import GGUFReader
from tiny_tokenizers import CHATML, byte_tokenizer
from transformers import AutoTokenizer

from tunelab.answering.chat import chat_with_model, chat_with_run
from tunelab.answering.generate import open_responder
from tunelab.data.prompts import as_prompts
from tunelab.publishing.export import export
from tunelab.publishing.merge import merge
from tunelab.publishing.quantize import quantize
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune

SHOUT = (
    CHATML.replace("message['role']", "message['role']|upper")
    + "{% if add_generation_prompt %}<|im_start|>ASSISTANT\n{% endif %}"
)
TURNS = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instruct model: its tokenizer has a chat template, its configuration names an end token more."""
    folder = tmp_path_factory.mktemp("instruct") / "base"
    model = tiny.tiny_model("llama", vocab_size=300, max_position_embeddings=512, intermediate_size=64)
    model.generation_config.eos_token_id = [256, 65]
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def train(base: Path, rows: Path, folder: Path, template: str, **changes: Any) -> Run:
    jinja = folder / "shout.jinja"
    jinja.write_text(SHOUT)
    recipe = tiny.recipe(base, rows, folder / "run", data__held_out=4, train__steps=1, **changes)
    recipe["train"]["micro_batch_tokens"] = recipe["data"]["max_length"] = 512
    recipe["data"] |= {"template": template} | ({"chat_template": str(jinja)} if template == "chat" else {})
    run = finetune(recipe)
    jinja.write_text(CHATML)  # edited after training: nothing may use it
    return run


@pytest.fixture(scope="module", params=["chat", "alpaca"])
def run(request: pytest.FixtureRequest, base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(base, rows, tmp_path_factory.mktemp("run"), request.param)


def prompt_of(folder: Path) -> list[int]:
    """What another program prompts a folder's model with."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return list(tokenizer.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=True)["input_ids"])


def trained_prompt(run: Run) -> list[int]:
    (ids,) = open_responder(run).encode(as_prompts(["Hi"]))
    return ids


def field(path: Path, name: str) -> Any:
    """One key of a GGUF file; None if it is not there."""
    found = GGUFReader(path).get_field(name)
    return None if found is None else found.contents()


@pytest.mark.parametrize("to", ["hf", "peft", "compressed-tensors"])
def test_an_export_brings_the_template_it_was_trained_in(to: Any, run: Run, tmp_path: Path) -> None:
    export(run, tmp_path / "out", to=to, force=True)
    assert prompt_of(tmp_path / "out") == trained_prompt(run)
    if to != "peft":
        ends = json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"]
        assert sorted(ends) == sorted(open_responder(run).stop_token_ids) and {256, 65} < set(ends) | {0}


def test_a_merge_is_chatted_with_as_trained(run: Run, tmp_path: Path) -> None:
    merge(run, tmp_path / "merged")
    assert prompt_of(tmp_path / "merged") == trained_prompt(run)
    chat, own = chat_with_model(str(tmp_path / "merged")), chat_with_run(run)
    assert chat.template == "chat" and chat.session.stop_token_ids == own.session.stop_token_ids


def test_a_gguf_file_names_them(run: Run, tmp_path: Path) -> None:
    export(run, tmp_path / "out", to="ollama")
    model = tmp_path / "out/model.gguf"
    assert field(model, "tokenizer.chat_template") == AutoTokenizer.from_pretrained(run.adapter).chat_template
    stops = open_responder(run).stop_token_ids
    named = {field(model, f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")} - {None}
    assert named == set(stops)
    text = (tmp_path / "out/Modelfile").read_text(encoding="utf-8")
    assert text.count("PARAMETER stop") == len(stops)


def test_a_fully_trained_checkpoint_too(base: Path, rows: Path, tmp_path: Path) -> None:
    run = train(base, rows, tmp_path, "plain", method="full")
    assert prompt_of(run.model) == trained_prompt(run)
    assert {256, 65} <= set(json.loads((run.model / "generation_config.json").read_text())["eos_token_id"])


def test_a_quantized_model_keeps_its_own(base: Path, tmp_path: Path) -> None:
    quantize(str(base), tmp_path / "q", precision="int8")
    assert AutoTokenizer.from_pretrained(tmp_path / "q").chat_template == CHATML


def test_a_merge_needs_no_data(run: Run, rows: Path, tmp_path: Path) -> None:
    copy = Run(shutil.copytree(run.path, tmp_path / "run"))
    recipe = copy.recipe_file.read_text().replace(str(rows), str(tmp_path / "gone.jsonl"))
    copy.recipe_file.write_text(recipe)
    assert "gone.jsonl" in recipe
    merged = merge(copy, tmp_path / "merged")
    assert merged.quality is not None and merged.quality.tokens > 0
    copy.compared_rows.unlink()  # a run of before: not measured, and said so
    assert merge(copy, tmp_path / "unmeasured").quality is None
    assert "not measured" in export(copy, tmp_path / "exported", to="hf").checked


def test_answers_end_with_every_token_that_the_model_names(base: Path) -> None:
    stops = set(open_responder(model=str(base), template="alpaca").stop_token_ids)
    assert {256, 65} <= stops
    assert set(chat_with_model(str(base), template="alpaca").session.stop_token_ids) == stops


def test_a_named_template_file_comes_before_the_adapters(run: Run, base: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "peft", to="peft")
    (tmp_path / "own.jinja").write_text(CHATML)
    change = f"data.chat_template={tmp_path / 'own.jinja'}"
    responder = open_responder(model=str(base), adapter=tmp_path / "peft", changes=[change])
    assert responder.tokenizer.chat_template == CHATML


def test_an_instruct_model_is_trained_in_its_own_template(base: Path, rows: Path, tmp_path: Path) -> None:
    plain = tiny.model_folder(tmp_path / "plain", max_position_embeddings=512)
    for number, (model, template) in enumerate(((base, "chat"), (plain, "alpaca"))):
        recipe = tiny.recipe(model, rows, tmp_path / f"run-{number}", train__steps=1, train__micro_batch_tokens=512)
        del recipe["data"]["template"], recipe["data"]["max_length"]
        run = finetune(recipe)
        assert run.recipe.data.template == run.manifest["resolved"]["data.template"] == template
        assert run.recipe.train.dtype == run.manifest["resolved"]["train.dtype"] == "fp32"
