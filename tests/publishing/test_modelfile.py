"""The Modelfile's template asks in the very words, and for real tokenizers in the very tokens, of the training rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from real_tokenizers import LLAMA2_CHAT, NAMES, load_real_tokenizer
from tiny_tokenizers import CHATML, begin_of_text_tokenizer, byte_tokenizer, dummy_prefix_tokenizer

from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.messages import Conversation, Message
from tunelab.data.templates import TEXT_TEMPLATES, TextTemplate, get_template
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import ModelError
from tunelab.models.gguf.tokenizer import TextStart
from tunelab.publishing.modelfile import modelfile, prompt_start, read_turns

TEMPLATES = (*TEXT_TEMPLATES, "chat")
LLAMA2_LIKE = LLAMA2_CHAT
REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are {{x}} {' + '<|im_end|>\\n' }}{% endif %}"
) + CHATML


def go_value(term: str, names: dict[str, Any]) -> Any:
    """The few expressions of Go's text/template that a Modelfile of ours has."""
    if term.startswith('"'):
        return term[1:-1]
    if term in ("$m.Role", "$m.Content"):
        return names["$m"][term[3:].lower()]
    if match := re.fullmatch(r"eq (\S+) (\".*\")", term):
        return go_value(match[1], names) == go_value(match[2], names)
    if match := re.fullmatch(r"ne \(printf \"%\.1s\" (\S+)\) (\".*\")", term):
        return go_value(match[1], names)[:1] != go_value(match[2], names)
    if term == "gt (len (slice $.Messages $i)) 1":
        return len(names[".Messages"][names["$i"] :]) > 1
    assert term in (".System", ".Messages", ".Prompt", ".Response"), f"{term} is nothing that Ollama gives"
    return names.get(term, "")


def go_render(source: str, names: dict[str, Any]) -> str:
    """Renders {{ if }} {{ else if }} {{ else }} {{ range }} {{ end }} and values."""
    parts = re.split(r"\{\{(.*?)\}\}", source, flags=re.DOTALL)  # as Go does: the first {{ opens, the next }} closes
    texts = [(number % 2 == 1, part.strip() if number % 2 else part) for number, part in enumerate(parts)]
    return _block(texts, 0, names, shown=True)[0]


def _block(parts: list[tuple[bool, str]], at: int, names: dict[str, Any], *, shown: bool) -> tuple[str, int]:
    """The text of a block, and where the {{ else }} or {{ end }} stands that ends it."""
    text = ""
    while at < len(parts):
        is_action, part = parts[at]
        if is_action and (part == "end" or part.startswith("else")):
            return text, at
        if is_action and part.startswith("if "):
            inner, at = _choice(parts, at, names, shown=shown)
            text += inner
        elif is_action and part.startswith("range "):
            inner = ""
            for index, message in enumerate(names[".Messages"] if shown else [{}]):
                one, end = _block(parts, at + 1, {**names, "$i": index, "$m": message}, shown=shown)
                inner += one
            text, at = text + inner, end
        elif shown:
            text += go_value(part, names) if is_action else part
        at += 1
    return text, at


def _choice(parts: list[tuple[bool, str]], at: int, names: dict[str, Any], *, shown: bool) -> tuple[str, int]:
    text, taken = "", False
    while parts[at][1] != "end":
        condition = parts[at][1].removeprefix("else").strip().removeprefix("if ")
        now = shown and not taken and (condition == "" or bool(go_value(condition, names)))
        inner, at = _block(parts, at + 1, names, shown=now)
        text += inner
        taken = taken or now
    return text, at


