"""Chat with a tuned model, its base, or both side by side, in the template that it was trained with.

Examples:
  tunelab chat runs/alpaca
  tunelab chat runs/alpaca --set temperature=0.7 --set top_p=0.9
  tunelab chat --model distilgpt2 --adapter runs/alpaca/adapter
  tunelab chat --model distilgpt2 --template alpaca
  tunelab chat runs/alpaca < questions.txt > answers.txt

/help, once inside, lists the commands. Without a terminal, each line of stdin is a question or a command: answers go
to stdout, all other words to stderr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import say
from tunelab.errors import UsageError

if TYPE_CHECKING:
    from tunelab.answering.chat import Chat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, or a model with or without an adapter; and what is set from the start."""
    parser.add_argument("run", metavar="RUN", nargs="?", help="directory of a finished run")
    parser.add_argument("--model", metavar="NAME", help="in place of RUN: hub name or local folder of a model")
    parser.add_argument("--adapter", metavar="DIR", help="with --model: a PEFT adapter on it")
    parser.add_argument(
        "--template",
        metavar="NAME",
        help="with --model: prompt template; default: the one that the adapter's run was trained with, else the "
        "tokenizer's chat template, else alpaca",
    )
    parser.add_argument("--precision", metavar="FORMAT", help="with --model: how it is stored, nf4, int8, mxfp4, ...")
    parser.add_argument("--system", metavar="TEXT", default="", help="the system message")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting of the answers, such as temperature=0.7 or max_new_tokens=256; /set lists them",
    )


def run(arguments: argparse.Namespace) -> int:
    """Open the chat, and talk until the person or the piped input ends it."""
    _check(arguments)
    from tunelab.answering.chat_session import changed
    from tunelab.cli._chat_loop import ChatLoop
    from tunelab.inference.sampling import Decoding

    for assignment in arguments.set:
        changed(Decoding(), assignment)  # a wrong one is told before models are loaded
    chat = _open(arguments)
    for assignment in arguments.set:
        chat.session.configure(assignment)
    if arguments.system:
        chat.session.set_system(arguments.system)
    say(f"{chat.title}, template {chat.template}; {chat.session.answering} answers")
    return ChatLoop(chat.session, interactive=sys.stdin.isatty()).run()


def _open(arguments: argparse.Namespace) -> Chat:
    from tunelab.answering import chat

    if arguments.run is not None:
        return chat.chat_with_run(Path(arguments.run))
    adapter = Path(arguments.adapter) if arguments.adapter else None
    how = {"template": arguments.template, "precision": arguments.precision or "none"}
    return chat.chat_with_model(arguments.model, adapter=adapter, **how)


def _check(arguments: argparse.Namespace) -> None:
    """Whether the words on the command line go together; before anything heavy is imported."""
    if arguments.run is None and arguments.model is None:
        if arguments.adapter is not None:
            raise UsageError("--adapter without --model", "name the base model that it was trained on: --model NAME")
        raise UsageError("nothing to chat with", "give a run's directory, or --model NAME")
    if arguments.run is None:
        return
    for name in ("model", "adapter", "template", "precision"):
        if getattr(arguments, name) is not None:
            raise UsageError(
                f"RUN and --{name}: a run has its own model, adapter and template",
                f"leave --{name} away, or give --model NAME in place of RUN",
            )
    if not Path(arguments.run).is_dir():
        raise UsageError(
            f"{arguments.run}: no such run", "give the directory that `tunelab train` printed, or --model NAME"
        )
