"""Every source under every template: its example renders, and exactly the assistant turns are learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_tokenizers import byte_tokenizer

from tunelab import plugins
from tunelab.data.messages import Conversation, Example, PretokenizedRow
from tunelab.data.reader import FOLDER, load_examples, load_source
from tunelab.data.templates import NAMES as TEMPLATES
from tunelab.data.templates import get_template
from tunelab.data.tokenize import EncodedRow, RowEncoder, answer_runs

SOURCES = plugins.names(FOLDER)
#: Merges over the borders that templates have, so that exactness does not come from one token a byte.
TOKENIZER = byte_tokenizer([("Ċ", "Ċ"), ("Ċ", "P"), (":", "Ġ"), ("Ġ", "P"), ("i", "s"), ("e", "r")])


@pytest.fixture(params=SOURCES)
def examples(request: pytest.FixtureRequest, tmp_path: Path) -> list[Example]:
    module = load_source(request.param)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in module.EXAMPLE), encoding="utf-8")
    return load_examples(request.param, path=path, options=getattr(module, "EXAMPLE_OPTIONS", {})).examples


def learned(row: EncodedRow) -> list[str]:
    """Text of each stretch of targets, without what closes it."""
    stretches = [row.input_ids[start:end] for start, end in answer_runs(row.answer_mask)]
    return [str(TOKENIZER.decode(ids, skip_special_tokens=True)) for ids in stretches]


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_target_belongs_to_an_assistant_turn(template: str, examples: list[Example]) -> None:
    encoder = RowEncoder(TOKENIZER, get_template(template, TOKENIZER))
    stops = encoder.stop_token_ids()
    for example in examples:
        row = encoder.encode(example)
        if isinstance(example, PretokenizedRow):
            assert row.input_ids.tolist() == list(example.input_ids)
            mask = example.completion_mask or (True,) * len(example.input_ids)
            assert row.answer_mask.tolist() == list(mask)
            continue
        answers = [message.text for message in example.messages if message.role == "assistant"]
        # The space between "Response:" and an answer is the answer's: tokenizers join it to the word that follows.
        before = " " if template in ("plain", "human-assistant") else ""
        assert learned(row) == [before + answer for answer in answers]
        assert row.reference == answers[-1]
        for start, end in answer_runs(row.answer_mask):
            assert row.input_ids[end - 1] in stops, "what closes an answer is learned"
            assert start > 0


@pytest.mark.parametrize("template", TEMPLATES)
def test_nothing_of_a_conversation_is_lost(template: str, examples: list[Example]) -> None:
    encoder = RowEncoder(TOKENIZER, get_template(template, TOKENIZER))
    for example in examples:
        row = encoder.encode(example)
        assert row.lost == "" and not row.truncated
        if isinstance(example, Conversation):
            text = TOKENIZER.decode(row.input_ids)
            place = 0
            for message in example.messages:
                for part in (message.content, message.input):
                    place = text.index(part, place) + len(part)


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_prompt_ends_where_the_last_answer_begins(template: str, examples: list[Example]) -> None:
    encoder = RowEncoder(TOKENIZER, get_template(template, TOKENIZER))
    for example in examples:
        if isinstance(example, Conversation):
            row = encoder.encode(example)
            assert not row.answer_mask[row.prompt_length - 1] and row.answer_mask[row.prompt_length :].any()
            rest = TOKENIZER.decode(row.input_ids[row.prompt_length :], skip_special_tokens=True)
            assert rest.strip() == example.messages[-1].text
