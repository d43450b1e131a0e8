"""`--benchmarks`: what `eval` and `generate` share when they run benchmarks instead of held-out rows or prompts."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab import plugins
from tunelab.cli._console import print_data, progress_bar, quick_imports, say, say_base
from tunelab.cli._json import benchmarks_document, print_json
from tunelab.cli._words import comma_separated, is_change
from tunelab.errors import UsageError
from tunelab.units import format_counted

if TYPE_CHECKING:
    from tunelab.answering.benchmark_responses import StoredResponses
    from tunelab.answering.benchmark_settings import BenchmarkSettings
    from tunelab.scoring.score import ScoredFile

FOLDER = "evaluation/benchmarks"
_OPTION = re.compile(r"([A-Za-z_][\w-]*)\.([\w.]+)\s*=(.*)", re.DOTALL)

#: Flags that have no meaning with --benchmarks, by their attribute names.
_OF_ROWS = ("data", "method", "size", "seed", "prompt", "file")
_OF_DECODING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """--benchmarks and the flags that go with it."""
    flags = parser.add_argument_group(
        "benchmarks", "Set a benchmark's own options as NAME.KEY=VALUE, such as mmlu.shots=0 or ifeval.data=DIR."
    )
    known = ", ".join(plugins.names(FOLDER))
    flags.add_argument(
        "--benchmarks",
        "--tasks",
        metavar="NAMES",
        help=f"comma-separated benchmarks: {known}, or your own FILE.jsonl or FILE.py",
    )
    flags.add_argument(
        "--chat-template",
        action=argparse.BooleanOptionalAction,
        help="prompt with the model's (or run's) template, or without one; default: the benchmark's choice",
    )
    flags.add_argument(
        "--backend", choices=("tunelab", "vllm"), help="inference backend (default tunelab); vllm must be installed"
    )
    return flags


def check_flags(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Raises UsageError if a flag that needs --benchmarks is given without it."""
    for name in names:
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} needs --benchmarks", "name them: --benchmarks mmlu,ifeval")


def evaluate_on(arguments: argparse.Namespace) -> int:
    """Generate and score; one table per benchmark, one column per arm."""
    subject, names, settings = _asked(arguments)
    with quick_imports():
        from tunelab.answering.benchmark_responses import evaluate_benchmarks
        from tunelab.cli._scored import ONE_ERROR, say_doubts, show_scores

    with progress_bar() as progress:
        found = evaluate_benchmarks(subject, names, settings, progress=progress)
    if arguments.json:
        return print_json(benchmarks_document(found))
    for one in found:
        show_scores(one.benchmark, dict(one.arms))
        _say_how(one.responses.values(), one.arms)
        say_doubts(dict(one.arms))
    say(ONE_ERROR)
    return 0


def generate_on(arguments: argparse.Namespace) -> int:
    """Generate only; print the path of each response file on stdout."""
    subject, names, settings = _asked(arguments)
    with quick_imports():
        from tunelab.answering.benchmark_responses import generate_benchmarks

    with progress_bar() as progress:
        stored = generate_benchmarks(subject, names, settings, progress=progress)
    for one in stored:
        print_data(str(one.path))
    _say_how(stored)
    code = [word for name in names if name.endswith(".py") for word in ("--allow-code", name)]
    say("score them on any machine: " + shlex.join(["tunelab", "score", *(str(one.path) for one in stored), *code]))
    return 0


def _say_how(stored: Iterable[StoredResponses], scored: Mapping[str, ScoredFile] | None = None) -> None:
    """One line per arm: items, prompts, what was cut (unless scoring warns of it), and the file with its scores."""
    notices: dict[str, None] = {}
    for one in stored:
        how = "without a template" if one.template is None else f"as one user turn in the template {one.template}"
        said = [f"{one.benchmark} {one.arm}: {format_counted(one.count, 'item')}, prompted {how}"]
        file = (scored or {}).get(one.arm)
        is_warned = file is not None and any("token limit" in warning for warning in file.scored.warnings)
        said += [f"{format_counted(one.cut, 'answer')} hit the token limit"] if one.cut and not is_warned else []
        said += [f"{one.truncated:,} prompts were left-truncated to fit"] if one.truncated else []
        said += [f"scores: {file.scores_path}"] if file else []
        say("; ".join(said))
        notices.update(dict.fromkeys(f"{one.benchmark}: {notice}" for notice in one.notices))
    for notice in notices:  # arms with the same prompts have the same ones
        say(notice)


def _asked(arguments: argparse.Namespace) -> tuple[str, list[str], BenchmarkSettings]:
    """The run or model, the benchmarks, and the settings. Raises UsageError."""
    useless = [name for name in (*_OF_ROWS, *_OF_DECODING) if getattr(arguments, name, None) is not None]
    useless += ["raw"] if getattr(arguments, "raw", False) else []
    if useless:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        raise UsageError(f"{flags} cannot be used with --benchmarks", "the benchmark sets prompts and decoding")
    names = comma_separated(arguments.benchmarks)
    options, changes, subjects = sorted_words(arguments.words, names)
    subject = one_subject(arguments, subjects)
    is_run = (Path(subject) / "recipe.yaml").exists()
    if is_run and arguments.out is not None:
        raise UsageError(f"{subject}: a run stores its own responses", "omit --out")
    from tunelab.answering.benchmark_settings import BenchmarkSettings

    if not is_run:
        say_base(subject)

    settings = BenchmarkSettings(
        options=options,
        limit=arguments.limit,
        arms=(arguments.arm,) if arguments.arm else (),
        adapter=Path(arguments.adapter) if arguments.adapter else None,
        template=arguments.template,
        in_template=arguments.chat_template,
        changes=(*compute_changes(arguments), *changes),
        max_new_tokens=arguments.max_new_tokens,
        micro_batch_tokens=arguments.micro_batch_tokens,
        out=Path(arguments.out or "evaluations"),
        backend=arguments.backend or "tunelab",
        base=Path(arguments.base) if arguments.base else None,
    )
    return subject, names, settings


def compute_changes(arguments: argparse.Namespace) -> list[str]:
    """--precision and --dtype as recipe overrides."""
    given = {"precision.name": arguments.precision, "train.dtype": getattr(arguments, "dtype", None)}
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def one_subject(arguments: argparse.Namespace, words: Sequence[str]) -> str:
    """The run or model, from a word or --model. Raises UsageError unless there is exactly one."""
    subjects: list[str] = [*words, *([arguments.model] if arguments.model else [])]
    if len(subjects) != 1:
        given = f"several: {', '.join(subjects)}" if subjects else "no run or model given"
        raise UsageError(given, "give one run directory, or one model name or folder")
    return subjects[0]


def sorted_words(
    words: Sequence[str], benchmarks: Sequence[str]
) -> tuple[dict[str, dict[str, str]], list[str], list[str]]:
    """Options by benchmark and key, recipe overrides, and everything else: the run or model."""
    labels = {plugins.label(name) for name in (*benchmarks, *plugins.names(FOLDER))}
    options: dict[str, dict[str, str]] = {}
    changes, others = [], []
    for word in words:
        found = None if os.path.exists(word) else _OPTION.fullmatch(word)
        if found and found[1] in labels:
            options.setdefault(found[1], {})[found[2]] = found[3]
        elif is_change(word):
            changes.append(word)
        else:
            others.append(word)
    return options, changes, others
