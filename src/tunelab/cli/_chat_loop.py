"""The loop of `tunelab chat`: reads lines, runs commands, streams answers.

A terminal has prompts, history and colors; piped, only answers go to stdout and everything else goes to stderr.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tunelab.cli._console import console, is_terminal, say
from tunelab.errors import DataError, TunelabError, UsageError

if TYPE_CHECKING:
    from tunelab.answering.chat_session import ChatSession, Piece, Reply

QUIT = ("quit", "exit", "q", "/quit", "/exit", "/q")
HOW_TO_LEAVE = "to leave: /quit, quit, exit, q or Ctrl-D"
COMMANDS = {
    "base": "switch to the base model",
    "tuned": "switch to the tuned model",
    "both": "both models answer, side by side; the conversation continues with the tuned model's answer",
    "system": "/system TEXT sets the system message, /system alone clears it",
    "set": "/set temperature=0.7 top_p=0.9 changes settings, /set alone shows them",
    "tool": "/tool TEXT gives the result of the call in the last answer, in place of a question (with --tools)",
    "undo": "remove the last question and its answer",
    "reset": "start a new conversation; keep the system message and settings",
    "save": "/save FILE appends the conversation to a JSON Lines file you can train on",
    "help": "show this help",
}
MORE_HELP = f"""\
Ctrl-C stops an answer and keeps what was said. A line that ends with \\ continues on the next one.
To start a question with /, type a space first. {HOW_TO_LEAVE}"""
#: Terminal columns needed to show two answers side by side; below that, one under the other.
WIDE_ENOUGH = 80


class ChatLoop:
    """Reads and answers until the input ends.

    Args:
        interactive: a person is typing; otherwise lines come from a file or a pipe.
    """

    def __init__(self, session: ChatSession, *, interactive: bool) -> None:
        self._session = session
        self._interactive = interactive
        self._failed = False
        self._shown = is_terminal(sys.stdout)
        self._console = console(sys.stdout)

    def run(self) -> int:
        """0, or 1 if a line of piped input failed."""
        if self._interactive:
            with suppress(ImportError):
                import readline  # noqa: F401 - input() has history and editing once it is imported
            say(f"/help lists the commands; {HOW_TO_LEAVE}")
        while (line := self._next_line()) is not None:
            if line.strip() in QUIT:
                break
            try:
                self._obey(line)
            except TunelabError as error:
                self._show_error(error)
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                say(f"\n{HOW_TO_LEAVE}")
        return 1 if self._failed and not self._interactive else 0

    def _next_line(self) -> str | None:
        """The next input with continued lines joined; None at the end of input."""
        lines: list[str] = []
        while True:
            try:
                lines.append(self._read("...> " if lines else "you> "))
                lines[-1].encode()  # in a C locale, Python passes through bytes that are not valid text
            except EOFError:
                if self._interactive:
                    say("")
                return "\n".join(lines) if lines else None
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                say(f"\n{HOW_TO_LEAVE}")
                lines.clear()
                continue
            except (UnicodeDecodeError, UnicodeEncodeError) as error:
                problem = DataError(f"the input is not {sys.stdin.encoding} text: {error.reason}", "write it in UTF-8")
                if not self._interactive:
                    raise problem from error
                self._show_error(problem)
                lines.clear()
                continue
            if not lines[-1].endswith("\\"):
                return "\n".join(lines)
            lines[-1] = lines[-1][:-1]

    def _read(self, prompt: str) -> str:
        if not self._interactive:
            return input()
        if not self._shown:  # stdout is redirected: the prompt must not go there
            print(prompt, end="", file=sys.stderr, flush=True)
            return input()
        # \001 and \002 tell readline that the text between them has zero width.
        return input(prompt if os.environ.get("NO_COLOR") else f"\001\x1b[1m\002{prompt}\001\x1b[0m\002")

    def _show_error(self, error: TunelabError) -> None:
        self._failed = True
        say(f"error: {error.message}")
        if error.hint:
            say(f"hint: {error.hint}")

    def _obey(self, line: str) -> None:
        if not line.strip():
            return
        if not line.startswith("/"):
            self._answer(self._session.ask(line.strip()))
            return
        name, _, text = line[1:].partition(" ")
        name, text = name.strip(), text.strip()
        if name not in COMMANDS:
            near = get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
            known = ", ".join(f"/{command}" for command in COMMANDS)
            raise UsageError(f"unknown command /{name}; did you mean /{near}?", f"known: {known}")
        if text and name not in ("system", "set", "tool", "save"):
            raise UsageError(f"/{name} takes no arguments, got {text!r}", f"enter /{name} alone")
        self._command(name, text)

    def _command(self, name: str, text: str) -> None:
        session = self._session
        if name in ("base", "tuned", "both"):
            session.answer_with(name)
            say("both answer; the tuned model's answer is kept" if name == "both" else f"{name} answers")
        elif name == "system":
            session.set_system(text)
            say("system message set" if text else "no system message")
        elif name == "set":
            if text:
                session.configure(text)
            self._show_settings()
        elif name == "tool":
            self._answer(session.give(text))
        elif name == "undo":
            say(f"removed: {visible(session.undo().question)}")
        elif name == "reset":
            session.reset()
            say("new conversation")
        elif name == "save":
            self._save(text)
        else:
            width = max(map(len, COMMANDS))
            say("\n".join(f"  /{command:<{width}}  {what}" for command, what in COMMANDS.items()))
            say(MORE_HELP)

    def _show_settings(self) -> None:
        for name, value in dataclasses.asdict(self._session.decoding).items():
            say(f"  {name}={json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value}")

    def _save(self, text: str) -> None:
        if not text:
            raise UsageError("/save needs a file", "for example: /save conversations.jsonl")
        path = Path(text).expanduser()
        lines = self._session.save(path)
        cut = sum(exchange.is_cut for exchange in self._session.exchanges)
        say(f"{lines} line{'s' * (lines != 1)} appended to {path}")
        if cut:
            verb = "were" if cut > 1 else "was"
            say(f"{cut} of its answers {verb} cut off: check the file before you train on it")

    def _answer(self, reply: Reply) -> None:
        for notice in reply.notices:
            say(notice)
        with ctrl_c_asks() as asked:
            try:
                self._show(reply, until(reply, asked))
            except KeyboardInterrupt:
                reply.pieces.close()
        interrupted = "interrupted" in reply.ends.values()
        self._tell_end(reply, interrupted)
        if interrupted and not self._interactive:
            raise KeyboardInterrupt

    def _show(self, reply: Reply, pieces: Iterator[Piece]) -> None:
        if len(reply.models) == 2 and self._interactive and self._shown and self._console.width >= WIDE_ENOUGH:
            show_side_by_side(self._console, reply, pieces)
            return
        speaker = ""
        for piece in pieces:
            if piece.model != speaker:
                self._label(piece.model, is_first=not speaker, is_alone=len(reply.models) == 1)
                speaker = piece.model
            sys.stdout.write(visible(piece.text) if self._shown else piece.text)
            sys.stdout.flush()
        print(flush=True)

    def _label(self, model: str, *, is_first: bool, is_alone: bool) -> None:
        if not is_first:
            print(flush=True)
        if self._interactive and self._shown:
            from rich.text import Text

            self._console.print(Text(f"{model}> ", style=style_of(model)), end="")
        elif not is_alone:
            say(f"{model}:")

    def _tell_end(self, reply: Reply, interrupted: bool) -> None:
        if interrupted:
            say("[stopped]" if reply.exchange else "[stopped, no answer; the question is dropped]")
        elif reply.exchange is None:
            say("[empty answer; the question is dropped]")
        for model, end in reply.ends.items():
            who = f"{model}'s answer" if len(reply.models) > 1 else "the answer"
            if end == "length":
                say(f"[{who} was cut off at max_new_tokens={reply.decoding.max_new_tokens}; raise it with /set]")
            elif end == "context":
                say(f"[{who} was cut off: the context window is full]")


def style_of(model: str) -> str:
    """The rich style of a model's name; plain where NO_COLOR is set (rich would leave it bold)."""
    if os.environ.get("NO_COLOR"):
        return ""
    return "bold yellow" if model == "base" else "bold green"


