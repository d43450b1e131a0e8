"""A conversation with one model, or with two that share it: history, next prompt, generation of the answers.

The prompt of a turn is what training would have put before the answer: same template, same tokenizer, same code
(tunelab.data.tokenize.RowEncoder), with the conversation so far. This module prints nothing. A front end asks, streams
the reply and shows its `notices`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunelab.answering.chat_settings import changed
from tunelab.data.called_tools import called_tools
from tunelab.data.messages import Conversation, Message, check_conversation
from tunelab.data.prompts import leading_text, turn_columns
from tunelab.data.tokenize import RowEncoder
from tunelab.data.vocabulary import dropped_characters
from tunelab.errors import BadRow, DataError, ModelError, UsageError
from tunelab.files import truncate_file
from tunelab.inference import engine
from tunelab.inference.sampling import Decoding

if TYPE_CHECKING:
    from torch import nn

    from tunelab.inference.row import Generation

BASE, TUNED, BOTH = "base", "tuned", "both"

MODELS_HINT = "chat with a run, or give --adapter with --model, to have a base and a tuned model"

#: Yields the model for one answer; may load it on first use.
ModelSource = Callable[[], AbstractContextManager["nn.Module"]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question, or a tool's result, and the answer with which the conversation continues.

    Args:
        role: whose turn the question is: "user", or "tool" for the result of the call in the answer before.
        answered_by: "base" or "tuned".
        end: why the answer ended: "stop" = the model ended it; "length", "context" = it hit the limit; "interrupted" =
            the user stopped it. All but the first are truncated.
    """

    question: str
    answer: str
    answered_by: str
    end: str
    role: Literal["user", "tool"] = "user"

    @property
    def is_cut(self) -> bool:
        return self.end != "stop"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer's text, and the model that generated it."""

    model: str
    text: str


@dataclass
class Reply:
    """The answers to one question. Iterate over `pieces`; the rest is complete when the iteration ends.

    Args:
        models: which models answer, in order; the conversation continues with the last one's answer.
        prompt_ids: [tokens], the prompt.
        decoding: the settings of this answer, including its own seed.
        notices: what the user should know before the answer.
        pieces: the answers' text as it is generated. Closing it early (or Ctrl-C) keeps the text so far. Reading it
            raises UsageError while another reply of the session is being read.
        texts: model -> its answer so far.
        ends: model -> why its answer ended (see Exchange); absent if it never started.
        exchange: what was added to the conversation; None if there was no text to keep.
    """

    question: str
    models: tuple[str, ...]
    prompt_ids: tuple[int, ...]
    decoding: Decoding
    notices: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    exchange: Exchange | None = None
    role: Literal["user", "tool"] = "user"
    pieces: Generator[Piece, None, None] = field(init=False, repr=False)


