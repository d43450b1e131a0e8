"""A chat with an engine that says what it is told to, for the tests of its state."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from tiny import tiny_tokenizer

from tunelab.answering.chat_session import ChatSession
from tunelab.data.messages import Conversation, Message
from tunelab.data.templates import get_template
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import ModelError
from tunelab.inference.row import Generation, StopReason
from tunelab.inference.sampling import Decoding


class Actor:
    """In place of the engine: says what it is told to, and writes down what it was asked."""

    def __init__(self, says: str = " ok") -> None:
        self.says = says
        self.end: StopReason = "stop"
        self.calls: list[dict[str, Any]] = []
        self.closed = 0

    def stream(
        self, model: Any, tokenizer: Any, prompt_ids: Any, decoding: Decoding, *, stop_token_ids: Any
    ) -> Generator[str, None, Generation]:
        self.calls.append({"model": model, "prompt": list(prompt_ids), "decoding": decoding, "stop": stop_token_ids})
        try:
            for letter in self.says:
                if letter == "!":
                    raise KeyboardInterrupt
                if letter == "#":
                    raise ModelError("out of memory")
                yield letter
        finally:
            self.closed += 1
        return Generation(0, (), self.says, self.end, len(prompt_ids))


def session(
    template: str = "plain",
    tokenizer: Any = None,
    *,
    models: str = "base tuned",
    jinja: str | None = None,
    **options: Any,
) -> ChatSession:
    tokenizer = tokenizer or tiny_tokenizer()
    opened: list[str] = []

    def source(name: str) -> Any:
        @contextmanager
        def model() -> Iterator[str]:
            opened.append(name)
            yield name
            opened.append(f"{name} left")

        return model

    if jinja is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = jinja
    chosen = get_template(template, tokenizer)
    encoder = RowEncoder(tokenizer, chosen)
    made = ChatSession({name: source(name) for name in models.split()}, encoder, **{"context": None, **options})
    made.opened = opened  # type: ignore[attr-defined]
    return made


def say(chat: ChatSession, question: str) -> str:
    return "".join(piece.text for piece in chat.ask(question).pieces)


def trained_prompt(tokenizer: Any, template: Any, *texts: str, system: str = "") -> list[int]:
    """The tokens before the last answer of a training row that holds this conversation."""
    turns = [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]
    row = RowEncoder(tokenizer, template).encode(
        Conversation((*([Message("system", system)] if system else []), *turns))
    )
    ids: list[int] = row.input_ids[: row.prompt_length].tolist()
    return ids
