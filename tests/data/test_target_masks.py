"""Target masks are exact: every template x tokenizer on 1,000 Alpaca rows and on all OpenAssistant trees (in `make
test` on every 100th of them).

For each row, the learned tokens spell the answers and nothing else, and the tokens before the last answer are those
that a model is given to answer: tokenised alone they are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_tokenizers
from real_tokenizers import NAMES, load_real_tokenizer

from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.messages import Conversation, Message
from tunelab.data.reader import load_examples
from tunelab.data.templates import NAMES as TEMPLATES
from tunelab.data.templates import get_template
from tunelab.data.tokenize import EncodedRow, RowEncoder
from tunelab.errors import BadRow

LOADED: dict[str, Any] = {}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name == "llama3" else ()) for name in NAMES])
def tokenizer(request: pytest.FixtureRequest, shared_data: Path, tmp_path: Path) -> Any:
    name = request.param
    if name not in LOADED:
        LOADED[name] = load_real_tokenizer(name, shared_data, tmp_path)
    return LOADED[name]


@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_the_workers_of_a_run_have_the_same_tokenizers(
    name: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path))
    monkeypatch.setattr(real_tokenizers, "_READ", {})
    first = load_real_tokenizer(name, shared_data, tmp_path)
    real_tokenizers._READ.clear()
    monkeypatch.setattr(real_tokenizers, "_read", lambda *arguments: pytest.fail("read again"))
    second = load_real_tokenizer(name, shared_data, tmp_path)
    for text in ("<s> One\n\n two", "é😀<|endoftext|>"):
        assert second(text)["input_ids"] == first(text)["input_ids"]
    assert (type(second), second.chat_template) == (type(first), first.chat_template)
    assert second.backend_tokenizer.to_str() == first.backend_tokenizer.to_str()
    assert second.special_tokens_map == first.special_tokens_map


ENCODERS: dict[tuple[int, str], RowEncoder] = {}


def encoder_of(tokenizer: Any, template: str) -> RowEncoder:
    """The encoder of one of the LOADED tokenizers; made once, since it reads the whole vocabulary."""
    key = id(tokenizer), template
    if key not in ENCODERS:
        ENCODERS[key] = RowEncoder(tokenizer, get_template(template, tokenizer))
    return ENCODERS[key]


@pytest.fixture(scope="module")
def alpaca(shared_data: Path) -> list[Conversation]:
    rows = json.loads((shared_data / "alpaca/alpaca_cleaned.json").read_text(encoding="utf-8"))
    usable = [row for row in rows if row["output"].strip()][:1000]
    return [
        Conversation((Message("user", row["instruction"], row["input"]), Message("assistant", row["output"])))
        for row in usable
    ]


@pytest.fixture(scope="module")
def oasst(shared_data: Path) -> list[Conversation]:
    loaded = load_examples("oasst1", path=shared_data / "oasst/en_100_tree.jsonl", options={"paths": "all"})
    assert len({example.group for example in loaded.examples}) == 100
    return loaded.examples  # type: ignore[return-value]


def answer_runs(row: EncodedRow) -> Iterator[list[int]]:
    """Stretches of learned tokens, one an answer."""
    borders = np.flatnonzero(np.diff(np.concatenate([[0], row.answer_mask.astype(int), [0]])))
    for start, end in borders.reshape(-1, 2):
        yield row.input_ids[start:end].tolist()


def check_row(row: EncodedRow, conversation: Conversation, encoder: RowEncoder) -> None:
    tokenizer = encoder.tokenizer
    stops = set(encoder.stop_token_ids())
    runs = list(answer_runs(row))
    answers = [message.text for message in conversation.messages if message.role == "assistant"]
    assert len(runs) == len(answers)
    for run, answer in zip(runs, answers, strict=True):
        assert run[-1] in stops, "an answer's end of sequence is a target"
        spelled = tokenizer.decode(run, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert spelled.strip() == answer.strip()
    assert not row.answer_mask[0]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("data", ["alpaca", "oasst"])
@pytest.mark.parametrize("every", [100, pytest.param(1, marks=pytest.mark.slow)])
def test_targets_are_the_answers_and_nothing_else(
    template: str, data: str, every: int, tokenizer: Any, request: pytest.FixtureRequest
) -> None:
    encoder = encoder_of(tokenizer, template)
    conversations: list[Conversation] = request.getfixturevalue(data)
    together = encoder.encode_all(conversations[::every])
    for conversation, other in zip(conversations[::every], together, strict=True):
        row = encoder.encode(conversation)
        check_row(row, conversation, encoder)
        assert row.lost == ""
        assert isinstance(other, EncodedRow) and row.reference == other.reference
        assert np.array_equal(row.input_ids, other.input_ids) and np.array_equal(row.answer_mask, other.answer_mask)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_a_model_is_asked_with_the_very_tokens_it_was_trained_with(
    template: str, every: int, tokenizer: Any, alpaca: list[Conversation]
) -> None:
    encoder = encoder_of(tokenizer, template)
    for conversation in alpaca[:200:every]:
        row = encoder.encode(conversation)
        section = encoder.template.render(conversation)[0]
        prompt = section.segments[0].text
        alone = (
            encoder.leading_ids
            + tokenizer(
                prompt, add_special_tokens=False, split_special_tokens=not encoder.template.parses_special_tokens
            )["input_ids"]
        )
        assert row.input_ids[: row.prompt_length].tolist() == alone


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("answer", ["\nYes.", "  Yes.", "\n\n Yes", "é", "😀 ok", "\tYes", "a\n\n", "None"])
def test_answers_that_begin_or_end_oddly_are_exact_or_refused(template: str, answer: str, tokenizer: Any) -> None:
    encoder = encoder_of(tokenizer, template)
    conversation = Conversation((Message("user", "Is it?"), Message("assistant", answer)))
    try:
        row = encoder.encode(conversation)
    except BadRow as refused:
        pytest.fail(f"refused: {refused}")  # none of these four tokenizers needs to refuse
    check_row(row, conversation, encoder)


def test_special_strings_in_the_data_stay_text_under_text_templates(tokenizer: Any) -> None:
    encoder = RowEncoder(tokenizer, get_template("alpaca", tokenizer))
    eos = tokenizer.eos_token
    row = encoder.encode(Conversation((Message("user", f"What is {eos}?"), Message("assistant", f"{eos} ends."))))
    assert (row.input_ids == tokenizer.eos_token_id).sum() == 1
    assert row.input_ids[-1] == tokenizer.eos_token_id


def test_end_of_sequence_is_a_target_where_it_is_also_the_pad_token(tokenizer: Any) -> None:
    before = tokenizer.pad_token
    tokenizer.pad_token = tokenizer.eos_token
    try:
        row = RowEncoder(tokenizer, get_template("alpaca", tokenizer)).encode(
            Conversation((Message("user", "Go"), Message("assistant", "Gone")))
        )
    finally:
        tokenizer.pad_token = before
    assert row.input_ids[-1] == tokenizer.eos_token_id
    assert row.answer_mask[-1]


def test_chat_renders_what_transformers_renders(tokenizer: Any, alpaca: list[Conversation]) -> None:
    template = get_template("chat", tokenizer)
    assert isinstance(template, ChatTemplate)
    encoder = RowEncoder(tokenizer, template)
    for conversation in alpaca[:100]:
        turns = [{"role": message.role, "content": message.text} for message in conversation.messages]
        theirs = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
        assert encoder.encode(conversation).input_ids.tolist() == theirs


def test_a_tokenizer_that_cannot_spell_everything_names_the_characters_that_it_loses(shared_data: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models/tinystories656k")
    encoder = RowEncoder(tokenizer, get_template("alpaca", tokenizer))
    assert not encoder.vocabulary.spells_everything
    row = encoder.encode(Conversation((Message("user", "Say (hi)"), Message("assistant", "Hi (you) é there"))))
    assert row.lost == "()()é", "the template's own ### is not the row's"
    assert set(encoder.lost_of_template()) == {"#"}
    answer = tokenizer.decode(row.input_ids[row.answer_mask], skip_special_tokens=True)
    assert re.sub(r"\s+", " ", answer).strip() == "Hi you there"