class ChatSession:
    """The state of a conversation.

    Args:
        models: "tuned", "base" or both -> how to get the model.
        encoder: of the template that the tuned model was trained with.
        context: context length of the models; None = unknown.
        decoding: sampling settings.
        tools: the functions that the model may call, as in a Conversation; its calls are text.

    Raises:
        BadRow: the template cannot render any conversation, or ignores the tools.
        ModelError: the template has no token that ends an answer.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSource],
        encoder: RowEncoder,
        *,
        context: int | None,
        decoding: Decoding | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._models = dict(models)
        self.tools = tuple(tools)
        self._tokenizer = encoder.tokenizer
        self._encoder = encoder
        self._context = context
        self.decoding = decoding or Decoding()
        self.stop_token_ids = frozenset(self._encoder.stop_token_ids())
        self.system = ""
        self.exchanges: list[Exchange] = []
        self.answering = TUNED if TUNED in self._models else BASE
        self._answers_made = 0
        self._first = 0  # the oldest exchange that still fits into the prompt
        # What the template itself puts before an answer (a space) is not part of the answer's text.
        self._leading = self._text_before_an_answer()
        self._prompt_ids([], "a", "")
        self.takes_several_turns = self._takes_several_turns()
        self._told_alone = False
        self._is_answering = False

    def answer_with(self, which: str) -> None:
        """Answer with "base", "tuned" or "both" from now on.

        Raises:
            UsageError: there is no such model here.
        """
        missing = [name for name in ((BASE, TUNED) if which == BOTH else (which,)) if name not in self._models]
        if missing:
            raise UsageError(f"there is no {missing[0]} model here", MODELS_HINT)
        self.answering = which

    def set_system(self, text: str) -> None:
        """Set the system message, or clear it with an empty text; it applies to the whole conversation.

        Raises:
            BadRow: the template does not accept it; the previous one stays.
        """
        self._prompt_ids([], "a", text.strip())
        self.system = text.strip()
        self._first = 0

    def configure(self, assignments: str) -> None:
        """Change decoding settings: "temperature=0.7 top_p=0.9". On an error, nothing changes.

        Raises:
            UsageError: unknown setting, or invalid value.
        """
        self.decoding = changed(self.decoding, assignments)
        self._first = 0
        if re.search(r"(^|\s)seed\s*=", assignments):
            self._answers_made = 0

    def undo(self) -> Exchange:
        """Remove the last question and its answer from the conversation, and return them.

        Raises:
            UsageError: the conversation is empty.
        """
        if not self.exchanges:
            raise UsageError("there is nothing to undo: the conversation is empty")
        self._first = 0
        return self.exchanges.pop()

    def reset(self) -> None:
        """Start a new conversation. System message, settings and models stay; the seed count restarts."""
        self.exchanges.clear()
        self._first = 0
        self._answers_made = 0

    def give(self, result: str) -> Reply:
        """As ask(), with the result of the call in the last answer in place of a question.

        Raises:
            UsageError: the result is empty, the last answer calls none of the tools, or several of them.
        """
        calls = called_tools(self.exchanges[-1].answer, self.tools)[1] if self.exchanges else ()
        if not self.tools:
            raise UsageError("this conversation has no tools", "start the chat with --tools FILE.json")
        if len(calls) != 1:
            said = "calls none of the tools" if not calls else f"makes {len(calls)} calls"
            raise UsageError(f"the last answer {said}: expected one call", "ask the question again, or another one")
        return self.ask(result, "tool")

    def ask(self, question: str, role: Literal["user", "tool"] = "user") -> Reply:
        """Prepare the answer to a question; it is generated while the reply's pieces are read.

        The n-th answer since the start, since reset() or since the seed was set uses `seed + n`.

        Raises:
            UsageError: the question is empty.
            BadRow: the template cannot render the question.
            ModelError: the question alone is too long. On any error the conversation stays as it was.
        """
        if not question.strip():
            what = "question" if role == "user" else "result"
            raise UsageError(f"the {what} is empty", f"type a {what}")
        notices = []
        if not self.takes_several_turns and self.exchanges and not self._told_alone:
            notices.append("the chat template supports one turn only: the model does not see earlier questions")
        first, prompt_ids = self._fitting_prompt(question, role)
        if first > self._first and self.takes_several_turns:
            left_out = "question and its answer is" if first == 1 else f"{first} questions and their answers are"
            notices.append(f"the conversation exceeds the model's context window: the oldest {left_out} left out")
        if lost := self._encoder.vocabulary.lost(question):
            notices.append(dropped_characters(Counter(lost), len(lost), "this question"))
        self._first = first
        self._told_alone = self._told_alone or bool(self.exchanges)
        self._answers_made += 1
        reply = Reply(
            question=question,
            models=(BASE, TUNED) if self.answering == BOTH else (self.answering,),
            prompt_ids=tuple(prompt_ids),
            decoding=dataclasses.replace(self.decoding, seed=self.decoding.seed + self._answers_made),
            notices=tuple(notices),
            role=role,
        )
        reply.pieces = self._answer(reply)
        return reply

    def save(self, path: Path) -> int:
        """Append the conversation to a JSON Lines file in tunelab's training format; returns the number of lines.

        Exchanges of a single-turn template become one line each.

        Raises:
            UsageError: the conversation is empty.
            DataError: the file cannot be written.
        """
        if not self.exchanges:
            raise UsageError("there is nothing to save: the conversation is empty")
        groups = [self.exchanges] if self.takes_several_turns else [[exchange] for exchange in self.exchanges]
        lines = []
        for group in groups:
            turns = check_conversation(Conversation(self._messages(self.system, group))).messages
            line: dict[str, Any] = {"messages": [turn_columns(turn) for turn in turns]}
            line |= {"tools": self.tools} if self.tools else {}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        before = b""
        try:
            before = path.read_bytes() if path.exists() else b""
            with open(path, "a", encoding="utf-8", newline="\n") as file:
                file.write("\n" if before and not before.endswith(b"\n") else "")
                file.write("".join(lines))
        except OSError as error:
            with suppress(OSError):  # no half of a line stays in the file
                truncate_file(path, len(before)) if before else path.unlink(missing_ok=True)
            raise DataError(f"{path}: cannot be written: {error.strerror}", "choose another file") from error
        return len(lines)

    def _answer(self, reply: Reply) -> Generator[Piece, None, None]:
        if self._is_answering:  # base and tuned are one model, whose adapter is on or off
            raise UsageError(
                "the answer before is still being generated", "read its pieces to the end, or close them, then ask"
            )
        self._is_answering = True
        try:
            for name in reply.models:
                yield from self._answer_of(name, reply)
        except (GeneratorExit, KeyboardInterrupt):
            self._keep(reply)
            raise
        finally:
            self._is_answering = False
        self._keep(reply)

    def _answer_of(self, name: str, reply: Reply) -> Generator[Piece, None, None]:
        said, shown = "", ""
        reply.texts[name], reply.ends[name] = "", "interrupted"
        with self._models[name]() as model, closing(self._stream(model, reply)) as pieces:
            while True:
                try:
                    said += next(pieces)
                except StopIteration as end:
                    reply.ends[name] = end.value.stop_reason
                    return
                content = "" if self._leading.startswith(said) else said.removeprefix(self._leading)
                new, shown = content[len(shown) :], content
                reply.texts[name] = content
                if new:
                    yield Piece(name, new)

    def _stream(self, model: nn.Module, reply: Reply) -> Generator[str, None, Generation]:
        return engine.stream(
            model, self._tokenizer, reply.prompt_ids, reply.decoding, stop_token_ids=self.stop_token_ids
        )

    def _keep(self, reply: Reply) -> None:
        """Add the last model's answer to the conversation, unless it is empty: training data has no empty answers."""
        name = reply.models[-1]
        answer = reply.texts.get(name, "").rstrip()
        if answer.strip():
            reply.exchange = Exchange(reply.question, answer, name, reply.ends[name], reply.role)
            self.exchanges.append(reply.exchange)

    def _fitting_prompt(self, question: str, role: Literal["user", "tool"]) -> tuple[int, list[int]]:
        """The first exchange that is kept, and the prompt from there on, which leaves room for an answer."""
        roles = [*(one.role for one in self.exchanges), role]
        room = self.decoding.max_new_tokens
        start = self._first if self.takes_several_turns else len(self.exchanges)
        length = 0
        for first in range(start, len(self.exchanges) + 1):
            if roles[first] == "tool":  # a result needs its call
                continue
            ids = self._prompt_ids(self.exchanges[first:], question, self.system, role)
            length = len(ids)
            if self._context is None or length + room <= self._context:
                return first, ids
        raise ModelError(
            f"the question is too long: {length:,} tokens with the template; the model's context window of "
            f"{self._context:,} minus max_new_tokens={room} leaves {max(0, (self._context or 0) - room):,}",
            "ask a shorter question, or lower max_new_tokens (/set max_new_tokens=N)",
        )

    def _prompt_ids(
        self, exchanges: list[Exchange], question: str, system: str, role: Literal["user", "tool"] = "user"
    ) -> list[int]:
        """What comes before the next answer where the conversation is a training row."""
        asked = [*exchanges, Exchange(question, "", "", "", role)]
        return self._encoder.prompt_ids(Conversation(self._messages(system, asked)[:-1], tools=self.tools))

    def _messages(self, system: str, exchanges: Sequence[Exchange]) -> tuple[Message, ...]:
        """The turns; an answer whose call got a result is one with that call, as the template writes it."""
        messages = [Message("system", system)] if system else []
        for number, exchange in enumerate(exchanges):
            messages.append(Message(exchange.role, exchange.question))
            if exchange.role == "tool":
                call = messages[-2].tool_calls[0]
                of_tool = {"name": call["function"]["name"], "tool_call_id": call["id"]}
                messages[-1] = dataclasses.replace(messages[-1], of_tool=of_tool)
            has_result = number + 1 < len(exchanges) and exchanges[number + 1].role == "tool"
            content, calls = called_tools(exchange.answer, self.tools) if has_result else (exchange.answer, ())
            identified = tuple({**call, "id": f"call{number:05}"} for call in calls)  # Mistral's have 9 characters
            messages.append(Message("assistant", content, tool_calls=identified))
        return tuple(messages)

    def _text_before_an_answer(self) -> str:
        return leading_text(self._encoder.template)

    def _takes_several_turns(self) -> bool:
        try:
            self._prompt_ids([Exchange("a", "b", TUNED, "stop")], "c", "")
        except BadRow:
            return False  # a single turn was rendered before, so it is supported
        return True
