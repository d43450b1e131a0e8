"""A chat's prompts: they are those of training, they fit the model's window, and what cannot be asked is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_actor import Actor, say, session, trained_prompt
from tiny import tiny_tokenizer
from tiny_tokenizers import END, begin_of_text_tokenizer, byte_tokenizer
from tokenizers import Tokenizer, decoders
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from tunelab.data.called_tools import called_tools
from tunelab.data.chat_templates import shipped_template
from tunelab.data.messages import Conversation
from tunelab.data.prompts import as_tools
from tunelab.data.reader import load_examples
from tunelab.data.templates import get_template
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import BadRow, ModelError, UsageError
from tunelab.inference.sampling import Decoding

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


def test_tools_are_in_every_prompt_and_in_what_is_saved(actor: Actor, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tools = as_tools([{"name": "weather", "description": "Of a city."}])
    chat = session("chat", tokenizer, jinja=shipped_template("chatml"), tools=tools)
    actor.says = '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'
    for question in ("How is it?", "And now?"):
        say(chat, question)
    turns = [{"role": "user", "content": "How is it?"}, {"role": "assistant", "content": actor.says}]
    turns.append({"role": "user", "content": "And now?"})
    tokenizer.chat_template = shipped_template("chatml")
    own = tokenizer.apply_chat_template(turns, tools=list(tools), add_generation_prompt=True)["input_ids"]
    assert actor.calls[1]["prompt"] == list(own)
    chat.save(tmp_path / "chat.jsonl")
    (row,) = load_examples("auto", path=tmp_path / "chat.jsonl").examples
    assert isinstance(row, Conversation) and row.tools == tools
    with pytest.raises(BadRow, match="the chat template ignores the row's tools"):
        session("chat", byte_tokenizer(), tools=tools)
    with pytest.raises(BadRow, match="the plain template has no place for tools"):
        session("plain", byte_tokenizer(), tools=tools)


def test_the_result_of_a_call_is_a_tool_s_turn(actor: Actor, tmp_path: Path) -> None:
    """Where the conversation is a training row: the call as the template writes it, its result in a turn of its own."""
    tokenizer = byte_tokenizer()
    tools = as_tools([{"name": "weather", "description": "Of a city."}])
    chat = session("chat", tokenizer, jinja=shipped_template("chatml"), tools=tools)
    with pytest.raises(UsageError, match="the last answer calls none of the tools: expected one call"):
        chat.give("sunny")
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    for said, ask in ((f"Let me see.\n{call}", chat.ask), ("It is sunny.", chat.give), ("Yes.", chat.ask)):
        actor.says = said
        list(ask("How is it?" if ask == chat.ask else '{"sky": "sunny"}').pieces)
        with pytest.raises(UsageError, match=r"the result is empty|calls none of the tools"):
            chat.give(" ")
    chat.save(tmp_path / "chat.jsonl")
    (row,) = load_examples("auto", path=tmp_path / "chat.jsonl").examples
    assert isinstance(row, Conversation)
    assert [turn.role for turn in row.messages] == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert row.messages[1].content == "Let me see." and row.messages[2].of_tool["name"] == "weather"
    (made,) = row.messages[1].tool_calls
    assert made["function"] == {"name": "weather", "arguments": {"city": "Rome"}}
    tokenizer.chat_template = shipped_template("chatml")
    encoder = RowEncoder(tokenizer, get_template("chat", tokenizer))
    for asked, turns in zip(actor.calls, (1, 3, 5), strict=True):
        assert asked["prompt"] == encoder.prompt_ids(Conversation(row.messages[:turns], tools=tools))
    assert '"sunny"' in tokenizer.decode(actor.calls[1]["prompt"])
    actor.says = call + call
    say(chat, "Both?")
    with pytest.raises(UsageError, match="the last answer makes 2 calls: expected one call"):
        chat.give("sunny")
    with pytest.raises(UsageError, match="this conversation has no tools"):
        session("chat", byte_tokenizer()).give("sunny")


def test_a_result_is_not_in_a_prompt_without_its_call(actor: Actor) -> None:
    tools = as_tools([{"name": "look", "description": "Looks."}])
    decoding = Decoding(max_new_tokens=10)
    chat = session(
        "chat", byte_tokenizer(), jinja=shipped_template("chatml"), tools=tools, context=850, decoding=decoding
    )
    actor.says = '{"name": "look", "parameters": {}}'
    say(chat, "Look there, please.")
    actor.says = "A tree."
    list(chat.give("tree").pieces)
    for number in range(20):
        say(chat, f"And {number}?")
        text = chat._tokenizer.decode(actor.calls[-1]["prompt"])
        assert ("<tool_response>" in text) == ("Look there" in text)
    assert "Look there" not in text


@pytest.mark.parametrize(
    ("answer", "content", "calls"),
    [
        ("No {call} here, {}.", "No {call} here, {}.", 0),
        ('[TOOL_CALLS] [{"name": "f", "arguments": {"a": {"name": "f"}}}, {"name": "f"}]', "", 2),
        ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}', "", 1),
        ('Then:\n```json\n{"name": "f"}\n```', "Then:", 1),
        ('{"name": "other"}', '{"name": "other"}', 0),
    ],
)
def test_calls_are_found_in_every_frame(answer: str, content: str, calls: int) -> None:
    found = called_tools(answer, as_tools([{"name": "f"}]))
    assert found[0] == content and len(found[1]) == calls


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
    begin = "the conversation exceeds the model's context window: the oldest"
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
    with pytest.raises(ModelError, match=r"too long: 328 tokens .* window of 128 minus max_new_tokens=28 leaves 100"):
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
    notice = "2 characters are not in the tokenizer's vocabulary and dropped from this question: ö (1), и (1)"
    assert chat.ask("röd и?").notices == (notice,)


def test_a_template_of_single_turns_is_asked_one_at_a_time(actor: Actor, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    chat = session("chat", tokenizer, jinja=ONE_TURN)
    chat.set_system("Be brief.")
    notices: list[str] = []
    for question in ("one", "two", "three"):
        reply = chat.ask(question)
        list(reply.pieces)
        notices += reply.notices
    assert notices == ["the chat template supports one turn only: the model does not see earlier questions"]
    tokenizer.chat_template = ONE_TURN
    template = get_template("chat", tokenizer)
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
