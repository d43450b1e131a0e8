"""Templates: their text to the letter, and where they say that answers lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.messages import Conversation, Message
from tunelab.data.sections import Section
from tunelab.data.templates import TEXT_TEMPLATES, get_template
from tunelab.errors import BadRow, ModelError, UsageError

PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PREAMBLE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


def ask(content: str, answer: str, input: str = "", system: str | None = None) -> Conversation:
    opening = (Message("system", system),) if system else ()
    return Conversation((*opening, Message("user", content, input), Message("assistant", answer)))


def text_of(sections: Sequence[Section]) -> str:
    return "".join(
        "".join(segment.text for segment in section.segments) + ("<eos>" if section.ends_with_eos else "")
        for section in sections
    )


def answers_of(sections: Sequence[Section]) -> list[str]:
    return [segment.text for section in sections for segment in section.segments if segment.is_answer]


WITHOUT_INPUT = {
    "alpaca": f"{PREAMBLE}\n\n### Instruction:\nAdd.\n\n### Response:\nTwo.<eos>",
    "alpaca-short": f"{PREAMBLE}\n\n### Instruction:\nAdd.\n\n### Response:\nTwo.<eos>",
    "plain": "Instruction: Add.\nResponse: Two.<eos>",
    "human-assistant": "### Human: Add.\n### Assistant: Two.<eos>",
}
WITH_INPUT = {
    "alpaca": f"{PREAMBLE_WITH_INPUT}\n\n### Instruction:\nAdd.\n\n### Input:\n1 1\n\n### Response:\nTwo.<eos>",
    "alpaca-short": f"{PREAMBLE}\n\n### Instruction:\nAdd.\n\n### Input:\n1 1\n\n### Response:\nTwo.<eos>",
    "plain": "Instruction: Add.\nInput: 1 1\nResponse: Two.<eos>",
    "human-assistant": "### Human: Add.\n\n1 1\n### Assistant: Two.<eos>",
}


@pytest.mark.parametrize("name", TEXT_TEMPLATES)
def test_text_is_as_written_in_the_table(name: str) -> None:
    template = TEXT_TEMPLATES[name]
    assert text_of(template.render(ask("Add.", "Two."))) == WITHOUT_INPUT[name]
    assert text_of(template.render(ask("Add.", "Two.", input="1 1"))) == WITH_INPUT[name]


def test_a_system_turn_replaces_the_preamble() -> None:
    text = text_of(TEXT_TEMPLATES["alpaca"].render(ask("Add.", "Two.", system="Be kind.")))
    assert text == "Be kind.\n\n### Instruction:\nAdd.\n\n### Response:\nTwo.<eos>"


def test_each_answer_of_several_turns_is_closed() -> None:
    turns = (Message("user", "A"), Message("assistant", "b"), Message("user", "C"), Message("assistant", "d"))
    text = text_of(TEXT_TEMPLATES["human-assistant"].render(Conversation(turns)))
    assert text == "### Human: A\n### Assistant: b<eos>\n### Human: C\n### Assistant: d<eos>"


def test_braces_in_the_data_stay_braces() -> None:
    sections = TEXT_TEMPLATES["alpaca"].render(ask("say {input} {content}", "{content}", input="{content}"))
    assert "### Instruction:\nsay {input} {content}\n\n### Input:\n{content}\n\n" in text_of(sections)
    assert answers_of(sections) == ["{content}"]


def test_unknown_template_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no template named 'alpacca'; did you mean 'alpaca'\?"):
        get_template("alpacca", tokenizer=None)


class FakeTokenizer:
    chat_template = None


def test_chat_without_a_chat_template_says_what_to_use() -> None:
    with pytest.raises(ModelError, match="this tokenizer has no chat template") as caught:
        get_template("chat", FakeTokenizer())
    assert "data.template=alpaca" in caught.value.hint


def chatml(turns: list[dict[str, str]]) -> str:
    return "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)


SPECIAL = ("<|im_start|>", "<|im_end|>", "<eos>")


def test_chat_answers_lie_between_header_and_closing_token() -> None:
    sections = ChatTemplate(chatml, SPECIAL).render(ask("Add.", "Two."))
    assert text_of(sections) == "<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n"
    assert answers_of(sections) == ["Two.<|im_end|>"]


def test_chat_that_strips_turns_is_followed() -> None:
    template = ChatTemplate(lambda turns: chatml([{**t, "content": t["content"].strip()} for t in turns]), SPECIAL)
    assert answers_of(template.render(ask("Add.", " Two. "))) == ["Two.<|im_end|>"]


def test_the_space_before_an_answer_belongs_to_it() -> None:
    template = ChatTemplate(lambda turns: f"[INST] {turns[0]['content']} [/INST] {turns[1]['content']} <eos>", SPECIAL)
    assert answers_of(template.render(ask("Add.", "Two."))) == [" Two. <eos>"]


@pytest.mark.parametrize(
    "template", [*TEXT_TEMPLATES.values(), ChatTemplate(chatml, SPECIAL)], ids=lambda one: one.name
)
def test_a_turn_that_is_not_in_the_loss_is_context(template: Any) -> None:
    turns = (
        Message("user", "A"),
        Message("assistant", "b", in_loss=False),
        Message("user", "C"),
        Message("assistant", "d"),
    )
    marked, whole = (
        template.render(Conversation(turns)),
        template.render(Conversation((*turns[:1], Message("assistant", "b"), *turns[2:]))),
    )
    assert text_of(marked) == text_of(whole)
    assert answers_of(marked) == answers_of(whole)[1:] and len(answers_of(whole)) == 2


def test_thoughts_under_a_text_template_are_refused() -> None:
    turns = (Message("user", "A"), Message("assistant", "b", reasoning="Hm."))
    with pytest.raises(BadRow, match="the alpaca template has no place for thoughts"):
        TEXT_TEMPLATES["alpaca"].render(Conversation(turns))


def test_all_tokens_that_close_the_last_answer_are_learned() -> None:
    template = ChatTemplate(lambda turns: chatml(turns) + "<eos>", SPECIAL)
    turns = (Message("user", "A"), Message("assistant", "b"), Message("user", "C"), Message("assistant", "d"))
    assert answers_of(template.render(Conversation(turns))) == ["b<|im_end|>", "d<|im_end|>\n<eos>"]


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda turns: chatml([{**t, "content": t["content"].upper()} for t in turns]), "changes the answers' text"),
        (lambda turns: chatml(turns[:1]), "shows 0 of 1 answers"),
        (lambda turns: chatml(turns[1:]), "leaves out the user turn"),
    ],
)
def test_a_chat_template_that_loses_text_is_refused(apply: object, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        ChatTemplate(apply, SPECIAL).render(ask("Add.", "Two."))  # type: ignore[arg-type]


def test_a_chat_template_that_raises_refuses_the_row() -> None:
    import jinja2

    def refuse(turns: list[dict[str, str]]) -> str:
        raise jinja2.TemplateError("no system turns here")

    with pytest.raises(BadRow, match="the chat template refuses the conversation: no system turns here"):
        ChatTemplate(refuse, SPECIAL).render(ask("Add.", "Two."))


def test_a_chat_template_without_a_closing_token_teaches_no_end() -> None:
    template = ChatTemplate(lambda turns: "\n".join(f"{t['role']}: {t['content']}" for t in turns) + "\n", SPECIAL)
    with pytest.raises(ModelError, match=r"closes an answer with .*, not with a special token"):
        template.render(ask("Add.", "Two."))


def test_special_tokens_in_the_data_are_refused_under_chat() -> None:
    with pytest.raises(BadRow, match=r"message 1 \(user\) contains '<\|im_end\|>'"):
        ChatTemplate(chatml, SPECIAL).render(ask("What is <|im_end|>?", "A token."))


def test_several_named_templates_without_a_default_are_listed() -> None:
    tokenizer = FakeTokenizer()
    tokenizer.chat_template = {"tool_use": "x", "rag": "y"}  # type: ignore[assignment]
    with pytest.raises(ModelError, match=r"several chat templates \(rag, tool_use\) and no default") as caught:
        get_template("auto", tokenizer)
    assert "data.chat_template=rag" in caught.value.hint


@pytest.mark.parametrize("failure", [ZeroDivisionError("division by zero"), TypeError("'int' object is not callable")])
def test_a_template_that_fails_says_how(failure: Exception) -> None:
    def apply(turns: object) -> str:
        raise failure

    template = ChatTemplate(apply=apply, special_tokens=())
    with pytest.raises(BadRow, match=f"the chat template fails: {type(failure).__name__}: "):
        template.render(Conversation((Message("user", "a"), Message("assistant", "b"))))
