"""Prompts to answer: rendered as training rendered them, read from files, and named where they cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_tokenizers
from tiny import tiny_model

from tunelab.answering.generate import open_responder
from tunelab.data.messages import Conversation, Message
from tunelab.data.prompts import Prompt, as_prompts, read_prompts
from tunelab.data.templates import NAMES, get_template
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import DataError
from tunelab.inference.sampling import Decoding
from tunelab.models.load import end_token_ids, load_tokenizer


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def lines(*rows: object, name: str = "prompts.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return lines


@pytest.mark.parametrize("template", NAMES)
@pytest.mark.parametrize("answer", ["apple, fig", "Yes.", "42", "a"])
def test_a_prompt_is_what_training_put_before_the_answer(
    template: str, answer: str, tmp_path: Path, write: Callable[..., Path]
) -> None:
    folder = tmp_path / "model"
    tiny_model("gpt2", vocab_size=300, n_positions=512).save_pretrained(folder)
    tiny_tokenizers.byte_tokenizer([("Ċ", "Ċ"), ("Ġ", "a")]).save_pretrained(folder)
    file = write(
        {"prompt": "Sort."},
        {"instruction": "Sort.", "input": "b, a"},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
        {"messages": [{"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Yes"), ("user", "Why?"))]},
    )
    ours = open_responder(model=str(folder), template=template)
    tokenizer = load_tokenizer(str(folder))
    encoder = RowEncoder(tokenizer, get_template(template, tokenizer), end_token_ids(str(folder)))
    turns = [
        (Message("user", "Sort."),),
        (Message("user", "Sort.", input="b, a"),),
        (Message("system", "Be brief."), Message("user", "Hi")),
        (Message("user", "Hi"), Message("assistant", "Yes"), Message("user", "Why?")),
    ]
    trained = [encoder.encode(Conversation((*before, Message("assistant", answer)))) for before in turns]
    assert ours.encode(read_prompts(file)) == [row.input_ids[: row.prompt_length].tolist() for row in trained]
    assert list(ours.stop_token_ids) == encoder.stop_token_ids()


def test_raw_prompts_are_given_as_they_are(tmp_path: Path, write: Callable[..., Path]) -> None:
    folder = tmp_path / "model"
    tiny_model("llama", vocab_size=300).save_pretrained(folder)
    tokenizer = tiny_tokenizers.begin_of_text_tokenizer()
    tokenizer.save_pretrained(folder)
    ours = open_responder(model=str(folder), raw=True)
    (ids,) = ours.encode(as_prompts(["<|im_start|>user\nHi"]))
    special = tokenizer.convert_tokens_to_ids
    text = tokenizer("user\nHi", add_special_tokens=False)["input_ids"]
    assert ids == [special("<bos>"), special("<|im_start|>"), *text]
    several = write({"instruction": "Sort.", "input": "b"}, {"prompt": "fine"})
    with pytest.raises(
        DataError, match=r"1 of 2 prompts .*\n .*line 1: has a system message, an input, tools or several turns"
    ):
        ours.encode(read_prompts(several))
    assert ours.header(Decoding(max_new_tokens=6))["template"] is None


def test_a_file_s_names_and_kinds(write: Callable[..., Path], tmp_path: Path) -> None:
    file = write(
        {"prompt": "a", "completion": "not read"}, "", {"id": 7, "instruction": "b"}, {"id": "x", "prompt": "c"}
    )
    prompts = read_prompts(file)
    assert [(prompt.item, prompt.messages[0].content) for prompt in prompts] == [
        ("000001", "a"),
        ("7", "b"),
        ("x", "c"),
    ]
    assert [prompt.origin for prompt in prompts] == [f"{file} line {number}" for number in (1, 3, 4)]
    (tmp_path / "p.csv").write_text("prompt\nhello\n")
    assert read_prompts(tmp_path / "p.csv")[0].origin == f"{tmp_path / 'p.csv'} row 1"


BAD_LINES = {
    '{"prompt": ': r"broken JSON at column \d+",
    "[1]": "the row is a list, expected an object",
    '{"text": "x"}': r'expected \{"prompt": .*; it has \'text\'',
    "{}": "it has no columns",
    '{"prompt": "x", "messages": []}': "it has 'prompt' and 'messages'",
    '{"prompt": ["x"]}': "column 'prompt' is a list, expected text",
    '{"prompt": " "}': r"message 1 \(user\) has no text",
    '{"instruction": "x", "input": 3}': "column 'input' is a number, expected text",
    '{"messages": "x"}': "column 'messages' is text, but not a JSON list",
    '{"messages": []}': "do not alternate",
    '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}': "the last turn is the "
    "assistant's, expected the user's: there is nothing to answer",
    '{"messages": [{"role": "robot", "content": "x"}]}': "turn 1 has role 'robot'",
    '{"prompt": "x", "id": true}': "'id' is True, expected a string or an integer",
    '{"prompt": "x", "id": "good"}': "id 'good' is already at line 1",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named(line: str, write: Callable[..., Path]) -> None:
    file = write({"prompt": "x", "id": "good"}, line)
    with pytest.raises(
        DataError, match=r"1 of 2 prompts cannot be used:\n.*prompts.jsonl line 2: .*" + BAD_LINES[line]
    ):
        read_prompts(file)


def test_all_bad_lines_at_once_and_no_more_than_can_be_read(write: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="25 of 26 prompts cannot be used") as caught:
        read_prompts(write({"prompt": "x"}, *["{}"] * 25))
    assert caught.value.message.count("\n") == 21 and caught.value.message.endswith("and 5 more")
    with pytest.raises(DataError, match="has no prompts"):
        read_prompts(write(""))


def test_texts_as_prompts() -> None:
    assert [prompt.item for prompt in as_prompts(["a", "b"])] == ["000001", "000002"]
    with pytest.raises(DataError, match="prompt 2 has no text"):
        as_prompts(["a", " "])
    with pytest.raises(DataError, match="two prompts are named '000001'"):
        as_prompts(["a", Prompt("000001", (Message("user", "b"),), "")])


def test_characters_that_the_tokenizer_cannot_spell_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_model("gpt2", vocab_size=300).save_pretrained(folder)
    tiny_tokenizers.byte_tokenizer(replaced=("é", "")).save_pretrained(folder)
    ours = open_responder(model=str(folder), template="plain")
    ours.encode(as_prompts(["cafe", "café"]))
    told = "1 character is not in the tokenizer's vocabulary and dropped from 1 of 2 prompts: é"
    assert ours.notices == [told]
    ours.encode(as_prompts(["café"] * 3))
    assert ours.notices == [told.replace("1 character is", "3 characters are").replace("1 of 2", "3 of 3") + " (3)"]
    ours.encode(as_prompts(["cafe"]))
    assert ours.notices == []
