"""How a conversation becomes text, and where the answers are in that text.

A template gives sections. A section is text in segments, each marked as answer or not; it is tokenized as one text,
and a section of a text template ends with an end-of-sequence token that closes the answer. So the template itself says
where every answer is; this is never guessed from the length of a prefix that was rendered again.

    alpaca           Stanford's two prompts, with and without input (Taori et al. 2023)
    alpaca-short     one system line in both cases
    plain            `Instruction: / Input: / Response:`
    human-assistant  `### Human:` / `### Assistant:`
    chat             the tokenizer's own chat template
    auto             chat where the tokenizer has a chat template, else alpaca
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tunelab.data.messages import Conversation, Message, with_thoughts_apart
from tunelab.data.opened_thoughts import open_thoughts
from tunelab.data.rendering import rendered
from tunelab.errors import BadRow, ModelError, TunelabError, UsageError
from tunelab.failures import sentence

THOUGHTS_REMEDY = (
    "data.thoughts=last has only the last answer in the loss where the template drops earlier thoughts; "
    "data.thoughts=each makes one example per answer"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text; `is_answer` = its tokens are in the loss."""

    text: str
    is_answer: bool


@dataclass(frozen=True, slots=True)
class Section:
    """Text that is tokenized as one; `ends_with_eos` adds the tokenizer's end-of-sequence token, an answer's last."""

    segments: tuple[Segment, ...]
    ends_with_eos: bool


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


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A tokenizer's chat template. Answers are found by rendering again with marks in their place.

    A mark is made of private-use characters, so that the text around it is the template's own. The real text must then
    equal those pieces with the answers between them, or the row is refused.

    Args:
        apply: messages -> text, without a generation prompt.
        special_tokens: the strings that the tokenizer reads as one special token each.
        prompt: messages -> text with a generation prompt, where an answer begins; needed for thoughts.
        thoughts: answers may begin with thoughts (data/thoughts.py). All then begin where the generation prompt ends,
            so that what the template writes for an answer without thoughts is in the loss too.
    """

    apply: Callable[[list[dict[str, str]]], str]
    special_tokens: tuple[str, ...]
    name: str = "chat"
    parses_special_tokens: bool = True
    prompt: Callable[[list[dict[str, str]]], str] | None = None
    thoughts: bool = False

    def render(self, conversation: Conversation) -> tuple[Section, ...]:
        """One section: the whole conversation, special tokens written out.

        Raises:
            BadRow: the template refuses the conversation or changes an answer, or a turn holds a special token's text.
        """
        if self.thoughts:
            section, _ = self._with_thoughts(conversation)
            return (section,)
        if any(message.reasoning for message in conversation.messages):
            raise BadRow("an answer has thoughts (reasoning_content)", THOUGHTS_REMEDY)
        turns = [{"role": message.role, "content": message.text} for message in conversation.messages]
        self._refuse_special_tokens(conversation)
        answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        marks = iter(f"\ue000{number}\ue001" for number in range(len(answers)))
        marked = [turn if turn["role"] != "assistant" else {**turn, "content": next(marks)} for turn in turns]
        pieces = re.split("\ue000\\d+\ue001", self._applied(marked))
        real = self._applied(turns)
        if len(pieces) != len(answers) + 1:
            raise BadRow(f"the chat template shows {len(pieces) - 1} of {len(answers)} answers", "use a text template")
        in_loss = [message.in_loss for message in conversation.messages if message.role == "assistant"]
        for shown in (answers, [answer.strip() for answer in answers]):  # most templates strip a turn's white space
            if real == _interleaved(pieces, shown):
                self._check_turns_are_there(turns, real)
                return (self._section(pieces, shown, in_loss),)
        if any("</think>" in answer for answer in answers):
            raise BadRow("the chat template rewrites or drops the thoughts of answers (<think>)", THOUGHTS_REMEDY)
        raise _changed_text()

    def drops_thoughts(self, conversation: Conversation) -> bool:
        """Whether the template leaves out thoughts of answers before the last. Raises BadRow as render() does."""
        return self._with_thoughts(conversation)[1]

    def _with_thoughts(self, conversation: Conversation) -> tuple[Section, bool]:
        """The section, and whether thoughts of earlier answers are dropped: then only the last is in the loss."""
        answering = [with_thoughts_apart(one) if one.role == "assistant" else one for one in conversation.messages]
        self._refuse_special_tokens(Conversation(tuple(answering)))
        answers = [message for message in answering if message.role == "assistant"]
        marked = iter([(f"\ue000{n}\ue002" * bool(one.reasoning), f"\ue000{n}\ue001") for n, one in enumerate(answers)])
        turns = [_turn(one, one.reasoning, one.text) for one in answering]
        text = self._applied(
            [_turn(one, *next(marked)) if one.role == "assistant" else _turn(one) for one in answering]
        )
        pieces = re.split("(\ue000\\d+[\ue001\ue002])", text)  # the template's own text and the marks in turn
        marks = pieces[1::2]
        texts = {f"\ue000{n}\ue001": one.text for n, one in enumerate(answers)}
        if [mark for mark in marks if mark in texts] != list(texts):
            raise BadRow("the chat template does not show every answer once and in order", "use a text template")
        thoughts = {f"\ue000{n}\ue002": one.reasoning for n, one in enumerate(answers) if one.reasoning}
        real = self._applied(turns)
        if real != "".join({**texts, **thoughts}.get(piece, piece) for piece in pieces):
            raise _changed_text()
        self._check_turns_are_there([turn for turn in turns if turn["role"] != "assistant"], real)
        dropped = [mark for mark in thoughts if mark not in marks]
        last, header = len(answers) - 1, self._header(turns)
        was_opened = answers[last].in_loss and open_thoughts(pieces, last, header)
        if was_opened:
            dropped = [mark for mark in (f"\ue000{n}\ue002" for n in range(last)) if mark not in marks]
            thoughts.setdefault(f"\ue000{last}\ue002", "")
        elif f"\ue000{last}\ue002" in dropped:
            raise BadRow("the chat template drops the thoughts of the last answer", "use one that shows them")
        in_loss = [one.in_loss and (n == last or not dropped) for n, one in enumerate(answers)]
        return self._thinking_section(pieces, {**texts, **thoughts}, in_loss, header), bool(dropped)

    def _header(self, turns: list[dict[str, str]]) -> str:
        """What the generation prompt adds to the turns before the first answer."""
        before = turns[: next(place for place, turn in enumerate(turns) if turn["role"] == "assistant")]
        whole, asked = self._applied(before), self._applied(before, self.prompt or self.apply)
        if not asked.startswith(whole):
            raise BadRow("the chat template's generation prompt changes the text before it", "use a text template")
        return asked.removeprefix(whole)

    def _thinking_section(
        self, pieces: Sequence[str], texts: dict[str, str], in_loss: Sequence[bool], header: str
    ) -> Section:
        """Segments from the template's own text and the marks in turn (see _with_thoughts)."""
        segments: list[Segment] = []
        rest, answer, number = pieces[0], "", 0
        for mark, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            if not answer:
                head, found, lead = rest.rpartition(header) if header else (rest, "", "")
                if in_loss[number] and header and not found:
                    raise BadRow(
                        f"an answer does not begin with the chat template's generation prompt {header!r}",
                        "use a chat template that renders answers with and without thoughts alike",
                    )
                before = (head + found).rstrip(" ")
                answer = (head + found)[len(before) :] + lead
                segments.append(Segment(before, is_answer=False))
            answer += texts[mark]
            if not mark.endswith("\ue001"):
                answer += piece
                continue
            closer = self.closer(piece, is_last=number == len(in_loss) - 1)
            segments.append(Segment(answer + closer, is_answer=in_loss[number]))
            rest, answer, number = piece[len(closer) :], "", number + 1
        if rest:
            segments.append(Segment(rest, is_answer=False))
        return Section(tuple(segments), ends_with_eos=False)

    def closer(self, piece: str, *, is_last: bool) -> str:
        """What closes an answer: the special token right after it, and at the end of the text all that follow.

        Args:
            piece: the template's own text after the answer.
        """
        special = "|".join(re.escape(token) for token in sorted(self.special_tokens, key=len, reverse=True))
        one = f"\\s*(?:{special})"
        all_to_the_end = re.fullmatch(f"((?:{one})+)\\s*", piece) if special and is_last else None
        if all_to_the_end:
            return all_to_the_end.group(1)
        found = re.match(one, piece) if special else None
        if not found:
            raise ModelError(
                f"the chat template closes an answer with {piece[:20]!r}, not with a special token",
                "nothing would teach the model to stop; use a text template (data.template=alpaca)",
            )
        return found.group()

    def _check_turns_are_there(self, turns: list[dict[str, str]], text: str) -> None:
        for turn in turns:
            if turn["content"].strip() not in text:
                raise BadRow(f"the chat template leaves out the {turn['role']} turn", "use a text template")

    def _section(self, pieces: Sequence[str], answers: Sequence[str], in_loss: Sequence[bool]) -> Section:
        segments = []
        rest = pieces[0]
        for number, answer in enumerate(answers):
            # A tokenizer joins a space to the word that follows: the space before an answer belongs to the answer.
            context = rest.rstrip(" ")
            closer = self.closer(pieces[number + 1], is_last=number == len(answers) - 1)
            segments.append(Segment(context, is_answer=False))
            segments.append(Segment(rest[len(context) :] + answer + closer, is_answer=in_loss[number]))
            rest = pieces[number + 1][len(closer) :]
        if rest:
            segments.append(Segment(rest, is_answer=False))
        return Section(tuple(segments), ends_with_eos=False)

    def _applied(self, turns: list[dict[str, str]], apply: Callable[[list[dict[str, str]]], str] | None = None) -> str:
        import jinja2

        try:
            characters = sum(map(len, (text for turn in turns for text in turn.values())))
            return rendered(lambda: (apply or self.apply)(turns), characters)
        except jinja2.TemplateError as error:
            raise BadRow(f"the chat template refuses the conversation: {error}") from error
        except TunelabError:
            raise
        except Exception as error:  # what a template computes: divisions by zero, calls of what is no function
            raise BadRow(f"the chat template fails: {sentence(error)}", "mend it, or use a text template") from error

    def _refuse_special_tokens(self, conversation: Conversation) -> None:
        for number, message in enumerate(conversation.messages, 1):
            for token in self.special_tokens:
                if token in message.text or token in message.reasoning:
                    raise BadRow(
                        f"message {number} ({message.role}) contains {token!r}, which the chat template's tokenizer "
                        "would read as a control token",
                        "remove it from the text, or use a text template",
                    )


