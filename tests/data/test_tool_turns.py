"""Rows with tools, as the templates of Qwen, Llama and Mistral take them: only the assistant's turns are targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import CHATML, byte_tokenizer

from tunelab.data.chat_templates import shipped_template
from tunelab.data.prompts import as_prompts, prompt_columns, read_tools
from tunelab.data.reader import load_examples
from tunelab.data.sources.messages import Options, examples
from tunelab.data.templates import get_template
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import BadRow, DataError

#: The parts of Llama 3's and Mistral's templates that concern tools.
LLAMA = (
    "{% if tools %}{{ '<|start_header_id|>user<|end_header_id|>\\n\\n' }}{% for t in tools %}"
    "{{ t | tojson(indent=4) }}{{ '\\n\\n' }}{% endfor %}{{ messages[0].content + '<|eot_id|>' }}"
    "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}{% if message.role == 'tool' %}"
    "{{ '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}{{ message.content | tojson }}{{ '<|eot_id|>' }}"
    "{% elif 'tool_calls' in message %}{% if not message.tool_calls|length == 1 %}"
    "{{ raise_exception('only supports single tool-calls at once!') }}{% endif %}"
    "{% set call = message.tool_calls[0].function %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{{ '{\"name\": \"' + call.name + '\", \"parameters\": ' }}{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}"
    "{% else %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
MISTRAL = (
    "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}{% for message in messages %}"
    "{% if message.role == 'user' %}{% if tools and message == users[-1] %}{{ '[AVAILABLE_TOOLS]' }}"
    "{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST]' + message.content + '[/INST]' }}"
    "{% elif message.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in message.tool_calls %}"
    "{% set out = call.function | tojson %}{{ out[:-1] }}{% if not call.id or call.id|length != 9 %}"
    "{{ raise_exception('IDs should have length 9!') }}{% endif %}{{ ', \"id\": \"' + call.id + '\"}' }}"
    "{{ ', ' if not loop.last else '' }}{% endfor %}{{ ']' + eos_token }}{% elif message.role == 'tool' %}"
    '{{ \'[TOOL_RESULTS]{"content": \' + message.content + \', "call_id": "\' + message.tool_call_id }}'
    "{{ '\"}[/TOOL_RESULTS]' }}"
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": shipped_template("chatml"), "llama": LLAMA, "mistral": MISTRAL}
SPECIAL = (
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
)
WEATHER = {"name": "weather", "description": "Of a city.", "parameters": {"type": "object", "properties": {}}}
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Köln", "days": 2}'},
}
ROW: dict[str, Any] = {
    "tools": [WEATHER],
    "messages": [
        {"role": "user", "content": "How is it in Köln?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": '{"sky": "grey"}', "tool_call_id": "abcdefghi"},
        {"role": "assistant", "content": "It is grey."},
    ],
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = byte_tokenizer()
    made.add_tokens(list(SPECIAL), special_tokens=True)
    return made


def encoded(tokenizer: Any, template: str, row: dict[str, Any] = ROW) -> tuple[str, list[str], str]:
    """The text of a row, that of its answers in the loss, and its reference."""
    tokenizer.chat_template = TEMPLATES.get(template, template)
    (example,) = examples(row, Options())
    made = RowEncoder(tokenizer, get_template("chat", tokenizer)).encode(example)
    ids, mask = made.input_ids.tolist(), made.answer_mask.tolist()
    runs: list[list[int]] = []
    for place, (id, is_answer) in enumerate(zip(ids, mask, strict=True)):
        if is_answer and (place == 0 or not mask[place - 1]):
            runs.append([])
        if is_answer:
            runs[-1].append(id)
    return tokenizer.decode(ids), [tokenizer.decode(run) for run in runs], made.reference


@pytest.mark.parametrize(
    ("template", "call", "answer"),
    [
        (
            "chatml",
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call><|im_end|>',
            "It is grey.<|im_end|>",
        ),
        ("llama", '{"name": "weather", "parameters": {"city": "Köln", "days": 2}}<|eot_id|>', "It is grey.<|eot_id|>"),
        (
            "mistral",
            '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Köln", "days": 2}, "id": "abcdefghi"}]<eos>',
            " It is grey.<eos>",
        ),
    ],
)
def test_calls_and_answers_are_in_the_loss_and_nothing_else(
    tokenizer: Any, template: str, call: str, answer: str
) -> None:
    text, answers, reference = encoded(tokenizer, template)
    assert answers == [call, answer]
    assert reference == answer.partition("<")[0]
    own = tokenizer.apply_chat_template(
        [{**turn, "content": turn["content"] or ""} for turn in with_objects(ROW["messages"])],
        tools=[{"type": "function", "function": WEATHER}],
        tokenize=False,
    )
    assert text == own


def with_objects(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns whose calls have their arguments as objects, as transformers' templates take them."""
    function = {"name": "weather", "arguments": json.loads(CALL["function"]["arguments"])}  # type: ignore[index]
    call = {**CALL, "function": function}
    return [{**turn, "tool_calls": [call]} if "tool_calls" in turn else turn for turn in turns]


