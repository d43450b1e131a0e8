"""A tokenizer's chat template: a conversation as one text, and where its answers are in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from tunelab.data.messages import Conversation, Message, with_thoughts_apart
from tunelab.data.opened_thoughts import open_thoughts
from tunelab.data.rendering import rendered, rendered_together
from tunelab.data.sections import Section, Segment
from tunelab.data.tool_turns import ToolText
from tunelab.errors import BadRow, ModelError, TunelabError
from tunelab.failures import sentence

THOUGHTS_REMEDY = (
    "data.thoughts=last has only the last answer in the loss where the template drops earlier thoughts; "
    "data.thoughts=each makes one example per answer"
)
NO_THOUGHTS_REMEDY = (
    "use the model's own chat template or another that shows them (those that ship do not), or put them into the "
    "answer's text"
)


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
        with_tools: messages, tools, whether a generation prompt follows -> text; needed for tools.
        apply_all: like `apply`, of several conversations in one call, which takes less time; None = one by one.
    """

    apply: Callable[[list[dict[str, str]]], str]
    special_tokens: tuple[str, ...]
    name: str = "chat"
    parses_special_tokens: bool = True
    prompt: Callable[[list[dict[str, str]]], str] | None = None
    thoughts: bool = False
    with_tools: Callable[[list[dict[str, Any]], Sequence[Any], bool], str] | None = None
    apply_all: Callable[[list[list[dict[str, str]]]], list[str]] | None = None

    def render(self, conversation: Conversation) -> tuple[Section, ...]:
        """One section: the whole conversation, special tokens written out.

        Raises:
            BadRow: the template refuses the conversation or changes an answer, or a turn holds a special token's text.
        """
        return self._rendered(conversation, None)

    def render_all(self, conversations: Sequence[Conversation]) -> list[tuple[Section, ...] | BadRow]:
        """render() of each, with one call of the template for all that it can take together; what a conversation raises
        is in its place."""
        texts = self._texts_together(conversations)
        found: list[tuple[Section, ...] | BadRow] = []
        for number, conversation in enumerate(conversations):
            try:
                found.append(self._as_foreseen(conversation, texts.get(number)) or self._rendered(conversation, None))
            except BadRow as reason:
                found.append(reason)
        return found

    def _texts_together(self, conversations: Sequence[Conversation]) -> dict[int, str]:
        """The texts of conversations by their number; {} if they must be rendered one by one."""
        if self.apply_all is None or self.thoughts:
            return {}
        apply_all, turns = self.apply_all, {}
        for number, one in enumerate(conversations):
            if not one.has_tools and not any(message.reasoning for message in one.messages):
                turns[number] = _turns(one)
        if not turns:
            return {}
        given = list(turns.values())
        texts = rendered_together(lambda: apply_all(given), [_characters(one) for one in given])
        return {} if texts is None else dict(zip(turns, texts, strict=True))

    def _as_foreseen(self, conversation: Conversation, real: str | None) -> tuple[Section, ...] | None:
        """The section of a text that is what the template writes around any turns of these roles, so that it need not
        be rendered with marks; None if it is not, or is refused.

        Args:
            real: the conversation's text; None = not known yet.
        """
        outline = None if real is None else _outline(self, tuple(message.role for message in conversation.messages))
        if real is None or outline is None:
            return None
        turns = _turns(conversation)
        for contents in ([turn["content"] for turn in turns], [turn["content"].strip() for turn in turns]):
            shown = [
                f"\ue000{number}\ue001" if turn["role"] == "assistant" else content
                for number, (turn, content) in enumerate(zip(turns, contents, strict=True))
            ]
            if real == _interleaved(outline, contents):
                try:
                    return self._rendered(conversation, (_interleaved(outline, shown), real))
                except BadRow:
                    return None  # rendered with marks, it says why
        return None

    def _rendered(self, conversation: Conversation, texts: tuple[str, str] | None) -> tuple[Section, ...]:
        """See render(). `texts`: with marks in place of the answers, and real; None = not known yet."""
        if conversation.has_tools:
            return (self._tool_text(conversation).section(conversation),)
        if self.thoughts:
            section, _ = self._with_thoughts(conversation)
            return (section,)
        if any(message.reasoning for message in conversation.messages):
            if not self._shows_thoughts():
                raise BadRow("the chat template has no place for thoughts (reasoning_content)", NO_THOUGHTS_REMEDY)
            raise BadRow("an answer has thoughts (reasoning_content)", THOUGHTS_REMEDY)
        self._refuse_special_tokens(conversation)
        marked, turns = _marked_and_real(conversation)
        answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        marked_text, real = texts or (self.applied(marked), self.applied(turns))
        pieces = re.split("\ue000\\d+\ue001", marked_text)
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

    def tool_prompt(self, asked: Conversation) -> str:
        """The text before the answer to a conversation with tools, special tokens written out.

        Raises:
            BadRow: as render() does.
        """
        return self._tool_text(asked).prompt(asked)

    def _tool_text(self, conversation: Conversation) -> ToolText:
        self._refuse_special_tokens(conversation)
        if self.thoughts or any(message.reasoning for message in conversation.messages):
            raise BadRow("rows with both tools and thoughts are not supported", "remove the tools, or the thoughts")
        if self.with_tools is None:
            raise BadRow("the chat template has no place for tools", "use another chat template")
        with_tools = self.with_tools

        def apply(turns: list[dict[str, Any]], tools: Sequence[Any], prompt: bool) -> str:
            return self.applied(turns, lambda given: with_tools(given, tools, prompt))

        special = re.compile("|".join(map(re.escape, sorted(self.special_tokens, key=len, reverse=True))) or "(?!)")
        return ToolText(apply, lambda piece, is_last: self.closer(piece, is_last=is_last), special)

    def drops_thoughts(self, conversation: Conversation) -> bool:
        """Whether the template leaves out thoughts of answers before the last. Raises BadRow as render() does."""
        if conversation.has_tools:
            return False  # rendering refuses it
        return self._with_thoughts(conversation)[1]

    def _with_thoughts(self, conversation: Conversation) -> tuple[Section, bool]:
        """The section, and whether thoughts of earlier answers are dropped: then only the last is in the loss."""
        answering = [with_thoughts_apart(one) if one.role == "assistant" else one for one in conversation.messages]
        self._refuse_special_tokens(Conversation(tuple(answering)))
        answers = [message for message in answering if message.role == "assistant"]
        marked = iter([(f"\ue000{n}\ue002" * bool(one.reasoning), f"\ue000{n}\ue001") for n, one in enumerate(answers)])
        turns = [_turn(one, one.reasoning, one.text) for one in answering]
        text = self.applied([_turn(one, *next(marked)) if one.role == "assistant" else _turn(one) for one in answering])
        pieces = re.split("(\ue000\\d+[\ue001\ue002])", text)  # the template's own text and the marks in turn
        marks = pieces[1::2]
        texts = {f"\ue000{n}\ue001": one.text for n, one in enumerate(answers)}
        if [mark for mark in marks if mark in texts] != list(texts):
            raise BadRow("the chat template does not show every answer once and in order", "use a text template")
        thoughts = {f"\ue000{n}\ue002": one.reasoning for n, one in enumerate(answers) if one.reasoning}
        real = self.applied(turns)
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
            raise BadRow("the chat template drops the thoughts of the last answer", NO_THOUGHTS_REMEDY)
        in_loss = [one.in_loss and (n == last or not dropped) for n, one in enumerate(answers)]
        return self._thinking_section(pieces, {**texts, **thoughts}, in_loss, header), bool(dropped)

    def _shows_thoughts(self) -> bool:
        """Whether the template writes the thoughts of the last answer."""
        mark = "\ue000"
        try:
            answer = {"role": "assistant", "content": "b", "reasoning_content": mark}
            return mark in self.applied([{"role": "user", "content": "a"}, answer])
        except BadRow:
            return True  # it says why where the row is rendered

    def _header(self, turns: list[dict[str, str]]) -> str:
        """What the generation prompt adds to the turns before the first answer."""
        before = turns[: next(place for place, turn in enumerate(turns) if turn["role"] == "assistant")]
        whole, asked = self.applied(before), self.applied(before, self.prompt or self.apply)
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
        one, several = _closers(self.special_tokens)
        all_to_the_end = several.fullmatch(piece) if is_last else None
        if all_to_the_end:
            return all_to_the_end.group(1)
        found = one.match(piece)
        if not found:
            raise ModelError(
                f"the chat template closes an answer with {piece[:20]!r}, not with a special token",
                "nothing would teach the model to stop; add the template's tokens (model.new_tokens=template), or use "
                "a text template (data.template=alpaca)",
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

    def applied(self, turns: list[dict[str, Any]], apply: Callable[[list[dict[str, Any]]], str] | None = None) -> str:
        """The turns as text, by `self.apply` or another function of the template.

        Raises:
            BadRow: the template refuses them, or fails.
            ModelError: it takes too long, or too much memory.
        """
        import jinja2

        try:
            return rendered(lambda: (apply or self.apply)(turns), _characters(turns))
        except jinja2.TemplateError as error:
            raise BadRow(f"the chat template refuses the conversation: {error}") from error
        except TunelabError:
            raise
        except Exception as error:  # what a template computes: divisions by zero, calls of what is no function
            raise BadRow(f"the chat template fails: {sentence(error)}", "mend it, or use a text template") from error

    def _refuse_special_tokens(self, conversation: Conversation) -> None:
        for number, message in enumerate(conversation.messages, 1):
            for token in self.special_tokens:
                calls = json.dumps(message.tool_calls, ensure_ascii=False) if message.tool_calls else ""
                if token in message.text or token in message.reasoning or token in calls:
                    raise BadRow(
                        f"message {number} ({message.role}) contains {token!r}, which the chat template's tokenizer "
                        "would read as a control token",
                        "remove it from the text, or use a text template",
                    )


@cache
def _closers(special_tokens: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What finds a special token with the white space before it; and several of them up to the end."""
    special = "|".join(re.escape(token) for token in sorted(special_tokens, key=len, reverse=True))
    one = f"\\s*(?:{special or '(?!)'})"
    return re.compile(one), re.compile(f"((?:{one})+)\\s*")


@lru_cache(maxsize=256)
def _outline(template: ChatTemplate, roles: tuple[str, ...]) -> tuple[str, ...] | None:
    """What the template writes around turns of these roles: before, between and behind them; None if it refuses them
    or does not show each once and in order."""
    turns = [{"role": role, "content": f"\ue000{number}\ue001"} for number, role in enumerate(roles)]
    try:
        pieces = re.split("\ue000(\\d+)\ue001", template.applied(turns))
    except TunelabError:
        return None
    return tuple(pieces[::2]) if pieces[1::2] == [str(number) for number in range(len(roles))] else None


def _turns(conversation: Conversation) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in conversation.messages]


def _marked_and_real(conversation: Conversation) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The turns with a mark in place of each answer, and as they are."""
    turns = _turns(conversation)
    marks = (f"\ue000{number}\ue001" for number in range(len(turns)))
    marked = [turn if turn["role"] != "assistant" else {**turn, "content": next(marks)} for turn in turns]
    return marked, turns


def _characters(turns: Sequence[dict[str, Any]]) -> int:
    return sum(len(text) for turn in turns for text in turn.values())


def _turn(message: Message, thoughts: str = "", content: str | None = None) -> dict[str, str]:
    turn = {"role": message.role, "content": message.text if content is None else content}
    return {**turn, "reasoning_content": thoughts} if thoughts else turn


def _changed_text() -> BadRow:
    return BadRow("the chat template changes the answers' text, so their position is uncertain", "use a text template")


def _interleaved(pieces: Sequence[str], answers: Sequence[str]) -> str:
    return pieces[0] + "".join(answer + piece for answer, piece in zip(answers, pieces[1:], strict=True))
