"""Answers with thoughts under templates that rewrite and drop them: what is in the loss is what the model will see."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from tunelab.config import parse_recipe, resolve
from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.chat_templates import shipped_template, shipped_templates
from tunelab.data.messages import Conversation, Message, with_thoughts_apart
from tunelab.data.prompts import leading_text
from tunelab.data.templates import get_template
from tunelab.data.thoughts import one_per_answer
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import BadRow, ConfigError, DataError, UsageError
from tunelab.preparation.rows import prepare
from tunelab.publishing.modelfile import prompt_start

#: As Qwen3's: thoughts are shown after the last question only, where the last answer has a place for them.
QWEN3 = (
    "{%- set ns = namespace(last=0) -%}"
    "{%- for turn in messages -%}{%- if turn.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- for turn in messages -%}{{- '<|im_start|>' + turn.role + '\n' -}}"
    "{%- if turn.role == 'assistant' -%}{%- set content = turn.content -%}{%- set thoughts = '' -%}"
    "{%- if turn.reasoning_content is string -%}{%- set thoughts = turn.reasoning_content -%}"
    "{%- elif '</think>' in content -%}"
    "{%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}"
    "{%- if loop.index0 > ns.last and (loop.last or thoughts) -%}"
    "{{- '<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') -}}"
    "{%- else -%}{{- content -}}{%- endif -%}"
    "{%- else -%}{{- turn.content -}}{%- endif -%}{{- eos_token + '\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
FIRST, LAST = "<think>\none\n</think>\n\nA", "<think>\ntwo\n</think>\n\nB"


def tokenizer(source: str = QWEN3) -> Any:
    made = tiny.tiny_tokenizer()
    made.chat_template = source
    return made


def talk(*answers: Message | str) -> Conversation:
    turns: list[Message] = []
    for number, answer in enumerate(answers):
        turns += [Message("user", f"Q{number}"), Message("assistant", answer) if isinstance(answer, str) else answer]
    return Conversation(tuple(turns), "rows.jsonl row 1")


def targets(template: Any, conversation: Conversation) -> list[str]:
    return [part.text for section in template.render(conversation) for part in section.segments if part.is_answer]


def text(template: Any, conversation: Conversation) -> str:
    return "".join(part.text for section in template.render(conversation) for part in section.segments)


@pytest.mark.parametrize("last", ["<think>\nso <eos>\n</think>\n\nB", Message("assistant", "B", reasoning="so <eos>")])
def test_control_tokens_in_thoughts_are_refused(last: Any) -> None:
    template = get_template("chat", tokenizer(), thoughts=True)
    with pytest.raises(BadRow, match=r"message 2 \(assistant\) contains '<eos>'"):
        template.render(talk(last))


@pytest.mark.parametrize("last", [LAST, Message("assistant", "B", reasoning="two")])
def test_thoughts_are_in_the_loss_from_the_generation_prompt_on(last: Any) -> None:
    used = tokenizer()
    template = get_template("chat", used, thoughts=True)
    assert targets(template, talk(last)) == ["<think>\ntwo\n</think>\n\nB<eos>"]
    theirs = used.apply_chat_template(
        [{"role": "user", "content": "Q0"}, {"role": "assistant", "content": LAST}], tokenize=False
    )
    assert text(template, talk(last)) == theirs
    asked = used.apply_chat_template([{"role": "user", "content": "Q0"}], tokenize=False, add_generation_prompt=True)
    assert used.decode(RowEncoder(used, template).encode(talk(last)).input_ids).startswith(asked)


def test_a_prompt_ends_where_the_thoughts_begin() -> None:
    used = tokenizer()
    row = RowEncoder(used, get_template("chat", used, thoughts=True)).encode(talk("a"))
    asked = used.apply_chat_template([{"role": "user", "content": "Q0"}], tokenize=False, add_generation_prompt=True)
    assert used.decode(row.input_ids[: row.prompt_length]) == asked
    assert leading_text(get_template("chat", used, thoughts=True)) == "<think>\n\n</think>\n\n"
    assert leading_text(get_template("plain", used)) == " " and leading_text(get_template("alpaca", used)) == ""


def test_where_earlier_thoughts_are_dropped_only_the_last_answer_is_in_the_loss() -> None:
    template = get_template("chat", tokenizer(), thoughts=True)
    assert targets(template, talk(FIRST, LAST)) == [f"{LAST}<eos>"]
    assert "one" not in text(template, talk(FIRST, LAST)) and "A<eos>" in text(template, talk(FIRST, LAST))
    assert targets(template, talk("A", LAST)) == ["A<eos>", f"{LAST}<eos>"], "no thoughts are dropped"


def test_each_answer_becomes_an_example_of_its_own() -> None:
    template = get_template("chat", tokenizer(), thoughts=True)
    made = one_per_answer([talk(FIRST, LAST), talk("A", "B")], template)
    assert [targets(template, one) for one in made[:2]] == [[f"{FIRST}<eos>"], [f"{LAST}<eos>"]]
    assert [one.origin for one in made[:2]] == [f"rows.jsonl row 1, answer {n} of 2" for n in (1, 2)]
    assert made[2:] == [talk("A", "B")] and len({one.group for one in made}) == 1
    unwanted = replace(talk(FIRST, LAST).messages[1], in_loss=False)
    kept = Conversation((talk(FIRST).messages[0], unwanted, *talk(FIRST, LAST).messages[2:]))
    assert [targets(template, one) for one in one_per_answer([kept], template)] == [[f"{LAST}<eos>"]]


def test_without_the_choice_the_row_is_refused_with_the_true_reason() -> None:
    template = get_template("chat", tokenizer())
    for conversation in (talk(LAST), talk(FIRST, LAST)):
        with pytest.raises(BadRow, match="rewrites or drops the thoughts of answers") as caught:
            template.render(conversation)
        assert "data.thoughts=last" in caught.value.hint
    with pytest.raises(BadRow, match=r"an answer has thoughts \(reasoning_content\)"):
        template.render(talk(Message("assistant", "B", reasoning="two")))


@pytest.mark.parametrize("name", shipped_templates())
def test_a_template_that_ships_has_no_place_for_thoughts_and_says_so(name: str) -> None:
    made = tokenizer()
    made.chat_template = shipped_template(name)
    with pytest.raises(BadRow, match=r"has no place for thoughts \(reasoning_content\)") as caught:
        get_template("chat", made).render(talk(Message("assistant", "B", reasoning="two")))
    assert "those that ship do not" in caught.value.hint and "data.thoughts" not in caught.value.hint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{% for t in messages %}{{ t.role + ': ' + t.content + eos_token }}{% endfor %}",
            "thoughts of the last answer",
        ),
        (
            "{% for t in messages %}{{ t.content + t.content + eos_token }}{% endfor %}",
            "every answer once and in order",
        ),
        (
            "{% for t in messages %}{{ t.reasoning_content or '' }}{{ t.content | lower }}{{ eos_token }}{% endfor %}",
            "changes the answers' text",
        ),
        (
            "{% for t in messages %}{{ t.role + t.content + (t.reasoning_content or '') + eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}",
            "does not begin with the chat template's generation prompt|not show every answer|closes an answer",
        ),
        (
            "{% if add_generation_prompt %}ask {% endif %}{% for t in messages %}"
            "{{ t.role + (t.reasoning_content or '') + t.content + eos_token }}{% endfor %}",
            "generation prompt changes the text before it",
        ),
    ],
)
def test_templates_that_cannot_show_thoughts_are_refused(source: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        get_template("chat", tokenizer(source), thoughts=True).render(talk(Message("assistant", "B", reasoning="two")))


def test_thoughts_are_taken_apart_once() -> None:
    assert with_thoughts_apart(Message("assistant", LAST)) == Message("assistant", "B", reasoning="two")
    assert with_thoughts_apart(Message("assistant", " B ")) == Message("assistant", "B")


def test_text_templates_have_no_thoughts() -> None:
    with pytest.raises(UsageError, match=r"data.thoughts is set, but the template is alpaca"):
        get_template("alpaca", tokenizer(), thoughts=True)


def test_a_recipe_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))
    model = tiny.model_folder(tmp_path / "model")
    (model / "chat_template.jinja").write_text(QWEN3, encoding="utf-8")
    turns = [{"role": turn.role, "content": turn.content} for turn in talk(FIRST, LAST).messages]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    tree = tiny.recipe(model, tmp_path / "rows.jsonl", tmp_path / "run")
    tree["data"] |= {"template": "chat", "held_out": 0, "sources": [{"path": str(tmp_path / "rows.jsonl")}]}
    del tree["data"]["max_length"]

    def chosen(thoughts: str | None) -> dict[str, Any]:
        return {**tree, "data": {**tree["data"], "thoughts": thoughts}}

    assert len(prepare(chosen("last")).train) == 1 and len(prepare(chosen("each")).train) == 2
    with pytest.raises(DataError, match=r"row 1: the chat template rewrites or drops the thoughts"):
        prepare(chosen(None))
    with pytest.raises(ConfigError, match="thoughts are ordinary text in a text template"):
        resolve(parse_recipe({**tree, "data": {**tree["data"], "template": "alpaca", "thoughts": "last"}}))


def test_a_gguf_export_needs_no_more_than_the_start() -> None:
    used = tokenizer()
    for thoughts in (False, True):
        assert prompt_start(get_template("chat", used, thoughts=thoughts), used).add_bos is False


def test_a_template_of_one_s_own_needs_a_prompt() -> None:
    template = ChatTemplate(lambda turns: "".join(f"{t['content']}<eos>" for t in turns), ("<eos>",), thoughts=True)
    assert targets(template, talk("B")) == ["B<eos>"]


#: As DeepSeek-R1's and QwQ's: the generation prompt opens the thoughts, and no answer that was given shows any.
R1 = (
    "{%- for turn in messages -%}{%- if turn.role == 'assistant' -%}"
    "{{- '<A>' + turn.content.split('</think>')[-1] + eos_token -}}"
    "{%- else -%}{{- '<U>' + turn.content -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<A><think>\n' -}}{%- endif -%}"
)


@pytest.mark.parametrize(
    ("last", "target"), [(LAST, "two\n</think>\n\nB<eos>"), ("B", "\n</think>\n\nB<eos>")], ids=["thoughts", "none"]
)
def test_a_template_whose_prompt_opens_the_thoughts(last: str, target: str) -> None:
    used = tokenizer(R1)
    template = get_template("chat", used, thoughts=True)
    for before in ([], ["A"], [FIRST]):
        conversation = talk(*before, last)
        assert targets(template, conversation) == [target]
        apart = [with_thoughts_apart(one) if one.role == "assistant" else one for one in conversation.messages[:-1]]
        turns = [{"role": turn.role, "content": turn.text} for turn in apart]
        asked = used.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert text(template, conversation) == asked + target, "what the model continues, as it is prompted"
        row = RowEncoder(used, template).encode(conversation)
        assert used.decode(row.input_ids[: row.prompt_length]) == asked


def test_each_answer_after_an_opened_thought_is_an_example_of_its_own() -> None:
    template = get_template("chat", tokenizer(R1), thoughts=True)
    made = one_per_answer([talk("A", LAST)], template)
    assert [targets(template, one) for one in made] == [["\n</think>\n\nA<eos>"], ["two\n</think>\n\nB<eos>"]]
    only_first = Conversation((*talk("A").messages, replace(talk("B").messages[1], in_loss=False)))
    with pytest.raises(BadRow, match="does not begin with the chat template's generation prompt"):
        template.render(only_first)
