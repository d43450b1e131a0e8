"""Answers that begin with thoughts, under chat templates that write thoughts in their own way and drop earlier ones.

Qwen3's template shows the thoughts of the last answer only. So a conversation of several such answers is not what a
model sees when it answers the first of them. Nor is it where the generation prompt opens the thoughts (DeepSeek-R1's,
QwQ's): there an answer without thoughts is one whose thoughts are empty. `data.thoughts` says what to do:

    last   only the last answer is in the loss where the template drops the thoughts of earlier ones
    each   one example per answer, in which it is the last one
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.messages import Conversation, Example
from tunelab.data.templates import Template
from tunelab.errors import BadRow


def one_per_answer(examples: Sequence[Example], template: Template) -> list[Example]:
    """The examples; each whose earlier thoughts the template drops becomes one per answer in the loss."""
    return [made for example in examples for made in _divided(example, template)]


def _divided(example: Example, template: Template) -> Iterator[Example]:
    if not (isinstance(example, Conversation) and isinstance(template, ChatTemplate)) or not _drops(example, template):
        yield example
        return
    places = [place for place, turn in enumerate(example.messages) if turn.role == "assistant" and turn.in_loss]
    for number, place in enumerate(places, 1):
        context = tuple(replace(turn, in_loss=False) for turn in example.messages[:place])
        origin = f"{example.origin}, answer {number} of {len(places)}"
        yield Conversation((*context, example.messages[place]), origin)


def _drops(conversation: Conversation, template: ChatTemplate) -> bool:
    try:
        return template.drops_thoughts(conversation)
    except BadRow:
        return False  # rendering it says why
