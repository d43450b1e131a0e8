"""Score response files from tunelab or other tools, without a model, on all CPU cores.

Examples:
  tunelab score evaluations/ifeval-base-* evaluations/ifeval-tuned-*
  tunelab score responses.jsonl ifeval.mode=reference
  tunelab score their_responses.jsonl --data ifeval_files
  tunelab score lm_eval_results/distilgpt2 --as mmlu

Writes scores.json and grades.jsonl (values per item) next to responses.jsonl; for FILE.jsonl, to FILE.scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tunelab import plugins
from tunelab.cli._console import say
from tunelab.cli._json import add_json_flag, print_json, scores_document
from tunelab.cli._recipe_arguments import add_code_argument
from tunelab.cli._scored import ONE_ERROR, say_doubts, show_scores
from tunelab.cli._words import paths_and_options
from tunelab.errors import UsageError
from tunelab.records.evaluation_files import RESPONSES
from tunelab.scoring.read_responses import benchmark_of_file
from tunelab.scoring.score import ScoredFile, score_file
from tunelab.units import format_counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files or folders, and benchmark options."""
    words = "a file, or a folder with responses.jsonl or lm-evaluation-harness's samples_*.jsonl; a benchmark's options"
    parser.add_argument("words", nargs="+", metavar="RESPONSES | NAME.KEY=VALUE", help=words)
    parser.add_argument("--as", dest="benchmark", metavar="NAME", help="the benchmark, if a file does not say which")
    parser.add_argument("--data", metavar="DIR", help="the benchmark's files, for responses without targets")
    parser.add_argument("--workers", metavar="N", type=int, help="grading processes (default: one per core)")
    parser.add_argument("--by-group", action="store_true", help="also show scores by group, such as subjects")
    add_code_argument(parser)
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score each file, then show the files of a benchmark side by side."""
    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError(f"--workers is {arguments.workers}, expected a positive integer")
    paths, options = paths_and_options(arguments.words)
    prefixes = [plugins.label(arguments.benchmark or benchmark_of_file(path)) for path in paths]
    if strange := sorted(set(options) - set(prefixes)):
        known = ", ".join(sorted(set(prefixes)))
        raise UsageError(f"options of {', '.join(strange)} are given, but the responses are of {known}", "omit them")
    tables: dict[str, dict[str, ScoredFile]] = {}
    for path, column, prefix in zip(paths, _columns(paths), prefixes, strict=True):
        given = {**({"data": arguments.data} if arguments.data else {}), **options.get(prefix, {})}
        found = score_file(path, benchmark=arguments.benchmark, options=given, workers=arguments.workers)
        tables.setdefault(prefix, {})[column] = found
    if arguments.json:
        return print_json(scores_document(one for files in tables.values() for one in files.values()))
    for name, files in tables.items():
        show_scores(name, files, groups=arguments.by_group)
        say_doubts(files)
        for column, one in files.items():
            say(f"{column}: {format_counted(len(one.graded), 'response')} of {name}; scores: {one.scores_path}")
    say(ONE_ERROR)
    return 0


def _columns(paths: Sequence[Path]) -> list[str]:
    """A short name for each file (the folder's for tunelab's own); the full paths if the names are not unique."""
    named = [path.absolute().parent if path.name == RESPONSES else path.absolute() for path in paths]
    short = [path.name if path.is_dir() else path.stem for path in named]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]
