"""A text template as a chat template: other programs then prompt a model in the words that it was trained in."""

from __future__ import annotations

import json
from typing import Any

from tunelab.data.messages import Conversation, Message
from tunelab.data.templates import TextTemplate
from tunelab.data.tokenize import RowEncoder

CONTENT = "{content}"

_JINJA = """\
{{%- if messages[0].role == 'system' -%}}{{%- set opening = messages[0].content -%}}{{%- set turns = messages[1:] -%}}
{{%- else -%}}{{%- set opening = {preamble} -%}}{{%- set turns = messages -%}}{{%- endif -%}}
{{{{- {start} -}}}}
{{%- for turn in turns -%}}
{{%- if turn.role == 'user' -%}}
{{%- if not loop.first -%}}{{{{- {between} -}}}}{{%- elif opening -%}}{{{{- opening + '\\n\\n' -}}}}{{%- endif -%}}
{{{{- {before} + turn.content + {after} -}}}}
{{%- else -%}}{{{{- {lead} + turn.content + {end} -}}}}{{%- endif -%}}
{{%- endfor -%}}"""

#: Conversations that the two forms must tokenize alike: one exchange, a system line, several exchanges.
_SAMPLES = (
    (Message("user", "Name three colors."), Message("assistant", "Red, green and blue.")),
    (Message("system", "Be brief."), Message("user", "Why?\n\n1. First"), Message("assistant", "Because.\n")),
    (
        *(Message("user", "Hello!"), Message("assistant", "Hi, what can I do?")),
        *(Message("user", "Add 2 and 3."), Message("assistant", "5")),
    ),
)


def as_chat_template(template: TextTemplate, tokenizer: Any) -> str | None:
    """Jinja source that renders conversations to the tokens that the text template gives.

    None if no text does. Some tokenizers put a space before each section that is tokenized by itself, and none after
    the special token that stands there in a chat template's text: the template then writes that space.
    """
    candidates = (_source(template, tokenizer, space) for space in ("", " "))
    return next((source for source in candidates if _renders_alike(template, tokenizer, source)), None)


def _source(template: TextTemplate, tokenizer: Any, space: str) -> str:
    before, after = template.turn.split(CONTENT)
    start = "".join(tokenizer.convert_ids_to_tokens(RowEncoder(tokenizer, template).leading_ids))
    return _JINJA.format(
        preamble=json.dumps(template.preamble),
        start=json.dumps(start + (space if start else "")),
        between=json.dumps(space + template.between),
        before=json.dumps(before),
        after=json.dumps(after),
        lead=json.dumps(template.answer.partition(CONTENT)[0]),
        end=json.dumps(tokenizer.eos_token),
    )


def _renders_alike(template: TextTemplate, tokenizer: Any, source: str) -> bool:
    """Whether prompts and whole conversations of both forms have the same tokens."""
    encoder = RowEncoder(tokenizer, template)
    for sample in _SAMPLES:
        row = encoder.encode(Conversation(sample))
        turns = [{"role": message.role, "content": message.content} for message in sample]
        whole = _tokens(tokenizer, source, turns, add_generation_prompt=False)
        prompt = _tokens(tokenizer, source, turns[:-1], add_generation_prompt=True)
        if whole != row.input_ids.tolist() or prompt != row.input_ids[: row.prompt_length].tolist():
            return False
    return True


def _tokens(tokenizer: Any, source: str, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
    text = tokenizer.apply_chat_template(
        turns, chat_template=source, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
