"""Opening a chat: asked is what the run saved, base and tuned are the right weights, refusals have a remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_tokenizers import CHATML, byte_tokenizer

from tunelab.answering.chat import Chat, chat_with_model, chat_with_run
from tunelab.errors import ModelError, RunError, UsageError
from tunelab.inference import engine
from tunelab.inference.row import Generation
from tunelab.inference.sampling import Decoding
from tunelab.models.adapters import load_adapter
from tunelab.models.load import load_model
from tunelab.preparation import model as preparation
from tunelab.training.finetune import finetune


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and beside it a run with an adapter and one that trained every weight."""
    root = tmp_path_factory.mktemp("chat")
    model, rows = tiny.model_folder(root / "base"), tiny.rows_file(root / "rows.jsonl")
    finetune(tiny.recipe(model, rows, root / "lora", train__lr=0.1))
    finetune(tiny.recipe(model, rows, root / "full", method="full"))
    return root


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The logits that each answer would begin with: [vocabulary] each."""
    seen: list[torch.Tensor] = []

    def stream(model: Any, tokenizer: Any, prompt_ids: Any, decoding: Any, *, stop_token_ids: Any) -> Iterator[str]:
        with torch.no_grad():
            seen.append(model(input_ids=torch.tensor([list(prompt_ids)])).logits[0, -1])
        yield " ok"
        return Generation(0, (), "ok", "stop", len(prompt_ids))  # type: ignore[return-value]

    monkeypatch.setattr(engine, "stream", stream)
    return seen


def ask(chat: Chat, which: str) -> tuple[int, ...]:
    chat.session.reset()
    chat.session.answer_with(which)
    reply = chat.session.ask("What?")
    list(reply.pieces)
    return reply.prompt_ids


def expected_logits(model: Any, prompt: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([prompt])).logits[0, -1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_base_and_tuned_are_the_runs_own(
    kind: str, folder: Path, logits: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    real = preparation.load_model

    def counted(name: str, **options: Any) -> Any:
        loads.append(Path(name).name)
        return real(name, **options)

    monkeypatch.setattr(preparation, "load_model", counted)
    chat = chat_with_run(folder / kind)
    assert loads == (["base"] if kind == "lora" else ["model"])
    assert chat.session.decoding == Decoding(max_new_tokens=tiny.CONTEXT // 2), "half the window is for the question"
    assert chat.session.answering == "tuned" and chat.template == "plain"
    assert str(folder / kind) in chat.title and str(folder / "base") in chat.title
    for which in ("tuned", "base", "tuned", "both"):
        prompt = ask(chat, which)
    assert loads == (["base"] if kind == "lora" else ["model", "base"]), "each is loaded once, when it is first asked"
    base = load_model(str(folder / "base"), dtype=torch.float32)
    of_base = expected_logits(base, prompt)
    tuned = (
        load_adapter(base, folder / "lora/adapter")
        if kind == "lora"
        else real(str(folder / "full/model"), dtype=torch.float32)
    )
    of_tuned = expected_logits(tuned, prompt)
    assert (of_base - of_tuned).abs().max() > 1e-2
    for seen, wanted in zip(logits, (of_tuned, of_base, of_tuned, of_base, of_tuned), strict=True):
        assert torch.allclose(seen, wanted, atol=1e-5)


def test_a_model_with_an_adapter_is_asked_as_its_run_is(folder: Path, logits: list[torch.Tensor]) -> None:
    of_run, chat = (
        chat_with_run(folder / "lora"),
        chat_with_model(
            str(folder / "base"), adapter=folder / "lora/adapter", decoding=Decoding(temperature=0.5, max_new_tokens=9)
        ),
    )
    assert chat.template == "plain", "the adapter lies in a run, whose template it was trained with"
    assert ask(chat, "both") == ask(of_run, "both")
    assert torch.equal(logits[0], logits[2]) and torch.equal(logits[1], logits[3])
    assert chat.session.decoding == Decoding(temperature=0.5, max_new_tokens=9)
    assert (
        chat_with_model(str(folder / "base"), adapter=folder / "lora/adapter", template="alpaca").template == "alpaca"
    )


def test_an_adapter_that_lies_apart_brings_its_template(
    folder: Path, tmp_path: Path, logits: list[torch.Tensor]
) -> None:
    shutil.copytree(folder / "lora/adapter", tmp_path / "adapter")
    apart = chat_with_model(str(folder / "base"), adapter=tmp_path / "adapter")
    assert apart.template == "chat" and chat_with_run(folder / "lora").template == "plain"
    assert ask(apart, "tuned") == ask(chat_with_run(folder / "lora"), "tuned")


def test_a_model_alone_is_asked_in_its_own_template(folder: Path, tmp_path: Path, logits: list[torch.Tensor]) -> None:
    plain = chat_with_model(str(folder / "base"))
    assert (plain.template, plain.session.answering, plain.title) == ("alpaca", "base", str(folder / "base"))
    # The Alpaca wording takes 145 bytes, and this model's window has 128 tokens.
    with pytest.raises(ModelError, match="the question is too long: 145 tokens"):
        ask(plain, "base")
    shutil.copytree(folder / "base", tmp_path / "model")
    tiny.tiny_model("llama", vocab_size=300).save_pretrained(tmp_path / "model")
    tokenizer = byte_tokenizer()
    assert tokenizer.chat_template == CHATML
    tokenizer.save_pretrained(tmp_path / "model")
    chat = chat_with_model(str(tmp_path / "model"))
    assert chat.template == "chat"
    assert tokenizer.decode(ask(chat, "base")) == "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(UsageError, match="no template named 'alpca'; did you mean 'alpaca'"):
        chat_with_model(str(folder / "base"), template="alpca")
    with pytest.raises(ModelError, match="this tokenizer has no chat template"):
        chat_with_model(str(folder / "base"), template="chat")


def test_a_run_is_asked_with_its_own_chat_template_and_tokenizer(
    folder: Path, tmp_path: Path, logits: list[torch.Tensor]
) -> None:
    model = tmp_path / "model"
    tiny.tiny_model("llama", vocab_size=300).save_pretrained(model)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(model)
    jinja = tmp_path / "shout.jinja"
    jinja.write_text(CHATML.replace("message['role']", "message['role']|upper"))
    recipe = tiny.recipe(model, folder / "rows.jsonl", tmp_path / "run", data__template="chat", train__steps=1)
    recipe["data"]["chat_template"] = str(jinja)
    chat = chat_with_run(finetune(recipe))
    text = tokenizer.decode(ask(chat, "tuned"))
    assert text == "<|im_start|>USER\nWhat?<|im_end|>\n<|im_start|>ASSISTANT\n"
    assert chat.session.stop_token_ids == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    jinja.write_text(CHATML)  # the run keeps the text that its rows were rendered with
    assert tokenizer.decode(ask(chat_with_run(tmp_path / "run"), "tuned")) == text
    jinja.unlink()
    assert tokenizer.decode(ask(chat_with_run(tmp_path / "run"), "tuned")) == text
    kept = tmp_path / "run/tokenizer/chat_template.jinja"
    kept.write_text(CHATML)
    with pytest.raises(RunError, match=r"chat_template.jinja: not the chat template that the run was trained with"):
        chat_with_run(tmp_path / "run")


def test_the_window_is_the_models(folder: Path) -> None:
    chat = chat_with_run(folder / "full", decoding=Decoding(max_new_tokens=28))
    with pytest.raises(ModelError, match=f"window of {tiny.CONTEXT} minus max_new_tokens=28 leaves 100"):
        chat.session.ask("long " * 50)


def test_what_is_no_finished_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run there \(no recipe.yaml\)"):
        chat_with_run(tmp_path)
    shutil.copytree(folder / "lora", tmp_path / "copy")
    manifest = tmp_path / "copy/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "status": "interrupted"}))
    with pytest.raises(RunError, match="the run is interrupted, not finished") as caught:
        chat_with_run(tmp_path / "copy")
    assert caught.value.hint == f"tunelab train --resume {tmp_path / 'copy'}"


def test_what_is_no_model_or_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no adapter found"):
        chat_with_model(str(folder / "base"), adapter=tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        chat_with_model(str(tmp_path / "nowhere"))
