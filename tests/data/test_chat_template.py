"""A text template leaves as a chat template that renders the same tokens, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from real_tokenizers import load_real_tokenizer
from tiny import tiny_tokenizer
from tiny_tokenizers import byte_tokenizer

from tunelab.data.chat_template import as_chat_template
from tunelab.data.messages import Conversation, Message
from tunelab.data.templates import TEXT_TEMPLATES
from tunelab.data.tokenize import RowEncoder

CONVERSATIONS = (
    (Message("user", "What's 7 x 8?\n"), Message("assistant", "56.")),
    (Message("system", "Answer in French: {content}"), Message("user", 'Hi "you"'), Message("assistant", "Salut")),
    tuple(Message(("user", "assistant")[n % 2], f"turn {n} of 6, 50% {{input}}") for n in range(6)),
)


def rendered(tokenizer: Any, source: str, turns: tuple[Message, ...], *, prompt: bool) -> list[int]:
    """Tokens as transformers and vLLM make them of a chat template."""
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=source, add_generation_prompt=prompt, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def check(tokenizer: Any, template: str) -> None:
    source = as_chat_template(TEXT_TEMPLATES[template], tokenizer)
    assert source is not None
    encoder = RowEncoder(tokenizer, TEXT_TEMPLATES[template])
    for turns in CONVERSATIONS:
        row = encoder.encode(Conversation(turns))
        assert rendered(tokenizer, source, turns, prompt=False) == row.input_ids.tolist()
        assert rendered(tokenizer, source, turns[:-1], prompt=True) == row.input_ids[: row.prompt_length].tolist()


@pytest.mark.parametrize("template", TEXT_TEMPLATES)
@pytest.mark.parametrize("make", [tiny_tokenizer, byte_tokenizer])
def test_it_renders_the_same_tokens(template: str, make: Any) -> None:
    check(make(), template)


@pytest.mark.parametrize(
    "template", ["alpaca", *(pytest.param(name, marks=pytest.mark.slow) for name in TEXT_TEMPLATES if name != "alpaca")]
)
@pytest.mark.parametrize("name", ["gpt2", "llama2", pytest.param("llama3", marks=pytest.mark.slow), "phi3"])
def test_it_does_with_real_tokenizers(name: str, template: str, shared_data: Path, tmp_path: Path) -> None:
    check(load_real_tokenizer(name, shared_data, tmp_path), template)


def test_none_is_written_where_the_tokens_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer()
    monkeypatch.setattr(type(tokenizer), "apply_chat_template", lambda self, turns, **how: "another text")
    assert as_chat_template(TEXT_TEMPLATES["alpaca"], tokenizer) is None
