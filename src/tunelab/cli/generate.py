"""Generate answers with a tuned model, its base, or any model: streamed, or from a file to a file.

Examples:
  tunelab generate runs/alpaca --prompt "Name three colors."
  tunelab generate runs/alpaca --arm base --prompt "Hello." --temperature 0.7
  tunelab generate runs/alpaca --file prompts.jsonl --out answers.jsonl
  tunelab generate --model distilgpt2 --raw --prompt "The sun is"
  tunelab generate --model distilgpt2 --adapter DIR --prompt "Name a color."
  tunelab generate runs/alpaca --benchmarks ifeval --limit 50

A line of prompts.jsonl: {"prompt": "..."}, {"messages": [...]} with optional "tools", or {"instruction": "...",
"input": "..."}, and an optional "id". With --out, answers are appended as they finish: after an interruption, the same
command resumes. At the end they are in the order of the prompts: JSON Lines with prompt and text;
ANSWERS.jsonl.settings.json has the settings. With --benchmarks, responses are stored and their paths printed; `tunelab
score` scores them on any machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tunelab.cli._benchmarks import add_benchmark_arguments, check_flags, compute_changes, generate_on
from tunelab.cli._console import quick_imports, say_base
from tunelab.cli._decoding_arguments import add_decoding_arguments, decoding_of
from tunelab.cli._recipe_arguments import add_base_argument
from tunelab.cli._words import is_change
from tunelab.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the prompts, and the decoding settings."""
    changes = "a finished run's directory; or, with --model, overrides such as train.dtype=bf16"
    parser.add_argument("words", nargs="*", metavar="RUN | key=value", help=changes)
    parser.add_argument("--model", metavar="NAME", help="instead of RUN: hub name, folder or .gguf file of a model")
    parser.add_argument("--adapter", metavar="DIR", help="with --model: PEFT adapter directory")
    parser.add_argument("--template", metavar="NAME", help="with --model: prompt template; default: as in chat")
    add_base_argument(parser)
    parser.add_argument("--arm", choices=("base", "tuned"), help="which model answers (default: tuned if there is one)")
    parser.add_argument("--raw", action="store_true", help="use the prompt text as is, without a template")
    parser.add_argument("--prompt", metavar="TEXT", action="append", help="a prompt; may be repeated")
    parser.add_argument("--file", metavar="PROMPTS.jsonl", help="prompts, one JSON object per line")
    parser.add_argument("--out", metavar="ANSWERS.jsonl", help="output file; with --benchmarks: output directory")
    parser.add_argument("--micro-batch-tokens", metavar="N", type=int, help="tokens per forward pass (default 4096)")
    flags = add_benchmark_arguments(parser)
    flags.add_argument("--limit", metavar="N", type=int, help="maximum prompts of --file, or items per benchmark")
    flags.add_argument("--precision", metavar="FORMAT", help="with --model: weight format, such as nf4")
    add_decoding_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check the arguments, open the model, generate."""
    if arguments.benchmarks is not None:
        return generate_on(arguments)
    check_flags(arguments, ("chat_template", "backend"))
    if (arguments.file is None) == (arguments.prompt is None):
        raise UsageError("give either --prompt TEXT or --file PROMPTS.jsonl", "tunelab generate --help shows examples")
    if arguments.raw and arguments.template is not None:
        raise UsageError("--raw and --template exclude each other", "omit one of them")
    if arguments.out is not None and arguments.file is None:
        raise UsageError("--out needs --file", "answers to --prompt go to stdout: redirect with > FILE")
    if arguments.limit is not None and arguments.file is None:
        raise UsageError("--limit needs --file or --benchmarks", "it is the number of prompts, or of items")
    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError(f"--limit is {arguments.limit}, expected a positive integer")
    decoding = decoding_of(arguments)
    with quick_imports():
        from tunelab.answering.generate import open_responder
        from tunelab.cli._answers import answer_file, answer_prompts
        from tunelab.data.prompts import read_prompts

    prompts = read_prompts(arguments.file)[: arguments.limit] if arguments.file is not None else []
    asked = {name: getattr(arguments, name) for name in ("model", "adapter", "arm", "template", "raw", "base")}
    changes = [*compute_changes(arguments), *(word for word in arguments.words if is_change(word))]
    responder = open_responder(_run_directory(arguments), **asked, changes=changes)
    if arguments.model is not None:
        say_base(arguments.model)
    if arguments.prompt is not None:
        answer_prompts(responder, arguments.prompt, decoding, arguments.micro_batch_tokens)
    else:
        answer_file(responder, prompts, arguments.out, decoding, arguments.micro_batch_tokens)
    return 0


def _run_directory(arguments: argparse.Namespace) -> Path | None:
    named = [word for word in arguments.words if not is_change(word)]
    if len(named) > 1:
        raise UsageError(f"two runs: {named[0]} and {named[1]}", "give one; pass prompt text with --prompt")
    if named and not Path(named[0]).is_dir():
        raise UsageError(f"{named[0]}: no such run", "give the directory that `tunelab train` printed, or --model NAME")
    return Path(named[0]) if named else None
