"""A chat's state: nothing is lost at an error, each answer has its own seed, and a saved chat is training data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_actor import Actor, say, session
from tiny import tiny_model, tiny_tokenizer
from tiny_tokenizers import START

from tunelab.answering.chat_session import ChatSession
from tunelab.answering.chat_settings import changed
from tunelab.data.messages import Conversation, Message
from tunelab.data.reader import load_examples
from tunelab.data.templates import get_template
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import DataError, ModelError, UsageError
from tunelab.inference.sampling import Decoding


def test_pieces_come_as_they_are_made_and_name_their_model(actor: Actor) -> None:
    actor.says = " red fox "
    chat = session()
    pieces = chat.ask("Who?").pieces
    assert next(pieces).text == "r"
    assert len(chat.exchanges) == 0
    rest = list(pieces)
    assert {piece.model for piece in rest} == {"tuned"}
    assert "".join(piece.text for piece in rest) == "ed fox "
    assert [(e.question, e.answer, e.answered_by, e.end) for e in chat.exchanges] == [
        ("Who?", "red fox", "tuned", "stop")
    ]
    assert not chat.exchanges[0].is_cut


def test_models_are_switched_within_a_conversation(actor: Actor) -> None:
    chat = session()
    say(chat, "one")
    chat.answer_with("base")
    say(chat, "two")
    chat.answer_with("both")
    reply = chat.ask("three")
    assert [piece.model for piece in reply.pieces] == ["base"] * 2 + ["tuned"] * 2
    assert [call["model"] for call in actor.calls] == ["tuned", "base", "base", "tuned"]
    assert actor.calls[2]["prompt"] == actor.calls[3]["prompt"]
    assert actor.calls[2]["decoding"] == actor.calls[3]["decoding"]
    assert [e.answered_by for e in chat.exchanges] == ["tuned", "base", "tuned"]
    assert chat.opened == [  # type: ignore[attr-defined]
        *("tuned", "tuned left", "base", "base left", "base", "base left", "tuned", "tuned left")
    ]


def test_a_model_alone_cannot_be_compared(actor: Actor) -> None:
    chat = session(models="base")
    assert chat.answering == "base"
    for which in ("tuned", "both"):
        with pytest.raises(UsageError, match="there is no tuned model here"):
            chat.answer_with(which)
    assert say(chat, "one") == "ok" and chat.exchanges[0].answered_by == "base"


@pytest.mark.parametrize("how", ["close", "ctrl-c"])
def test_what_was_said_before_a_stop_is_kept_and_marked(how: str, actor: Actor) -> None:
    chat = session()
    actor.says = " half!" if how == "ctrl-c" else " half of it"
    reply = chat.ask("long?")
    if how == "ctrl-c":
        with pytest.raises(KeyboardInterrupt):
            list(reply.pieces)
    else:
        for _ in range(4):
            next(reply.pieces)
        reply.pieces.close()
    assert reply.exchange is chat.exchanges[0]
    assert (chat.exchanges[0].answer, chat.exchanges[0].end, chat.exchanges[0].is_cut) == ("half", "interrupted", True)
    assert actor.closed == 1
    assert chat.opened == ["tuned"]  # type: ignore[attr-defined]


def test_a_second_answer_waits_until_the_first_was_read(actor: Actor) -> None:
    """Base and tuned are one model: the tuned answer would be the base's while the adapter is off."""
    chat = session()
    chat.answer_with("base")
    first = chat.ask("one?")
    next(first.pieces)
    chat.answer_with("tuned")
    second = chat.ask("two?")
    with pytest.raises(UsageError, match="the answer before is still being generated"):
        next(second.pieces)
    first.pieces.close()
    assert say(chat, "two?") == "ok"


def test_a_stop_in_the_base_models_answer_keeps_nothing(actor: Actor) -> None:
    chat = session()
    chat.answer_with("both")
    reply = chat.ask("long?")
    next(reply.pieces)
    reply.pieces.close()
    assert chat.exchanges == [] and reply.exchange is None
    assert reply.ends == {"base": "interrupted"}


@pytest.mark.parametrize("says", ["", " ", " \n"])
def test_an_empty_answer_is_not_kept(says: str, actor: Actor) -> None:
    chat = session()
    actor.says = says
    reply = chat.ask("well?")
    list(reply.pieces)
    assert reply.exchange is None and chat.exchanges == []


def test_an_error_within_an_answer_keeps_nothing(actor: Actor) -> None:
    chat = session()
    actor.says = " half#"
    with pytest.raises(ModelError, match="out of memory"):
        say(chat, "long?")
    assert chat.exchanges == []
    actor.says = " ok"
    assert say(chat, "again?") == "ok"


def test_answers_that_were_cut_are_told_apart(actor: Actor) -> None:
    chat = session()
    for end in ("stop", "length", "context"):
        actor.end = end
        say(chat, "one")
    assert [exchange.is_cut for exchange in chat.exchanges] == [False, True, True]


