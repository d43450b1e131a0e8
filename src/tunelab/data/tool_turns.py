"""Conversations with tools in a chat template: where the assistant's calls and answers are in its text.

A call's text is the template's own (JSON with a frame around it), so an answer cannot be marked as a whole. The names
of the called functions and the texts of answers are marked instead: the rendered text must be the one with the marks,
each exchanged. A turn with calls begins where the generation prompt ends, which must be how the whole text begins, and
ends with the first special token behind its last call. What is not certain is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunelab.data.messages import Conversation, Message
from tunelab.data.sections import Section, Segment
from tunelab.errors import BadRow

MARK = re.compile("\ue000\\d+(?:\ue001|:\\d+\ue002)")

Turn = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolText:
    """A chat template's functions for conversations with tools.

    Args:
        apply: turns, tools, whether a generation prompt follows -> text.
        closer: the template's own text behind an answer, whether it is the last -> what of it closes the answer.
        special: matches any special token.
    """

    apply: Callable[[list[Turn], Sequence[Any], bool], str]
    closer: Callable[[str, bool], str]
    special: re.Pattern[str]

    def section(self, conversation: Conversation) -> Section:
        """The whole conversation, with tools.

        Raises:
            BadRow: the template leaves out tools, calls, results or turns, or it is not certain where a turn with
                calls begins.
        """
        tools, turns = conversation.tools, [_turn(message) for message in conversation.messages]
        real = self._with_shown_tools(turns, tools, False)
        places = self._places(turns, tools, real, False)
        segments, done = [], 0
        answering = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
        for number, following in zip(answering, [*answering[1:], None], strict=True):
            start, end = places[number]
            if turns[number].get("tool_calls"):
                start = self._start(turns, number, tools, real)
            behind = real[end : len(real) if following is None else places[following][0]]
            end += len(self._closing(behind, following is None, bool(turns[number].get("tool_calls"))))
            start = len(real[:start].rstrip(" "))  # a tokenizer joins a space to the word that follows
            if start < done:
                raise BadRow("the chat template mixes turns of the assistant", "split the conversation")
            self._check_arguments(turns[number], real[start:end])
            segments += [Segment(real[done:start], False)] * (start > done)
            segments.append(Segment(real[start:end], conversation.messages[number].in_loss))
            done = end
        segments += [Segment(real[done:], False)] * (len(real) > done)
        _check_others_are_there(turns, real)
        return Section(tuple(segments), ends_with_eos=False)

    def prompt(self, asked: Conversation) -> str:
        """The text that an answer follows: the template's generation prompt ends it, as the answer may be a call.

        Args:
            asked: turns that end with the user's, or a tool's.

        Raises:
            BadRow: the template leaves out tools, calls, results or turns, or its answers do not begin there.
        """
        tools, turns = asked.tools, [_turn(message) for message in asked.messages]
        real = self._with_shown_tools(turns, tools, True)
        answered = self.apply([*turns, _marked(_turn(Message("assistant", "a")), 0)], tools, False)
        mark = MARK.search(answered, len(real))
        if mark is None or not answered.startswith(real):
            raise BadRow(
                "the chat template renders what comes before an answer differently once it is there",
                "use another chat template",
            )
        if header := self.special.search(answered, len(real), mark.start()):
            raise BadRow(
                f"the chat template writes {header.group()} before an answer, but not into its generation prompt",
                "use a chat template with a generation prompt",
            )
        self._places(turns, tools, real, True)
        _check_others_are_there(turns, real)
        for turn in turns:
            self._check_arguments(turn, real)
        return real.rstrip(" ")  # a tokenizer joins a space to the word that follows

    def _with_shown_tools(self, turns: list[Turn], tools: Sequence[Any], is_prompt: bool) -> str:
        real = self.apply(turns, tools, is_prompt)
        if tools and real == self.apply(turns, (), is_prompt):
            raise BadRow(
                "the chat template ignores the row's tools", "use a chat template with tools (chatml has them)"
            )
        return real

    def _places(
        self, turns: list[Turn], tools: Sequence[Any], real: str, is_prompt: bool
    ) -> dict[int, tuple[int, int]]:
        """Turn of the assistant -> characters [first, last) of the text from its first to its last mark."""
        marked = self.apply([_marked(turn, number) for number, turn in enumerate(turns)], tools, is_prompt)
        pieces = re.split(f"({MARK.pattern})", marked)
        exact = dict(text for number, turn in enumerate(turns) for text in _texts(turn, number))
        if sorted(pieces[1::2]) != sorted(exact):
            raise BadRow(
                "the chat template does not show every answer and tool call once",
                "use another template, or split the row",
            )
        for texts in (exact, {mark: text.strip() for mark, text in exact.items()}):
            if "".join(texts.get(piece, piece) for piece in pieces) == real:
                break
        else:
            raise BadRow("the chat template changes the text of answers or calls", "use another chat template")
        places: dict[int, tuple[int, int]] = {}
        done = 0
        for piece in pieces:
            length = len(texts.get(piece, piece))
            if piece in texts:
                number = int(re.findall("\\d+", piece)[0])
                places[number] = (places.get(number, (done, 0))[0], done + length)
            done += length
        return places

    def _start(self, turns: list[Turn], number: int, tools: Sequence[Any], real: str) -> int:
        """Where a turn with calls begins: where the prompt for it ends."""
        prompt = self.apply(turns[:number], tools, True)
        if not real.startswith(prompt):
            raise BadRow(
                f"message {number + 1} calls a tool, but the chat template renders what comes before it differently "
                "once the conversation goes on, so that its position is uncertain",
                "split the conversation into rows that end with such a turn",
            )
        return len(prompt)

    def _closing(self, behind: str, is_last: bool, has_calls: bool) -> str:
        """What belongs to an answer behind its last mark: the rest of a call, and what closes it."""
        found = self.special.search(behind) if has_calls else None
        rest = behind[: found.start()] if found else ""
        return rest + self.closer(behind[len(rest) :], is_last)

    @staticmethod
    def _check_arguments(turn: Turn, text: str) -> None:
        for call in turn.get("tool_calls", ()):
            for value in _leaves(call["function"]["arguments"]):
                if value not in text:
                    raise BadRow(
                        f"the chat template leaves {value[:40]} out of a tool call", "use a chat template with tools"
                    )


def _turn(message: Message) -> Turn:
    turn: Turn = {"role": message.role, "content": message.text}
    if message.tool_calls:
        turn["tool_calls"] = list(message.tool_calls)
    return {**turn, **message.of_tool}


def _marked(turn: Turn, number: int) -> Turn:
    """A turn of the assistant with marks for its text and for the names that it calls."""
    if turn["role"] != "assistant":
        return turn
    marked = {**turn, "content": f"\ue000{number}\ue001" if turn["content"].strip() else turn["content"]}
    if "tool_calls" in turn:
        marked["tool_calls"] = [
            {**call, "function": {**call["function"], "name": f"\ue000{number}:{place}\ue002"}}
            for place, call in enumerate(turn["tool_calls"])
        ]
    return marked


def _texts(turn: Turn, number: int) -> Iterator[tuple[str, str]]:
    """Marks of a turn of the assistant, with what they stand for."""
    if turn["role"] != "assistant":
        return
    if turn["content"].strip():
        yield f"\ue000{number}\ue001", turn["content"]
    for place, call in enumerate(turn.get("tool_calls", ())):
        yield f"\ue000{number}:{place}\ue002", call["function"]["name"]


def _leaves(value: Any) -> Iterator[str]:
    """Texts and numbers in a call's arguments, as JSON writes them, without quotes."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in below:
        yield from _leaves(one)
    if isinstance(value, str | int | float):
        yield _in_json(value)


def _in_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).strip('"')


def _check_others_are_there(turns: list[Turn], real: str) -> None:
    """Check that the other turns are in the text; results of tools may be there as JSON text."""
    for number, turn in enumerate(turns, 1):
        text = turn["content"].strip()
        if turn["role"] != "assistant" and text not in real and _in_json(text) not in real:
            raise BadRow(f"the chat template leaves out message {number} ({turn['role']})", "use another chat template")