def test_a_row_may_end_with_a_call_and_several_calls_have_several_results(tokenizer: Any) -> None:
    ended = {**ROW, "messages": ROW["messages"][:2]}
    assert encoded(tokenizer, "mistral", ended)[1][0].endswith('"id": "abcdefghi"}]<eos>')
    calls = {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [CALL, {"name": "time", "arguments": {"in": "UTC"}}],
    }
    results = [ROW["messages"][2], {"role": "tool", "content": "noon"}]
    row = {**ROW, "messages": [ROW["messages"][0], calls, *results, ROW["messages"][3]]}
    _, answers, _ = encoded(tokenizer, "chatml", row)
    assert answers[0].startswith("I look.\n<tool_call>") and '"name": "time", "arguments": {"in": "UTC"}' in answers[0]
    assert len(answers) == 2
    with pytest.raises(BadRow, match="the chat template refuses the conversation: only supports single tool-calls"):
        encoded(tokenizer, "llama", row)


def test_characters_of_tools_and_calls_that_the_tokenizer_drops_are_counted() -> None:
    made = byte_tokenizer(replaced=("{", ""))
    made.add_tokens(list(SPECIAL), special_tokens=True)
    made.chat_template = TEMPLATES["chatml"]
    (example,) = examples(ROW, Options())
    row = RowEncoder(made, get_template("chat", made)).encode(example)
    assert set(row.lost) == {"{"} and row.lost.count("{") > ROW["messages"][2]["content"].count("{")


def test_a_turn_out_of_the_loss_is_context(tokenizer: Any) -> None:
    row = {**ROW, "messages": [ROW["messages"][0], {**ROW["messages"][1], "weight": 0}, *ROW["messages"][2:]]}
    assert encoded(tokenizer, "chatml", row)[1] == ["It is grey.<|im_end|>"]


def test_a_template_that_moves_tools_to_the_last_question(tokenizer: Any) -> None:
    more = [{"role": "user", "content": "And now?"}, {"role": "assistant", "content": "Still."}]
    with pytest.raises(
        BadRow, match=r"message 2 calls a tool, but the chat template renders what comes before"
    ) as caught:
        encoded(tokenizer, "mistral", {**ROW, "messages": [*ROW["messages"], *more]})
    assert "end with such a turn" in caught.value.hint
    assert len(encoded(tokenizer, "mistral", {**ROW, "messages": [*more, *ROW["messages"]]})[1]) == 3


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        (CHATML, ROW, "the chat template ignores the row's tools"),
        (CHATML, {"messages": ROW["messages"]}, "the chat template does not show every answer and tool call once"),
        (
            TEMPLATES["chatml"].replace("{{- call.function.arguments | tojson }}", "{{- '{}' }}"),
            ROW,
            "the chat template leaves Köln out of a tool call",
        ),
        (
            TEMPLATES["chatml"].replace("message.content + '\\n</tool", "'\\n</tool"),
            ROW,
            r"leaves out message 3 \(tool\)",
        ),
        (
            "chatml",
            {"messages": [*ROW["messages"][:3], {"role": "assistant", "content": "x", "reasoning_content": "y"}]},
            "rows with both tools and thoughts are not supported",
        ),
    ],
)
def test_what_a_template_leaves_out_is_refused(
    tokenizer: Any, template: str, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRow, match=message):
        encoded(tokenizer, template, row)


PROMPTS: dict[str, list[dict[str, Any]]] = {
    "question": ROW["messages"][:1],
    "result": ROW["messages"][:3],
    "system": [{"role": "system", "content": "Be brief."}, *ROW["messages"][:3]],
    "later": [*ROW["messages"], {"role": "user", "content": "And tomorrow?"}],
}


