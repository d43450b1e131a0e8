"""How a conversation becomes text, and where the answers are in that text.

A template gives sections. A section is text in segments, each marked as answer or not; it is tokenized as one text,
and a section of a text template ends with an end-of-sequence token that closes the answer. So the template itself says
where every answer is; this is never guessed from the length of a prefix that was rendered again.

    alpaca           Stanford's two prompts, with and without input (Taori et al. 2023)
    alpaca-short     one system line in both cases
    plain            `Instruction: / Input: / Response:`
    human-assistant  `### Human:` / `### Assistant:`
    chat             the tokenizer's own chat template
    chatml, ...      a chat template that ships (chat_templates.py), which the tokenizer then has
    auto             chat where the tokenizer has a chat template, else alpaca
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.chat_templates import is_chat, shipped_templates
from tunelab.data.messages import Conversation, Message
from tunelab.data.sections import Section, Segment
from tunelab.errors import BadRow, ModelError, UsageError

ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """A template of plain text: a preamble, then for each exchange the user's turn, the answer, end of sequence.

    Args:
        preamble: system line if the first turn has no input; a conversation's own system turn replaces it.
        preamble_with_input: system line if the first turn has an input.
        turn: the user's turn with `{content}`, up to where the answer begins.
        turn_with_input: the same with `{content}` and `{input}`.
        answer: the answer with `{content}`. A space before it belongs here, not to the turn: tokenizers join a space
            to the word that follows.
        between: the text between a closed answer and the next turn.
    """

    name: str
    turn: str
    turn_with_input: str
    answer: str = "{content}"
    preamble: str = ""
    preamble_with_input: str = ""
    between: str = "\n\n"
    #: Text templates name no special tokens: such strings in the data stay ordinary text.
    parses_special_tokens: bool = False

    def render(self, conversation: Conversation) -> tuple[Section, ...]:
        """Sections of a conversation, one for each answer."""
        if conversation.has_tools:
            raise BadRow(
                f"the {self.name} template has no place for tools", "use a chat template with tools (chatml has them)"
            )
        messages = list(conversation.messages)
        system = messages.pop(0).content if messages[0].role == "system" else None
        preamble = self.preamble_with_input if messages[0].input else self.preamble
        opening = preamble if system is None else system
        sections = []
        for number, (user, assistant) in enumerate(zip(messages[::2], messages[1::2], strict=True)):
            start = f"{opening}\n\n" if number == 0 and opening else self.between if number else ""
            prompt = Segment(start + self._turn(user), is_answer=False)
            if assistant.reasoning:
                raise BadRow(
                    f"the {self.name} template has no place for thoughts (reasoning_content)",
                    "use a chat template that shows them, or put them into the answer's text",
                )
            answer = Segment(self.answer.replace("{content}", assistant.text), is_answer=assistant.in_loss)
            sections.append(Section((prompt, answer), ends_with_eos=True))
        return tuple(sections)

    def render_all(self, conversations: Sequence[Conversation]) -> list[tuple[Section, ...] | BadRow]:
        """render() of each; what a conversation raises is in its place."""
        found: list[tuple[Section, ...] | BadRow] = []
        for conversation in conversations:
            try:
                found.append(self.render(conversation))
            except BadRow as reason:
                found.append(reason)
        return found

    def _turn(self, user: Message) -> str:
        if not user.input:
            return self.turn.replace("{content}", user.content)
        before, after = self.turn_with_input.split("{input}")
        return before.replace("{content}", user.content) + user.input + after


ALPACA_TURN = "### Instruction:\n{content}\n\n### Response:\n"
ALPACA_TURN_WITH_INPUT = "### Instruction:\n{content}\n\n### Input:\n{input}\n\n### Response:\n"

TEXT_TEMPLATES = {
    template.name: template
    for template in (
        TextTemplate(
            name="alpaca",
            preamble=ALPACA_WITHOUT_INPUT,
            preamble_with_input=ALPACA_WITH_INPUT,
            turn=ALPACA_TURN,
            turn_with_input=ALPACA_TURN_WITH_INPUT,
        ),
        TextTemplate(
            name="alpaca-short",
            preamble=ALPACA_WITHOUT_INPUT,
            preamble_with_input=ALPACA_WITHOUT_INPUT,
            turn=ALPACA_TURN,
            turn_with_input=ALPACA_TURN_WITH_INPUT,
        ),
        TextTemplate(
            name="plain",
            turn="Instruction: {content}\nResponse:",
            turn_with_input="Instruction: {content}\nInput: {input}\nResponse:",
            answer=" {content}",
            between="\n",
        ),
        TextTemplate(
            name="human-assistant",
            turn="### Human: {content}\n### Assistant:",
            turn_with_input="### Human: {content}\n\n{input}\n### Assistant:",
            answer=" {content}",
            between="\n",
        ),
    )
}
AUTO = "auto"
NAMES = (*TEXT_TEMPLATES, "chat")


Template = TextTemplate | ChatTemplate


def resolved_name(name: str, tokenizer: Any) -> str:
    """The template's name with `auto` resolved: the tokenizer's chat template where it has one, else alpaca."""
    if name != AUTO:
        return name
    return "chat" if tokenizer.chat_template else "alpaca"


def get_template(name: str, tokenizer: Any, *, thoughts: bool = False) -> Template:
    """The template of this name; "chat" and "auto" read the tokenizer's chat template.

    Args:
        thoughts: answers may begin with thoughts (data.thoughts).

    Raises:
        UsageError: no template has this name, or a text template has thoughts.
        ModelError: "chat" is requested, but the tokenizer has no chat template, or several and none is the default.
    """
    name = resolved_name(name, tokenizer)
    if thoughts and name in TEXT_TEMPLATES:
        raise UsageError(
            f"data.thoughts is set, but the template is {name}: thoughts are ordinary text there", "omit data.thoughts"
        )
    if name in TEXT_TEMPLATES:
        return TEXT_TEMPLATES[name]
    if not is_chat(name):
        near = difflib.get_close_matches(name, (*NAMES, *shipped_templates()), n=1)
        raise UsageError(
            f"data.template: no template named {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            f"known: {AUTO}, {', '.join((*NAMES, *shipped_templates()))}",
        )
    named = tokenizer.chat_template
    if isinstance(named, dict) and "default" not in named:
        raise ModelError(
            f"data.template=chat: the tokenizer has several chat templates ({', '.join(sorted(named))}) and no default",
            f"choose one (data.chat_template={min(named)}), or use a text template (data.template=alpaca)",
        )
    if not named:
        raise ModelError(
            "data.template=chat: this tokenizer has no chat template (base models often have none)",
            f"name one (data.template={' or '.join(shipped_templates())}; model.new_tokens=template adds its tokens), "
            "give one as a Jinja file (data.chat_template=FILE), or use a text template (data.template=alpaca)",
        )

    def apply(turns: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(turns, tokenize=False))

    def apply_all(conversations: list[list[dict[str, str]]]) -> list[str]:
        return list(tokenizer.apply_chat_template(conversations, tokenize=False))

    def prompt(turns: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def with_tools(turns: list[dict[str, Any]], tools: Sequence[Any], is_prompt: bool) -> str:
        given = {"tools": list(tools) or None, "add_generation_prompt": is_prompt}
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **given))

    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return ChatTemplate(
        apply=apply,
        special_tokens=tuple(sorted(special)),
        prompt=prompt,
        thoughts=thoughts,
        with_tools=with_tools,
        apply_all=apply_all,
    )
