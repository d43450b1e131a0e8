"""Items as tokens: line by line gives what whole texts give, and what does not fit is cut and counted, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import real_tokenizers
import tiny_tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiny import model_folder, tiny_model
from transformers import PreTrainedTokenizerFast

from tunelab.answering import benchmark_prompts
from tunelab.answering.benchmark_prompts import LineEncoder, choice_questions, cuts_between_lines, generation_prompts
from tunelab.answering.generate import open_responder
from tunelab.answering.responder import Responder
from tunelab.data.messages import Conversation, Message
from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Item

LETTERS = (" A", " B", " C", " D")
SHOTS = "About cats.\n\nWhat is it?\nA. one\nB. two.\n\nC. 3\nAnswer: B\n\n"
ITEMS = [
    Item(str(number), f"Why {word}\n \nA. x{word}\nB.  y\nAnswer:", 0, SHOTS, LETTERS)
    for number, word in enumerate(["so?", "not!\n", "12\n34", "\u00e9t\u00e9 ", "don't\r\nShe"])
]


def whole(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def saved(folder: Path, tokenizer: Any, **changes: Any) -> str:
    tiny_model("llama", vocab_size=320, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def chat_model(tmp_path: Path) -> str:
    tokenizer = tiny_tokenizers.begin_of_text_tokenizer()
    return saved(tmp_path / "chat", tokenizer, max_position_embeddings=512)


# Line by line.


@pytest.mark.parametrize("name", ["gpt2", "llama2", pytest.param("llama3", marks=pytest.mark.slow), "phi3"])
def test_line_by_line_is_whole_for_real_tokenizers(name: str, shared_data: Path, tmp_path: Path) -> None:
    tokenizer = real_tokenizers.load_real_tokenizer(name, shared_data, tmp_path)
    assert cuts_between_lines(tokenizer)
    texts = [(item.examples, item.question, choice) for item in ITEMS for choice in LETTERS]
    texts += [("x <|endoftext|>\nSo", "\nAnd </s>", "\nB <|end|>\nC"), ("",), ("\n",), ("a\n\n", "b\nc"), ("a\n", "b")]
    encoder = LineEncoder(tokenizer, texts[:3])
    assert encoder.by_line
    encoder.learn(texts)
    for text in texts:
        assert encoder.ids(text) == whole(tokenizer, "".join(text)), text


MERGES = [("Ċ", "Ċ"), ("Ġ", "A"), ("Ġ", "Ġ"), (".", "Ċ"), ("a", "b"), ("Ċ", "Ġ")]


@given(st.lists(st.text("abA1 .\n\r\t\u00e9<", max_size=12), min_size=1, max_size=4).map(tuple))
def test_line_by_line_is_whole_for_any_text(text: tuple[str, ...]) -> None:
    encoder = LineEncoder(BYTES, [("a\nb",)])
    assert encoder.by_line
    encoder.learn([text])
    assert encoder.ids(text) == whole(BYTES, "".join(text))


BYTES = tiny_tokenizers.byte_tokenizer(MERGES)


def test_tokens_that_reach_over_a_line_s_end_forbid_it() -> None:
    assert cuts_between_lines(BYTES)
    spanning = tiny_tokenizers.byte_tokenizer([("Ċ", "A")])
    assert not cuts_between_lines(spanning)
    encoder = LineEncoder(spanning, [("x\nA b",)])
    encoder.learn([("x", "\nA b")])
    assert not encoder.by_line and encoder.ids(("x", "\nA b")) == whole(spanning, "x\nA b")
    assert not cuts_between_lines(tiny_tokenizers.byte_tokenizer(strips=True))
    added = tiny_tokenizers.byte_tokenizer()
    added.add_tokens(["end\nof"])
    assert not cuts_between_lines(added)


def test_a_tokenizer_that_fails_the_comparison_encodes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_prompts, "cuts_between_lines", lambda tokenizer: True)
    spanning: PreTrainedTokenizerFast = tiny_tokenizers.byte_tokenizer([("Ċ", "A")])
    encoder = LineEncoder(spanning, [("x\nA",)])
    encoder.learn([("x\nA",)])
    assert not encoder.by_line and encoder.ids(("x\nA",)) == whole(spanning, "x\nA")


# Choices.


def test_raw_choices_are_encoded_in_their_context_behind_one_begin_of_text(chat_model: str) -> None:
    responder = open_responder(model=chat_model, raw=True)
    questions = choice_questions(responder, "own", ITEMS)
    tokenizer = responder.tokenizer
    for item, question in zip(ITEMS, questions, strict=True):
        assert question.truncated == 0 and question.prompt_ids[0] == tokenizer.bos_token_id
        assert question.prompt_ids.count(tokenizer.bos_token_id) == 1
        for choice, continuation in zip(item.choices, question.continuations, strict=True):
            assert [*question.prompt_ids[1:], *continuation] == whole(tokenizer, item.prompt + choice)


def test_in_a_template_a_choice_is_the_answer_of_a_user_s_turn(chat_model: str) -> None:
    responder = open_responder(model=chat_model)
    (question,) = choice_questions(responder, "own", ITEMS[:1])
    asked = Conversation((Message("user", ITEMS[0].prompt), Message("assistant", "C")))
    row = responder.encoder.encode(asked)
    trained = row.input_ids.tolist()
    assert list(question.prompt_ids) == trained[: row.prompt_length]
    assert question.continuations[2] == tuple(whole(responder.tokenizer, "C"))
    assert trained[row.prompt_length] == question.continuations[2][0]


@pytest.mark.parametrize("template", ["alpaca", "plain"])
def test_text_templates_too(template: str, chat_model: str) -> None:
    responder = open_responder(model=chat_model, template=template)
    (question,) = choice_questions(responder, "own", [Item("x", "Say <eos>", 0, "", (" yes", "no "))])
    asked = Conversation((Message("user", "Say <eos>"), Message("assistant", "yes")))
    row = responder.encoder.encode(asked).input_ids.tolist()
    assert [*question.prompt_ids, *question.continuations[0]] == row[:-1], "all but the end of sequence"
    assert len(question.continuations[1]) == len(question.continuations[0]) - 1


ENDING = Item("e", "Ann met Bo because ", 0, choices=("Ann", "Bo"), ending=" was late.")


def test_an_ending_follows_each_choice(chat_model: str) -> None:
    responder = open_responder(model=chat_model, raw=True)
    (question,) = choice_questions(responder, "own", [ENDING])
    wholes = [[*question.prompt_ids, *one] for one in question.continuations]
    assert [responder.tokenizer.decode(ids, skip_special_tokens=True) for ids in wholes] == [
        "Ann met Bo because Ann was late.",
        "Ann met Bo because Bo was late.",
    ]
    assert [responder.tokenizer.decode(ids) for ids in question.scored] == [" was late."] * 2


def test_in_a_template_the_choice_is_the_users_and_the_ending_is_the_answer(chat_model: str) -> None:
    responder = open_responder(model=chat_model)
    (question,) = choice_questions(responder, "own", [ENDING])
    asked = Conversation((Message("user", "Ann met Bo because Bo"), Message("assistant", "was late.")))
    row = responder.encoder.encode(asked).input_ids.tolist()
    ids = [*question.prompt_ids, *question.continuations[1]]
    assert ids == row[: len(ids)]
    assert responder.tokenizer.decode(row[len(ids) :]) == "<|im_end|>\n", "what ends a turn is not scored"
    assert responder.tokenizer.decode(question.scored[1]) == "was late."


def test_spaces_that_end_a_prompt_are_scored_with_the_choice(chat_model: str) -> None:
    """As in lm-evaluation-harness: what the prompt ends with otherwise depends on how its end is tokenized."""
    responder = open_responder(model=chat_model, raw=True)
    (question,) = choice_questions(responder, "own", [Item("s", "So: ", 0, choices=(" a", " b"))])
    assert [responder.tokenizer.decode(ids) for ids in question.scored] == ["  a", "  b"]


def test_choices_that_cannot_be_scored_are_named_all_at_once(chat_model: str) -> None:
    responder = open_responder(model=chat_model, raw=True)
    items = [ITEMS[0], Item("empty", "x", 0, "", ("", " a")), Item("none", "x", 0)]
    with pytest.raises(
        DataError, match=r"(?s)2 of 3 .*own item 'empty': choice 0 adds no .*own item 'none': .*no choices to score"
    ):
        choice_questions(responder, "own", items)
    responder = open_responder(model=chat_model)
    items = [ITEMS[0], Item("control", "x <|im_end|>", 0, "", LETTERS)]
    with pytest.raises(DataError, match=r"1 of 2 prompts .*\n.*own item 'control': message 1 .* contains"):
        choice_questions(responder, "own", items)


def test_the_beginning_is_cut_and_counted(tmp_path: Path) -> None:
    responder = open_responder(model=str(model_folder(tmp_path / "m")), raw=True)
    short, long = choice_questions(
        responder, "own", [Item("s", "Q:", 0, "", LETTERS), Item("l", "x" * 200 + " Q:", 0, "", LETTERS)]
    )
    assert (short.truncated, long.truncated) == (0, 203 - len(long.prompt_ids))
    assert responder.tokenizer.decode(long.prompt_ids).endswith("xx Q:")
    assert len(long.prompt_ids) + 2 - 1 == 128


# Answers.


def asked(responder: Responder, text: str, tokens: int) -> tuple[list[int], int]:
    (prompt,) = generation_prompts(responder, "own", [Item("i", text, None)], tokens)
    return prompt.ids, prompt.truncated


def test_raw_prompts_leave_room_for_the_answer_and_keep_their_begin_of_text(tmp_path: Path) -> None:
    model = saved(tmp_path / "m", tiny_tokenizers.begin_of_text_tokenizer())
    responder = open_responder(model=model, raw=True)
    bos = responder.tokenizer.bos_token_id
    text = "ab" * 50
    assert asked(responder, text, 27) == ([bos, *whole(responder.tokenizer, text)], 0)
    assert asked(responder, text, 28) == ([bos, *whole(responder.tokenizer, text)[1:]], 1)
    ids, cut = asked(responder, text, 9999)
    assert len(ids) == 64 and ids[0] == bos and cut == 100 - 63, "an answer takes half of the context at most"


def test_prompts_in_a_template_are_those_of_generate_and_never_cut(chat_model: str) -> None:
    responder = open_responder(model=chat_model)
    row = responder.encoder.encode(Conversation((Message("user", ITEMS[0].prompt), Message("assistant", "x"))))
    assert asked(responder, ITEMS[0].prompt, 300) == (row.input_ids[: row.prompt_length].tolist(), 0)
    with pytest.raises(DataError, match=r"own item 'i': \d+ tokens, but the model's context is 512: no room"):
        asked(responder, "x" * 600, 10)
