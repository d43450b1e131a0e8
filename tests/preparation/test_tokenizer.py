"""A recipe's tokenizer: which tokens it gets, which chat template, and what is refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tunelab.config import Recipe, parse_recipe, resolve
from tunelab.data.chat_templates import shipped_template, shipped_templates
from tunelab.data.messages import Conversation, Message
from tunelab.data.templates import get_template
from tunelab.errors import ModelError, UsageError
from tunelab.preparation.model import load_base
from tunelab.preparation.rows import row_encoder, with_template
from tunelab.preparation.tokenizer import (
    add_new_tokens,
    load_recipe_tokenizer,
    new_token_ids,
    split_template_tokens,
    with_named_tokens,
)

ASKED = Conversation((Message("user", "red"), Message("assistant", "blue")))
ZEPHYR = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n'}}"
    "{% endfor %}"
)


@pytest.fixture(scope="module")
def base(models: dict[str, Path]) -> Path:
    return models["llama"]


def recipe(model: Path, *, new_tokens: Any = None, **data: Any) -> Recipe:
    return resolve(
        parse_recipe({"model": {"name": str(model), "new_tokens": new_tokens}, "data": {"sources": ["alpaca"], **data}})
    )


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "phi3"])
def test_a_template_by_name_whose_tokens_are_split_is_refused_with_the_remedy(base: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"are not in the tokenizer's vocabulary, which splits such a token") as caught:
        load_recipe_tokenizer(recipe(base, template=name))
    assert caught.value.hint == "set model.new_tokens=template to add and train these tokens", "pieces would not do"
    known = recipe(base, template=name, new_tokens="template")
    tokenizer = load_recipe_tokenizer(known)
    row = row_encoder(tokenizer, known).encode(ASKED)
    ends = [id for id, is_answer in zip(row.input_ids.tolist(), row.answer_mask.tolist(), strict=True) if is_answer]
    assert tokenizer.decode(ends[:-1]) == "blue"
    assert ends[-1] in new_token_ids(with_named_tokens(known), tokenizer)


def test_mistral_s_template_needs_no_new_tokens(base: Path) -> None:
    tokenizer = load_recipe_tokenizer(recipe(base, template="mistral"))
    text = tokenizer.apply_chat_template([{"role": "user", "content": "red"}], tokenize=False)
    assert text == "[INST] red [/INST]"


def test_template_names_the_tokens_that_the_tokenizer_lacks_once(base: Path) -> None:
    known = with_template(recipe(base, template="chatml", new_tokens="template"), tiny.tiny_tokenizer())
    assert known.model.new_tokens == ("<|im_start|>", "<|im_end|>")
    tokenizer = load_recipe_tokenizer(known)
    assert new_token_ids(known, tokenizer) == [258, 259]
    assert split_template_tokens(known, tokenizer) == ()


def test_tokens_that_only_turns_with_tools_write_are_new_where_rows_have_tools(base: Path, tmp_path: Path) -> None:
    template = shipped_template("chatml").replace("<tool_call>", "<|call|>")
    (tmp_path / "calls.jinja").write_text(template, encoding="utf-8")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "plain.jsonl").write_text(json.dumps({"messages": turns}), encoding="utf-8")
    turns[1] = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"city": "Oslo"}}]}  # type: ignore[dict-item]
    (tmp_path / "tools.jsonl").write_text(json.dumps({"messages": turns, "tools": [{"name": "f"}]}), encoding="utf-8")
    named = {}
    for rows in ("plain", "tools"):
        data = {"sources": [str(tmp_path / f"{rows}.jsonl")], "chat_template": str(tmp_path / "calls.jinja")}
        with pytest.raises(UsageError, match=r"<\|im_end\|>(, <\|call\|>)? are not in the tokenizer's vocabulary"):
            load_recipe_tokenizer(recipe(base, **data))
        named[rows] = with_named_tokens(recipe(base, new_tokens="template", **data)).model.new_tokens
    assert named["plain"] == ("<|im_start|>", "<|im_end|>")
    assert named["tools"] == (*named["plain"], "<|call|>")


def test_a_template_s_tokens_may_stay_in_pieces_where_that_is_asked_for(base: Path, tmp_path: Path) -> None:
    (tmp_path / "zephyr.jinja").write_text(ZEPHYR, encoding="utf-8")
    file = str(tmp_path / "zephyr.jinja")
    with pytest.raises(
        UsageError, match=r"chat template's <\|system\|>, <\|user\|>, <\|assistant\|> are not in"
    ) as caught:
        load_recipe_tokenizer(recipe(base, chat_template=file))
    assert "or model.new_tokens=[] to train on the pieces" in caught.value.hint
    known = recipe(base, chat_template=file, new_tokens=[])
    row = row_encoder(load_recipe_tokenizer(known), with_template(known, load_recipe_tokenizer(known))).encode(ASKED)
    assert len(row.input_ids) > len("<|user|>")


def test_the_tokenizer_s_own_template_may_be_in_pieces(tmp_path: Path) -> None:
    tiny.model_folder(tmp_path / "own")
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = ZEPHYR
    tokenizer.save_pretrained(tmp_path / "own")
    known = recipe(tmp_path / "own", template="chat")
    assert split_template_tokens(known, load_recipe_tokenizer(known)) == ("<|system|>", "<|user|>", "<|assistant|>")


def test_tokens_that_only_data_has_are_shown_in_answers_and_read_in_text_templates(base: Path) -> None:
    known = recipe(base, template="plain", new_tokens=["<|sep|>"])
    tokenizer = load_recipe_tokenizer(known)
    row = row_encoder(tokenizer, known).encode(Conversation((Message("user", "a"), Message("assistant", "b<|sep|>c"))))
    assert new_token_ids(known, tokenizer)[0] in row.input_ids.tolist()
    assert tokenizer.decode(row.input_ids.tolist(), skip_special_tokens=True).endswith("b<|sep|>c")


def test_a_token_that_the_vocabulary_has_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model.new_tokens: '<eos>' is in the tokenizer's vocabulary already"):
        add_new_tokens(tiny.tiny_tokenizer(), ["<eos>"])


def test_a_new_token_starts_from_the_words_that_a_mapping_gives(base: Path) -> None:
    known = recipe(base, template="plain", new_tokens={"<think>": "red", "<end>": None})
    assert parse_recipe(known.model_dump(mode="json", by_alias=True)) == known
    tokenizer = load_recipe_tokenizer(known)
    assert tokenizer.convert_ids_to_tokens(new_token_ids(known, tokenizer)) == ["<think>", "<end>"]
    table = load_base(known, tokenizer).get_input_embeddings().weight
    think, end = new_token_ids(known, tokenizer)
    assert torch.allclose(table[think], table[tokenizer("red")["input_ids"]].mean(0), atol=1e-6)
    assert torch.allclose(table[end], table[:think].mean(0), atol=1e-6)
    with pytest.raises(UsageError, match="'<a>' starts from 'x<b>', which is not text that the tokenizer had before"):
        load_recipe_tokenizer(recipe(base, template="plain", new_tokens={"<a>": "x<b>", "<b>": "y"}))


def test_new_tokens_of_a_text_template_are_refused(base: Path) -> None:
    with pytest.raises(UsageError, match=r"model.new_tokens is template, but the prompt template is a text template"):
        load_recipe_tokenizer(recipe(base, template="alpaca", new_tokens="template"))


def test_a_base_model_without_a_template_is_told_which_there_are(base: Path) -> None:
    with pytest.raises(ModelError, match="this tokenizer has no chat template") as caught:
        get_template("chat", tiny.tiny_tokenizer())
    assert "data.template=chatml" in caught.value.hint


def test_one_of_several_named_templates_is_chosen(tmp_path: Path) -> None:
    tiny.model_folder(tmp_path / "model")
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = {"rag": "{{ messages[0].content }}", "short": ZEPHYR}
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"several chat templates \(rag, short\) and no default"):
        get_template("chat", load_recipe_tokenizer(recipe(tmp_path / "model", template="chat")))
    with pytest.raises(UsageError, match=r"data.chat_template: shor: neither a file nor one of the tokenizer's chat"):
        load_recipe_tokenizer(recipe(tmp_path / "model", chat_template="shor"))
    chosen = load_recipe_tokenizer(recipe(tmp_path / "model", chat_template="short", new_tokens=[]))
    assert chosen.chat_template == ZEPHYR


def test_a_template_begins_with_what_the_tokenizer_puts_before_a_text() -> None:
    assert shipped_template("chatml", "<s>").startswith('{{- "<s>" }}\n')
    assert shipped_templates() == ("chatml", "gemma", "llama3", "mistral", "phi3")