def go_template(text: str) -> str:
    found = re.search(r'^TEMPLATE """(.*)"""$', text, flags=re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def ask(*turns: str, system: str | None = None) -> Conversation:
    messages = [Message("assistant" if number % 2 else "user", turn) for number, turn in enumerate(turns)]
    return Conversation(tuple([Message("system", system)] * (system is not None) + messages))


def rendered(source: str, conversation: Conversation) -> str:
    """What Ollama makes of the turns before the last answer."""
    turns = conversation.messages[:-1]
    names = {".Messages": [{"role": turn.role, "content": turn.content} for turn in turns]}
    if turns[0].role == "system":
        names[".System"] = turns[0].content
    return go_render(source, names)


def tokenizers() -> dict[str, Any]:
    made = {"byte": byte_tokenizer(), "bos": begin_of_text_tokenizer(), "dummy-prefix": dummy_prefix_tokenizer()}
    made["dummy-prefix"].chat_template = CHATML
    made["dummy-prefix"].add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made["bos, llama2"] = begin_of_text_tokenizer()
    made["bos, llama2"].chat_template = LLAMA2_LIKE
    made["default system"] = byte_tokenizer()
    made["default system"].chat_template = DEFAULT_SYSTEM
    return made


CONVERSATIONS = {
    "one turn": ask("Add 1 + 1.\nNow!", "2"),
    "system": ask("Add.", "2", system="Be kind."),
    "turns": ask("Add.", "Two.", "Again {{ .System }}?", "Yes"),
    "system and turns": ask("Add.", "Two.", "Again?", "Yes.", "Sure?", "No", system="Be {kind}"),
}


@pytest.mark.parametrize("which", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", tokenizers())
def test_the_go_template_renders_the_prompt_that_rows_begin_with(kind: str, name: str, which: str) -> None:
    tokenizer, conversation = tokenizers()[kind], CONVERSATIONS[which]
    template = get_template(name, tokenizer)
    encoder = RowEncoder(tokenizer, template)
    text = modelfile("m.gguf", template, tokenizer, context=128, stop_token_ids=encoder.stop_token_ids())
    row = encoder.encode(conversation)
    prompt = row.input_ids[: row.prompt_length].tolist()
    assert (prompt[0] == tokenizer.bos_token_id) == prompt_start(template, tokenizer).add_bos
    if prompt[0] == tokenizer.bos_token_id:
        prompt = prompt[1:]
    asked = rendered(go_template(text), conversation)
    assert tokenizer(asked, add_special_tokens=False)["input_ids"] == prompt
    if kind != "dummy-prefix":  # its decoder shows the spaces that it puts before texts
        assert asked == tokenizer.decode(prompt, clean_up_tokenization_spaces=False)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name == "llama3" else ()) for name in NAMES]
)
def real_tokenizer(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: Any) -> Any:
    return load_real_tokenizer(request.param, shared_data, tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_real_tokenizers_read_the_prompt_as_the_very_tokens(name: str, real_tokenizer: Any) -> None:
    tokenizer = real_tokenizer
    template = get_template(name, tokenizer)
    encoder = RowEncoder(tokenizer, template)
    source = go_template(
        modelfile("m.gguf", template, tokenizer, context=None, stop_token_ids=encoder.stop_token_ids())
    )
    start = prompt_start(template, tokenizer)
    for which in ("one turn", "system"):
        conversation = CONVERSATIONS[which]
        if conversation.messages[0].role == "system" and read_turns(template, tokenizer).system is None:
            continue  # Phi-3's template has no place for it
        row = encoder.encode(conversation)
        text = rendered(source, conversation)
        if template.parses_special_tokens and start.add_bos:
            text = tokenizer.bos_token + text
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert encoder.leading_ids + ids == row.input_ids[: row.prompt_length].tolist()


def test_a_modelfile_to_the_letter() -> None:
    tokenizer = byte_tokenizer()
    template = get_template("alpaca", tokenizer)
    text = modelfile("tuned.gguf", template, tokenizer, context=2048, stop_token_ids=[tokenizer.eos_token_id])
    lines = text.split("\n")
    assert lines[0] == "FROM ./tuned.gguf"
    assert lines[1] == r'# An instruction with an input: write "\n\n### Input:\n" between the two.'
    assert lines[2].startswith('# Its system text is then: "Below is an instruction that describes a task, paired with')
    assert lines[2].endswith('completes the request."')
    assert (
        '### Instruction:\n{{ end }}{{ if .Messages }}{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}' in text
    )
    assert text.endswith('PARAMETER stop "<eos>"\nPARAMETER num_ctx 2048\n')


def test_a_prompt_with_an_input_can_be_asked_as_the_remarks_say() -> None:
    tokenizer = byte_tokenizer()
    for name in TEXT_TEMPLATES:
        encoder = RowEncoder(tokenizer, get_template(name, tokenizer))
        row = encoder.encode(Conversation((Message("user", "Add.", "1 1"), Message("assistant", "2"))))
        text = modelfile("m.gguf", encoder.template, tokenizer, context=None, stop_token_ids=[])
        between = eval(re.search(r"write (\".*\") between", text)[1])  # type: ignore[index]
        system = re.search(r"# Its system text is then: (\".*\")", text)
        conversation = ask(f"Add.{between}1 1", "2", system=eval(system[1]) if system else None)
        expected = tokenizer.decode(row.input_ids[: row.prompt_length])
        assert rendered(go_template(text), conversation) == expected


def test_without_messages_one_exchange_is_rendered() -> None:
    tokenizer = byte_tokenizer()
    for name in TEMPLATES:
        text = modelfile("m.gguf", get_template(name, tokenizer), tokenizer, context=None, stop_token_ids=[])
        names = {".Prompt": "Add.", ".System": "Be kind."}
        assert go_render(go_template(text), names) == rendered(go_template(text), ask("Add.", "2", system="Be kind."))


def test_an_earlier_answer_may_come_with_its_space_or_without() -> None:
    tokenizer = byte_tokenizer()
    source = go_template(
        modelfile("m.gguf", get_template("plain", tokenizer), tokenizer, context=None, stop_token_ids=[])
    )
    assert rendered(source, ask("A", "b", "C", "d")) == rendered(source, ask("A", " b", "C", "d"))


def test_a_template_that_takes_no_system_text_says_so() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = REFUSES_SYSTEM
    text = modelfile("m.gguf", get_template("chat", tokenizer), tokenizer, context=None, stop_token_ids=[])
    assert "# The model was trained without system texts" in text
    assert ".System" not in text


def test_a_tokenizer_that_begins_texts_with_a_space_gets_none_behind_special_tokens() -> None:
    tokenizer = dummy_prefix_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    assert prompt_start(get_template("chat", tokenizer), tokenizer) == TextStart(False, True)
    metaspace(tokenizer)
    assert prompt_start(get_template("alpaca", tokenizer), tokenizer) == TextStart(False, True)
    assert prompt_start(get_template("chat", tokenizer), tokenizer) == TextStart(False, False)


def metaspace(tokenizer: Any) -> None:
    """Puts a space before a text only, as Llama-2's tokenizer does in its newer form."""
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)


