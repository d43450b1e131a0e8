"""Chat with a tuned model, its base, or both side by side, with the prompt template used in training.

Examples:
  tunelab chat runs/alpaca
  tunelab chat runs/alpaca --set temperature=0.7 --set top_p=0.9
  tunelab chat --model distilgpt2 --adapter runs/alpaca/adapter
  tunelab chat --model distilgpt2 --template alpaca
  tunelab chat --model ./my-instruct-model --tools functions.json
  tunelab chat runs/alpaca < questions.txt > answers.txt

In the chat, /help lists the commands. Without a terminal, each line of stdin is a question or a command: answers go
to stdout, everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import quick_imports, say, say_base
from tunelab.cli._recipe_arguments import add_base_argument
from tunelab.errors import UsageError

if TYPE_CHECKING:
    from tunelab.answering.chat import Chat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, or a model with or without an adapter; and the initial settings."""
    parser.add_argument("run", metavar="RUN", nargs="?", help="directory of a finished run")
    parser.add_argument("--model", metavar="NAME", help="instead of RUN: hub name, folder or .gguf file of a model")
    parser.add_argument("--adapter", metavar="DIR", help="with --model: PEFT adapter directory")
    template = "with --model: prompt template; default: that of the adapter's run, else the chat template, else alpaca"
    parser.add_argument("--template", metavar="NAME", help=template)
    parser.add_argument("--precision", metavar="FORMAT", help="with --model: weight format: nf4, int8, mxfp4, ...")
    add_base_argument(parser)
    parser.add_argument("--system", metavar="TEXT", default="", help="the system message")
    parser.add_argument("--tools", metavar="FILE.json", help="functions that the model may call, as in OpenAI's API")
    settings = "generation setting, such as temperature=0.7 or max_new_tokens=256; /set lists them"
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help=settings)


def run(arguments: argparse.Namespace) -> int:
    """Open the chat and run it until the user or the piped input ends it."""
    _check(arguments)
    from tunelab.answering.chat_settings import changed
    from tunelab.cli._chat_loop import ChatLoop
    from tunelab.inference.sampling import Decoding

    for assignment in arguments.set:
        changed(Decoding(), assignment)  # report a wrong one before models are loaded
    chat = _open(arguments)
    for assignment in arguments.set:
        chat.session.configure(assignment)
    if arguments.system:
        chat.session.set_system(arguments.system)
    say(f"{chat.title}, template {chat.template}; {chat.session.answering} answers")
    return ChatLoop(chat.session, interactive=sys.stdin.isatty()).run()


def _open(arguments: argparse.Namespace) -> Chat:
    with quick_imports():
        from tunelab.answering import chat
        from tunelab.data.prompts import read_tools

    tools = read_tools(arguments.tools) if arguments.tools else ()
    if arguments.run is not None:
        return chat.chat_with_run(Path(arguments.run), base=arguments.base, tools=tools)
    say_base(arguments.model)
    how = {"template": arguments.template, "precision": arguments.precision or "none"}
    return chat.chat_with_model(arguments.model, adapter=arguments.adapter or None, tools=tools, **how)


def _check(arguments: argparse.Namespace) -> None:
    """Check the arguments before anything heavy is imported. Raises UsageError."""
    if arguments.run is None and arguments.model is None:
        if arguments.adapter is not None:
            raise UsageError("--adapter without --model", "give the base model that it was trained on: --model NAME")
        raise UsageError("nothing to chat with", "give a run directory, or --model NAME")
    if arguments.run is None:
        if arguments.base is not None:
            raise UsageError("--base without a run", "a model is named with --model alone")
        return
    for name in ("model", "adapter", "template", "precision"):
        if getattr(arguments, name) is not None:
            raise UsageError(
                f"RUN and --{name}: a run has its own model, adapter and template",
                f"omit --{name}, or give --model NAME instead of RUN",
            )
    if not Path(arguments.run).is_dir():
        raise UsageError(
            f"{arguments.run}: no such run", "give the directory that `tunelab train` printed, or --model NAME"
        )