Template = TextTemplate | ChatTemplate


def _turn(message: Message, thoughts: str = "", content: str | None = None) -> dict[str, str]:
    turn = {"role": message.role, "content": message.text if content is None else content}
    return {**turn, "reasoning_content": thoughts} if thoughts else turn


def _changed_text() -> BadRow:
    return BadRow("the chat template changes the answers' text, so their position is uncertain", "use a text template")


def _interleaved(pieces: Sequence[str], answers: Sequence[str]) -> str:
    return pieces[0] + "".join(answer + piece for answer, piece in zip(answers, pieces[1:], strict=True))


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
    if name != "chat":
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise UsageError(
            f"data.template: no template named {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            f"known: {AUTO}, {', '.join(NAMES)}",
        )
    named = tokenizer.chat_template
    if isinstance(named, dict) and "default" not in named:
        raise ModelError(
            f"data.template=chat: the tokenizer has several chat templates ({', '.join(sorted(named))}) and no default",
            "save one as a Jinja file and name it (data.chat_template=FILE), or use a text template "
            "(data.template=alpaca)",
        )
    if not named:
        raise ModelError(
            "data.template=chat: this tokenizer has no chat template (base models often have none)",
            "use a text template (data.template=alpaca), or give one as a Jinja file (data.chat_template=FILE)",
        )

    def apply(turns: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(turns, tokenize=False))

    def prompt(turns: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return ChatTemplate(apply=apply, special_tokens=tuple(sorted(special)), prompt=prompt, thoughts=thoughts)