def show_side_by_side(screen: object, reply: Reply, pieces: Iterator[Piece]) -> None:
    """Two columns that fill as the answers are generated; terminals only."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    assert isinstance(screen, Console)

    def columns() -> Table:
        table = Table.grid(expand=True, padding=(0, 2))
        for _ in reply.models:
            table.add_column(ratio=1, overflow="fold")
        table.add_row(*(Text(f"{model}>", style=style_of(model)) for model in reply.models))
        table.add_row(*(Text(visible(reply.texts.get(model, ""))) for model in reply.models))
        return table

    # While streaming, long answers are cut off at the bottom of the screen; at the end they are printed in full.
    with Live(console=screen, get_renderable=columns, transient=True, refresh_per_second=8):
        for _ in pieces:
            pass
    screen.print(columns())


def until(reply: Reply, asked: Callable[[], bool]) -> Iterator[Piece]:
    """The reply's pieces until Ctrl-C is pressed."""
    for piece in reply.pieces:
        yield piece
        if asked():
            reply.pieces.close()
            return


@contextmanager
def ctrl_c_asks() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C was pressed, so that an answer stops between two tokens.

    A second Ctrl-C interrupts at once.
    """
    pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def visible(text: str) -> str:
    """The text with control characters replaced: a model's output must not control the terminal."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) != "Cc" else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
