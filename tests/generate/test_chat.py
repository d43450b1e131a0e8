"""A chat's state: prompts are those of training, nothing is lost at an error, and each answer has its own seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from tiny_tokenizers import END, START, begin_of_text_tokenizer, byte_tokenizer
from tokenizers import Tokenizer, decoders
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from tunelab.data.messages import Conversation, Message
from tunelab.data.reader import load_examples
from tunelab.data.templates import get_template
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import BadRow, DataError, ModelError, UsageError
from tunelab.generate import engine
from tunelab.generate.chat import ChatSession, changed
from tunelab.generate.engine import Generation
from tunelab.generate.sampling import Decoding

ONE_TURN = (
    "{% if messages|length > 3 or (messages|length > 2 and messages[0]['role'] != 'system') %}"
    "{{ raise_exception('one question at a time') }}{% endif %}"
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'}}"
    "{% endfor %}"
)
NO_SYSTEM = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}{% endfor %}"
)


class Actor:
    """In place of the engine: says what it is told to, and writes down what it was asked."""

    def __init__(self, says: str = " ok") -> None:
        self.says = says
        self.end = "stop"
        self.calls: list[dict[str, Any]] = []
        self.closed = 0

    def stream(
        self, model: Any, tokenizer: Any, prompt_ids: Any, decoding: Decoding, *, stop_token_ids: Any
    ) -> Iterator[str]:
        self.calls.append({"model": model, "prompt": list(prompt_ids), "decoding": decoding, "stop": stop_token_ids})
        try:
            for letter in self.says:
                if letter == "!":
                    raise KeyboardInterrupt
                if letter == "#":
                    raise ModelError("out of memory")
                yield letter
        finally:
            self.closed += 1
        return Generation(0, (), self.says, self.end, len(prompt_ids))  # type: ignore[return-value]


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    made = Actor()
    monkeypatch.setattr(engine, "stream", made.stream)
    return made


def session(
    template: str = "plain",
    tokenizer: Any = None,
    *,
    models: str = "base tuned",
    jinja: str | None = None,
    **options: Any,
) -> ChatSession:
    tokenizer = tokenizer or tiny_tokenizer()
    opened: list[str] = []

    def source(name: str) -> Any:
        @contextmanager
        def model() -> Iterator[str]:
            opened.append(name)
            yield name
            opened.append(f"{name} left")

        return model

    chosen = get_template(template, tokenizer, jinja)
    made = ChatSession(
        {name: source(name) for name in models.split()}, tokenizer, chosen, **{"context": None, **options}
    )
    made.opened = opened  # type: ignore[attr-defined]
    return made


def say(chat: ChatSession, question: str) -> str:
    return "".join(piece.text for piece in chat.ask(question).pieces)


def trained_prompt(tokenizer: Any, template: Any, *texts: str, system: str = "") -> list[int]:
    """The tokens before the last answer of a training row that holds this conversation."""
    turns = [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]  # type: ignore[arg-type]
    row = RowEncoder(tokenizer, template).encode(
        Conversation((*([Message("system", system)] if system else []), *turns))
    )
    return row.input_ids[: row.prompt_length].tolist()


@pytest.mark.parametrize("name", ["alpaca", "alpaca-short", "plain", "human-assistant", "chat"])
@pytest.mark.parametrize("make", [byte_tokenizer, begin_of_text_tokenizer])
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_the_prompt_is_that_of_a_training_row(name: str, make: Any, system: str, actor: Actor) -> None:
    tokenizer = make()
    template = get_template(name, tokenizer)
    chat = session(name, tokenizer)
    if system:
        chat.set_system(system)
    space = " " if name in ("plain", "human-assistant") else ""
    for answer in ("Paris.", "  Rome,\n\n* of course", "Madrid"):
        actor.says = space + answer
        assert say(chat, f"Where is {answer}?") == answer, "the template's own space is no part of the answer"
    said = [text for exchange in chat.exchanges for text in (exchange.question, exchange.answer)]
    assert len(actor.calls) == 3
    for number, call in enumerate(actor.calls):
        expected = trained_prompt(tokenizer, template, *said[: 2 * number + 1], "Some answer", system=system)
        assert call["prompt"] == expected
        assert call["stop"] == set(RowEncoder(tokenizer, template).stop_token_ids())
    text = tokenizer.decode(actor.calls[2]["prompt"])
    assert "Paris." in text and "Rome,\n\n* of course" in text and "Where is Madrid?" in text
    assert ("Be brief." in text) == bool(system)


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


def test_a_long_conversation_loses_its_oldest_turns_and_never_the_system_message(actor: Actor) -> None:
    tokenizer = tiny_tokenizer()
    template = get_template("plain", tokenizer)
    chat = session("plain", tokenizer, context=200, decoding=Decoding(max_new_tokens=50))
    chat.set_system("Be brief.")
    notices = []
    for number in range(8):
        reply = chat.ask(f"question {number}")
        list(reply.pieces)
        notices.append(reply.notices)
        assert len(reply.prompt_ids) <= 150
        assert tokenizer.decode(list(reply.prompt_ids)).startswith("Be brief.\n\nInstruction: ")
    said = [text for exchange in chat.exchanges for text in (exchange.question, exchange.answer)]
    assert len(said) == 16, "what is left out of the prompt is still in the conversation"
    dropped = next(
        first
        for first in range(8)
        if actor.calls[-1]["prompt"]
        == trained_prompt(tokenizer, template, *said[2 * first : 15], "a", system="Be brief.")
    )
    assert dropped > 1
    longer = trained_prompt(tokenizer, template, *said[2 * dropped - 2 : 15], "a", system="Be brief.")
    assert len(longer) > 150, "no more is dropped than must be"
    left_out = [notice for (notice,) in filter(None, notices)]
    assert len(left_out) == dropped
    begin = "the conversation is longer than the model's window: the oldest"
    assert left_out[0] == f"{begin} question and its answer is left out"
    assert left_out[-1] == f"{begin} {dropped} questions and their answers are left out"
    chat.configure("max_new_tokens=1")
    assert len(chat.ask("question 8").prompt_ids) > 150, "there is more room again"


def test_undo_gives_older_turns_their_room_back(actor: Actor) -> None:
    chat = session(context=200, decoding=Decoding(max_new_tokens=50))
    prompts = []
    for number in range(6):
        reply = chat.ask(f"question {number}")
        list(reply.pieces)
        prompts.append(reply.prompt_ids)
    assert len(prompts[1]) < len(prompts[2]) and len(prompts[5]) < 150
    for _ in range(4):
        chat.undo()
    assert chat.ask("question 2").prompt_ids == prompts[2]


def test_a_question_that_is_too_long_changes_nothing(actor: Actor) -> None:
    chat = session(context=128, decoding=Decoding(max_new_tokens=28))
    say(chat, "one")
    with pytest.raises(ModelError, match=r"too long: 328 tokens .* window of 128 less max_new_tokens=28 leaves 100"):
        chat.ask("long " * 61)
    chat.configure("max_new_tokens=500")
    with pytest.raises(ModelError, match="leaves 0"):
        chat.ask("two")
    chat.configure("max_new_tokens=28")
    assert len(chat.exchanges) == 1
    say(chat, "two")
    assert actor.calls[-1]["decoding"].seed == 2


def test_questions_that_cannot_be_asked(actor: Actor) -> None:
    chat = session("chat", byte_tokenizer())
    with pytest.raises(UsageError, match="the question is empty"):
        chat.ask(" \n")
    with pytest.raises(BadRow, match=r"message 1 \(user\) contains '<\|im_end\|>'"):
        chat.ask(f"say {END}")
    assert chat.exchanges == [] and actor.calls == []


def test_what_the_tokenizer_cannot_spell_is_told(actor: Actor) -> None:
    ascii_letters = {chr(code): code for code in range(128)}
    backend = Tokenizer(tokenizer_models.BPE(vocab=ascii_letters, merges=[]))
    backend.decoder = decoders.Fuse()
    chat = session(tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>"))
    assert chat.ask("red?").notices == ()
    notice = "the tokenizer cannot spell 2 characters of this, and leaves them out"
    assert chat.ask("röd и?").notices == (notice,)


def test_a_template_of_single_turns_is_asked_one_at_a_time(actor: Actor, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    chat = session("chat", tokenizer, jinja=ONE_TURN)
    chat.set_system("Be brief.")
    notices = []
    for question in ("one", "two", "three"):
        reply = chat.ask(question)
        list(reply.pieces)
        notices += reply.notices
    assert notices == ["the chat template takes one question at a time: each question is asked alone"]
    template = get_template("chat", tokenizer, ONE_TURN)
    assert actor.calls[2]["prompt"] == trained_prompt(tokenizer, template, "three", "a", system="Be brief.")
    assert chat.save(tmp_path / "chats.jsonl") == 3
    assert len(load_examples("auto", path=tmp_path / "chats.jsonl").examples) == 3


def test_a_template_without_system_turns_refuses_one(actor: Actor) -> None:
    chat = session("chat", byte_tokenizer(), jinja=NO_SYSTEM)
    with pytest.raises(BadRow, match="the chat template refuses the conversation: no system turn"):
        chat.set_system("Be brief.")
    assert chat.system == "" and say(chat, "one") == " ok"


def test_templates_that_no_chat_can_use() -> None:
    with pytest.raises(BadRow, match="the chat template refuses the conversation: never"):
        session("chat", byte_tokenizer(), jinja="{{ raise_exception('never') }}")
    with pytest.raises(ModelError, match="not with a special token"):
        session("chat", byte_tokenizer(), jinja="{% for m in messages %}{{ m['content'] }}\n{% endfor %}")


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
        ("temperature", "'temperature' is no setting: expected NAME=VALUE", "known: "),
        ("top_k=1.5", "top_k is '1.5', expected a whole number", "for example: /set top_k=0"),
        ("temperature=hot", "temperature is 'hot', expected a number", "/set temperature=0.0"),
        ("top_k=5 temperature=-1", "temperature is -1", ""),
        ("stop_strings=[1]", r"stop_strings is '\[1\]', expected a text or a JSON list of texts", "/set stop_strings="),
        ('stop_strings=["a', "expected a text or a JSON list of texts", "/set stop_strings="),
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

    template = get_template("plain", tokenizer)
    chat = ChatSession({"tuned": source}, tokenizer, template, context=128, decoding=Decoding(max_new_tokens=12))
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