PLAIN_START = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
)


def test_spaces_that_llama_cpp_cannot_put_are_refused() -> None:
    tokenizer = dummy_prefix_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = PLAIN_START
    metaspace(tokenizer)
    with pytest.raises(ModelError, match="puts a space before a text, but not after special tokens"):
        prompt_start(get_template("chat", tokenizer), tokenizer)
    tokenizer.chat_template = PLAIN_START.replace(" + '\\n'", "")
    with pytest.raises(ModelError, match="puts a space before a text, but not after special tokens"):
        prompt_start(get_template("chat", tokenizer), tokenizer)


def changed_chat(source: str) -> tuple[ChatTemplate, Any]:
    tokenizer = begin_of_text_tokenizer()
    tokenizer.chat_template = source
    template = get_template("chat", tokenizer)
    assert isinstance(template, ChatTemplate)
    return template, tokenizer


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (CHATML.replace("'<|im_start|>' +", "'<|im_start|>' + loop.index|string +"), "later turns differently"),
        (CHATML.replace("message['content'] +", "message['content'] * 2 +"), "the template renders no conversation"),
        (CHATML.replace("'\\n'}}", "('!' if 'so' in message['content'] else '') + '\\n'}}"), "what the turns say"),
        ("{% if messages[0]['role'] == 'system' %}{{ bos_token }}{% endif %}" + CHATML, "beginning-of-text token"),
        ("{{ messages[0]['content'] }}" + CHATML, "does not show every turn once"),
    ],
)
def test_templates_that_ollama_cannot_follow_are_refused(source: str, message: str) -> None:
    template, tokenizer = changed_chat(source)
    with pytest.raises(ModelError, match=message):
        read_turns(template, tokenizer)


def test_texts_that_a_modelfile_cannot_hold_are_refused() -> None:
    tokenizer = byte_tokenizer()
    template = TextTemplate(name="quotes", turn='"""{content}"""', turn_with_input='"""{content}{input}"""')
    with pytest.raises(ModelError, match='the template contains """'):
        modelfile("m.gguf", template, tokenizer, context=None, stop_token_ids=[])
    tokenizer.add_special_tokens({"additional_special_tokens": ['"""', 'a"b']})
    odd, fine = tokenizer.convert_tokens_to_ids(['"""', 'a"b'])
    plain = get_template("plain", tokenizer)
    assert 'PARAMETER stop """a"b"""' in modelfile("m", plain, tokenizer, context=None, stop_token_ids=[fine])
    with pytest.raises(ModelError, match="cannot hold the stop text"):
        modelfile("m.gguf", plain, tokenizer, context=None, stop_token_ids=[odd])
    with pytest.raises(ModelError, match="the tokenizer has no token 9999"):
        modelfile("m.gguf", plain, tokenizer, context=None, stop_token_ids=[9999])
