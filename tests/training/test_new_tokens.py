"""Runs with new tokens: trained, resumed, evaluated, answered from, merged and exported as one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunelab.answering.generate import open_responder
from tunelab.answering.held_out_evaluation import evaluate
from tunelab.models.adapters import load_adapter
from tunelab.preparation.base import run_tokenizer, trained_recipe
from tunelab.preparation.model import load_base
from tunelab.publishing.export import export
from tunelab.publishing.merge import merge
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune, resume

TOKENS = ("<|im_start|>", "<|im_end|>")


def trained(model: Path, rows: Path, out: Path, *said: list[str], **changes: Any) -> Run:
    usual: dict[str, Any] = {"model__new_tokens": "template", "data__template": "chatml", "data__held_out": 4}
    notify = [sentences.append for sentences in said] or [lambda sentence: None]
    return finetune(tiny.recipe(model, rows, out, **{**usual, **changes}), notify=notify[0])


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tied table that is too short for new tokens."""
    folder = tmp_path_factory.mktemp("short")
    return tiny.model_folder(folder / "model", "llama", tie_word_embeddings=True, vocab_size=258)


@pytest.fixture(scope="module")
def run(short: Path, rows: Path) -> Run:
    return trained(short, rows, short.parent / "run")


def test_the_run_keeps_the_tokens_by_name_and_learns(run: Run) -> None:
    assert run.recipe.model.new_tokens == TOKENS
    assert run_tokenizer(run).convert_tokens_to_ids(list(TOKENS)) == [258, 259]
    assert run.manifest["held_out_loss_after"] < run.manifest["held_out_loss_before"]


def test_the_merged_model_in_plain_transformers_is_the_trained_one(run: Run, tmp_path: Path) -> None:
    tokenizer = run_tokenizer(run)
    trained_model = load_adapter(load_base(trained_recipe(run), tokenizer), run.adapter)
    merge(run, tmp_path / "merged")
    read = AutoTokenizer.from_pretrained(tmp_path / "merged")
    text = read.apply_chat_template([{"role": "user", "content": "red"}], tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([read(text, add_special_tokens=False)["input_ids"]])
    assert ids[0, 0] == 258
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(merged(input_ids=ids).logits, trained_model(input_ids=ids).logits, atol=1e-4)
    assert merged.config.tie_word_embeddings and merged.config.vocab_size == 260


def test_it_is_evaluated_and_answers(run: Run) -> None:
    scores = evaluate(run)
    assert scores.loss_change is not None and scores.loss_change.value < 0
    base, tuned = (open_responder(run, arm=arm) for arm in ("base", "tuned"))
    adapter = open_responder(model=run.recipe.model.name, adapter=run.adapter)
    answers = [{one.item: one.text for one in model.answer(["red", "blue"])} for model in (base, tuned, adapter)]
    assert answers[0] != answers[1] == answers[2]


def test_the_card_s_code_loads_it_in_plain_peft(run: Run) -> None:
    card = (run.adapter / "README.md").read_text(encoding="utf-8")
    code = card.rpartition("```python\n")[2].partition("```")[0]
    place = code.replace("path/to/this/folder", str(run.adapter)).replace('("model")', f'("{run.recipe.model.name}")')
    found: dict[str, Any] = {}
    exec(place, found)
    ids = torch.tensor([found["tokenizer"](TOKENS[0] + "red" + TOKENS[1])["input_ids"]])
    ours = load_adapter(load_base(trained_recipe(run), run_tokenizer(run)), run.adapter)
    assert torch.allclose(found["model"].eval()(input_ids=ids).logits, ours(input_ids=ids).logits, atol=1e-4)


def test_a_resumed_run_is_the_same_run(run: Run, short: Path, rows: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(stage: str, done: int, *_: Any) -> None:
        if stage.startswith("train") and done == 3:
            raise Killed

    usual = {"model__new_tokens": "template", "data__template": "chatml", "data__held_out": 4, "train__save_every": 2}
    with pytest.raises(Killed):
        finetune(tiny.recipe(short, rows, tmp_path / "again", **usual), progress=kill)
    again = resume(tmp_path / "again")
    assert again.manifest["weights_after"] == run.manifest["weights_after"]


def test_its_gguf_file_has_the_tokens(run: Run, tmp_path: Path) -> None:
    assert "tensors read back and compared" in export(run, tmp_path / "gguf", to="gguf").checked


@pytest.mark.parametrize("changes", [{"method": "full"}, {"precision": "nf4"}], ids=["full", "nf4"])
def test_a_table_padded_beyond_its_tokenizer_stays_as_long(
    changes: dict[str, Any], models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    made = trained(models["llama"], rows, tmp_path / "run", said, model__new_tokens=[*TOKENS, "<never>"], **changes)
    assert "3 new tokens: <|im_start|>, <|im_end|>, <never>" in said
    assert "warning: no training row has <never>: the embedding stays where it starts" in said
    answer = next(open_responder(made).answer(["red"]))
    assert answer.prompt_tokens > 0
    model: Any = open_responder(made).model
    assert model.get_input_embeddings().weight.shape[0] == tiny.VOCABULARY
