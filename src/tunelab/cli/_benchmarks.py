"""`--benchmarks`: what `eval` and `generate` share when benchmarks are asked in place of held-out rows or prompts."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab import plugins
from tunelab.cli._console import print_data, progress_bar, say
from tunelab.errors import UsageError

if TYPE_CHECKING:
    from tunelab.answering.benchmark_responses import BenchmarkSettings, StoredResponses

FOLDER = "evaluation/benchmarks"
_OPTION = re.compile(r"([A-Za-z_][\w-]*)\.([\w.]+)\s*=(.*)", re.DOTALL)

#: Flags that mean nothing where benchmarks are asked, by their names among the arguments.
_OF_ROWS = ("data", "method", "size", "seed", "prompt", "file")
_OF_DECODING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """--benchmarks and what belongs to it."""
    flags = parser.add_argument_group(
        "benchmarks", "A benchmark's own options are words NAME.KEY=VALUE, such as mmlu.shots=0 or ifeval.data=DIR."
    )
    known = ", ".join(plugins.names(FOLDER))
    flags.add_argument("--benchmarks", "--tasks", metavar="NAMES", help=f"benchmarks, by commas: {known}")
    flags.add_argument(
        "--chat-template",
        action=argparse.BooleanOptionalAction,
        help="ask in the model's (or run's) template, or in raw text; default: as each benchmark does",
    )
    flags.add_argument(
        "--backend", choices=("tunelab", "vllm"), help="what writes answers (default tunelab); vLLM where installed"
    )
    return flags


def check_flags(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Raises UsageError where flags are given that need --benchmarks."""
    for name in names:
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} needs --benchmarks", "name them: --benchmarks mmlu,ifeval")


def evaluate_on(arguments: argparse.Namespace) -> int:
    """Ask and score; a table for each benchmark, with a column an arm."""
    subject, names, settings = _asked(arguments)
    from tunelab.answering.benchmark_responses import evaluate_benchmarks
    from tunelab.cli.score import show

    with progress_bar() as progress:
        found = evaluate_benchmarks(subject, names, settings, progress=progress)
    for one in found:
        show(one.benchmark, dict(one.arms))
        _say_how(one.responses.values())
    return 0


def generate_on(arguments: argparse.Namespace) -> int:
    """Ask alone; the path of each file of responses on stdout."""
    subject, names, settings = _asked(arguments)
    from tunelab.answering.benchmark_responses import generate_benchmarks

    with progress_bar() as progress:
        stored = generate_benchmarks(subject, names, settings, progress=progress)
    for one in stored:
        print_data(str(one.path))
    _say_how(stored)
    say("score them, on any machine: tunelab score " + " ".join(str(one.path) for one in stored))
    return 0


def _say_how(stored: Iterable[StoredResponses]) -> None:
    for one in stored:
        wording = "as raw text" if one.template is None else f"as one user turn in the template {one.template}"
        said = [f"{one.benchmark} {one.arm}: {one.count:,} items, asked {wording}"]
        said += [f"{one.cut:,} answers were cut at the limit of tokens"] if one.cut else []
        said += [f"{one.truncated:,} prompts lost their beginning: the context is shorter"] if one.truncated else []
        say("; ".join(said))
        for notice in one.notices:
            say(notice)


def _asked(arguments: argparse.Namespace) -> tuple[str, list[str], BenchmarkSettings]:
    """Who is asked, the benchmarks, and how. Raises UsageError."""
    useless = [name for name in (*_OF_ROWS, *_OF_DECODING) if getattr(arguments, name, None) is not None]
    useless += ["raw"] if getattr(arguments, "raw", False) else []
    if useless:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        raise UsageError(f"{flags} cannot be used with --benchmarks", "a benchmark says what is asked, and how")
    names = [name.strip() for name in arguments.benchmarks.split(",") if name.strip()]
    options, changes, subjects = _sorted_words(arguments.words, names)
    subject = one_subject(arguments, subjects)
    is_run = (Path(subject) / "recipe.yaml").exists()
    if is_run and arguments.out is not None:
        raise UsageError(f"{subject}: a run keeps its responses with itself", "leave --out away")
    from tunelab.answering.benchmark_responses import BenchmarkSettings

    precision = [f"precision.name={arguments.precision}"] if arguments.precision else []
    settings = BenchmarkSettings(
        options=options,
        limit=arguments.limit,
        arms=(arguments.arm,) if arguments.arm else (),
        adapter=Path(arguments.adapter) if arguments.adapter else None,
        template=arguments.template,
        in_template=arguments.chat_template,
        changes=(*precision, *changes),
        max_new_tokens=arguments.max_new_tokens,
        micro_batch_tokens=arguments.micro_batch_tokens,
        out=Path(arguments.out or "evaluations"),
        backend=arguments.backend or "tunelab",
    )
    return subject, names, settings


def one_subject(arguments: argparse.Namespace, words: Sequence[str]) -> str:
    """Who is asked, by a word or by --model. Raises UsageError where there is none, or more than one."""
    subjects: list[str] = [*words, *([arguments.model] if arguments.model else [])]
    if len(subjects) != 1:
        given = f"several: {', '.join(subjects)}" if subjects else "nothing that could be asked"
        raise UsageError(given, "give one run's directory, or one model's name or folder")
    return subjects[0]


def _sorted_words(
    words: Sequence[str], benchmarks: Sequence[str]
) -> tuple[dict[str, dict[str, str]], list[str], list[str]]:
    """Options by benchmark and key, changes of the recipe, and everything else: who is asked."""
    labels = {Path(name).stem if name.endswith(".py") else name for name in (*benchmarks, *plugins.names(FOLDER))}
    options: dict[str, dict[str, str]] = {}
    changes, others = [], []
    for word in words:
        found = _OPTION.fullmatch(word)
        if found and found[1] in labels:
            options.setdefault(found[1], {})[found[2]] = found[3]
        elif "=" in word and not Path(word).is_dir():
            changes.append(word)
        else:
            others.append(word)
    return options, changes, others