@pytest.mark.parametrize("turns", PROMPTS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_is_what_transformers_renders_with_a_generation_prompt(
    tokenizer: Any, template: str, turns: str
) -> None:
    tokenizer.chat_template = TEMPLATES[template]
    (prompt,) = as_prompts([{"tools": [WEATHER], "messages": PROMPTS[turns]}])
    encoder = RowEncoder(tokenizer, get_template("chat", tokenizer))
    whole = [{**turn, "content": turn["content"] or ""} for turn in with_objects(PROMPTS[turns])]
    functions = [{"type": "function", "function": WEATHER}]
    own = tokenizer.apply_chat_template(whole, tools=functions, add_generation_prompt=True)["input_ids"]
    assert encoder.prompt_ids(prompt.conversation) == list(own)
    if turns == "result":  # then the answer in ROW follows: what training has before it
        (row,) = examples(ROW, Options())
        trained = encoder.encode(row)
        assert trained.input_ids[: trained.prompt_length].tolist() == list(own)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHATML, "the chat template ignores the row's tools"),
        *((shipped_template(name), "ignores the row's tools") for name in ("gemma", "llama3", "mistral", "phi3")),
        (
            TEMPLATES["chatml"].replace("add_generation_prompt", "none"),
            r"writes <\|im_start\|> before an answer, but not",
        ),
        (TEMPLATES["chatml"].replace("message.content + '\\n</tool", "'\\n</tool"), r"leaves out message 3 \(tool\)"),
        (TEMPLATES["chatml"].replace("+ call.function.name +", "+"), "does not show every answer and tool call once"),
        (
            TEMPLATES["chatml"].replace("<|im_start|>assistant\\n' }}{%- endif", "<think>' }}{%- endif"),
            "renders what comes before an answer differently once it is there",
        ),
    ],
)
def test_a_template_that_cannot_render_a_prompt_with_tools_is_refused(
    tokenizer: Any, template: str, message: str
) -> None:
    tokenizer.chat_template = template
    (prompt,) = as_prompts([{**ROW, "messages": ROW["messages"][:3]}])
    with pytest.raises(BadRow, match=message):
        RowEncoder(tokenizer, get_template("chat", tokenizer)).prompt_ids(prompt.conversation)


def test_a_prompt_with_tools_is_stored_as_it_was_given() -> None:
    prompts = as_prompts([{**ROW, "messages": ROW["messages"][:3]}, "How are you?"])
    with_tools, plain = prompt_columns(prompts)
    assert with_tools["prompt"] == '{"sky": "grey"}' and with_tools["tools"] == [
        {"type": "function", "function": WEATHER}
    ]
    read = as_prompts([{name: with_tools[name] for name in ("messages", "tools")}])
    assert read[0].conversation.messages == prompts[0].messages
    assert plain == {"prompt": "How are you?", "messages": [{"role": "user", "content": "How are you?"}], "tools": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"tools.json: cannot be read: No such file"),
        ("{", "tools.json: not JSON"),
        ("[]", "tools.json: has no functions"),
        ('[{"type": "function"}]', "tools.json: column 'tools', function 1 has no name"),
    ],
)
def test_a_file_that_describes_no_functions(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tools.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_tools(tmp_path / "tools.json")


def test_text_templates_have_no_place_for_tools(tokenizer: Any) -> None:
    (example,) = examples(ROW, Options())
    with pytest.raises(BadRow, match="the alpaca template has no place for tools"):
        get_template("alpaca", tokenizer).render(example)


def test_a_special_token_in_a_call_is_refused(tokenizer: Any) -> None:
    call = {"name": "weather", "arguments": {"city": "<|im_end|>"}}
    turns = [ROW["messages"][0], {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(BadRow, match=r"message 2 \(assistant\) contains '<\|im_end\|>'"):
        encoded(tokenizer, "chatml", {"messages": turns})


USER, ASSISTANT = ROW["messages"][0], ROW["messages"][1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{**USER, "tool_calls": [CALL]}]}, r"turn 1 \(user\) has tool_calls: only assistant turns"),
        ({"messages": [USER, {**ASSISTANT, "tool_calls": "x"}]}, "tool_calls is text, but not JSON"),
        ({"messages": [USER, {**ASSISTANT, "tool_calls": {"a": 1}}]}, "tool_calls is an object, expected a list"),
        ({"messages": [USER, {**ASSISTANT, "tool_calls": [{"id": "1"}]}]}, "call 1 has no name"),
        (
            {"messages": [USER, {**ASSISTANT, "tool_calls": [{"name": "f", "arguments": [1]}]}]},
            "call 1: arguments is a list, expected an object",
        ),
        ({**ROW, "tools": [{"type": "function"}]}, "column 'tools', function 1 has no name"),
        (
            {"messages": [USER, ASSISTANT, {"role": "tool", "content": "3", "tool_call_id": 7}, ROW["messages"][3]]},
            r"turn 3 \(tool\): tool_call_id is a number, expected text",
        ),
        ({"messages": [USER, ASSISTANT, ROW["messages"][3]]}, "a tool call is not followed by its result"),
        ({"messages": [USER, ROW["messages"][3], ROW["messages"][2]]}, "a tool's turn does not follow a tool call"),
        ({"messages": [USER, {**ROW["messages"][3], "function_call": {"name": "f"}}]}, "has function_call, of OpenAI"),
    ],
)
def test_rows_that_are_no_conversations_with_tools(row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        examples(row, Options())


def test_nulls_that_a_table_with_a_schema_adds_are_absent(tmp_path: Path) -> None:
    padded = {"name": "weather", "arguments": {"city": "Köln", "of_another_row": None}}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": [USER, {"role": "assistant", "tool_calls": [padded]}]}), encoding="utf-8")
    (example,) = load_examples("auto", path=file).examples
    assert example.messages[1].tool_calls[0]["function"]["arguments"] == {"city": "Köln"}  # type: ignore[union-attr]