def test_the_nth_answer_uses_seed_plus_n(actor: Actor) -> None:
    chat = session()
    chat.configure("seed=40")
    for _ in range(2):
        say(chat, "one")
    chat.undo()
    say(chat, "one")  # asked again: another seed, or it would be the same answer
    chat.configure("temperature=0.5")
    say(chat, "one")
    chat.configure("seed=40 top_k=3")
    say(chat, "one")
    chat.reset()
    say(chat, "one")
    assert [call["decoding"].seed for call in actor.calls] == [41, 42, 43, 44, 41, 41]
    assert chat.decoding == Decoding(seed=40, temperature=0.5, top_k=3)


def test_undo_and_reset(actor: Actor) -> None:
    chat = session()
    for question in ("one", "two"):
        say(chat, question)
    assert chat.undo().question == "two"
    prompt = list(actor.calls[1]["prompt"])
    assert list(chat.ask("two").prompt_ids) == prompt
    chat.set_system("Be brief.")
    chat.reset()
    assert chat.exchanges == [] and chat.system == "Be brief."
    with pytest.raises(UsageError, match="there is nothing to undo"):
        chat.undo()
    chat.set_system("")
    assert chat.system == ""


def test_a_saved_chat_is_training_data(actor: Actor, tmp_path: Path) -> None:
    chat = session()
    path = tmp_path / "chats.jsonl"
    with pytest.raises(UsageError, match="there is nothing to save"):
        chat.save(path)
    assert not path.exists()
    actor.says = " größer\n“als”\u2028\x85\x1c."
    say(chat, "one\ntwo")
    assert chat.save(path) == 1
    chat.set_system("Be brief.")
    say(chat, "three")
    chat.save(path)
    path.write_text(path.read_text().removesuffix("\n"))  # as an editor may leave it
    chat.save(path)
    read = load_examples("auto", path=path)
    assert read.name == "messages" and read.bad_rows == []
    conversations = [example.messages for example in read.examples if isinstance(example, Conversation)]
    assert conversations[0] == (Message("user", "one\ntwo"), Message("assistant", "größer\n“als”\u2028\x85\x1c."))
    assert [message.content for message in conversations[1]] == [
        *("Be brief.", "one\ntwo", "größer\n“als”\u2028\x85\x1c.", "three", "größer\n“als”\u2028\x85\x1c.")
    ]
    assert conversations[2] == conversations[1]
    assert [list(json.loads(line)) for line in path.read_text().split("\n") if line] == [["messages"]] * 3
    with pytest.raises(DataError, match="cannot be written: Is a directory"):
        chat.save(tmp_path)


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ("temperature=0.7", {"temperature": 0.7}),
        (" temperature = 1  top_k= 5", {"temperature": 1.0, "top_k": 5}),
        ("max_new_tokens=3 seed=9 min_p=0.1", {"max_new_tokens": 3, "seed": 9, "min_p": 0.1}),
        ("stop_strings=User: hello", {"stop_strings": ("User: hello",)}),
        (r'stop_strings=["###", "\n\n"] top_p=0.5', {"stop_strings": ("###", "\n\n"), "top_p": 0.5}),
        ("stop_strings=", {"stop_strings": ()}),
    ],
)
def test_settings(assignments: str, expected: dict[str, Any]) -> None:
    assert changed(Decoding(), assignments) == Decoding(**expected)


@pytest.mark.parametrize(
    ("assignments", "message", "hint"),
    [
        ("temprature=1", "no setting named 'temprature'; did you mean 'temperature'?", "known: max_new_tokens, temp"),
        ("zzz=1", "no setting named 'zzz'$", "known: max_new_tokens"),
        ("temperature", "'temperature' is not a setting: expected NAME=VALUE", "known: "),
        ("top_k=1.5", "top_k is '1.5', expected an integer", "for example: /set top_k=0"),
        ("temperature=hot", "temperature is 'hot', expected a number", "/set temperature=0.0"),
        ("top_k=5 temperature=-1", "temperature is -1", ""),
        (
            "stop_strings=[1]",
            r"stop_strings is '\[1\]', expected a string or a JSON list of strings",
            "/set stop_strings=",
        ),
        ('stop_strings=["a', "expected a string or a JSON list of strings", "/set stop_strings="),
    ],
)
def test_settings_that_cannot_be(assignments: str, message: str, hint: str) -> None:
    chat = session()
    with pytest.raises(UsageError, match=message) as caught:
        chat.configure(assignments)
    assert hint in caught.value.hint
    assert chat.decoding == Decoding(), "all of it or nothing"


def test_a_real_model_says_its_most_likely_tokens() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model("llama")

    @contextmanager
    def source() -> Iterator[torch.nn.Module]:
        yield model

    encoder = RowEncoder(tokenizer, get_template("plain", tokenizer))
    chat = ChatSession({"tuned": source}, encoder, context=128, decoding=Decoding(max_new_tokens=12))
    reply = chat.ask("What?")
    shown = "".join(piece.text for piece in reply.pieces)
    assert shown and reply.ends["tuned"] in ("length", "stop")
    ids = list(reply.prompt_ids)
    with torch.no_grad():
        while len(ids) < len(reply.prompt_ids) + 12 and ids[-1] not in chat.stop_token_ids:
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    text = tokenizer.decode(ids[len(reply.prompt_ids) :], skip_special_tokens=True)
    assert shown == text.removeprefix(" ")
    assert tokenizer.decode(list(reply.prompt_ids)) == "Instruction: What?\nResponse:"
    assert START not in shown
