"""Evaluate a run or a model on held-out rows (perplexity, BLEU, ROUGE, chrF) or on benchmarks, with standard errors.

Examples:
  tunelab eval runs/alpaca
  tunelab eval runs/alpaca --limit 50 --max-new-tokens 64
  tunelab eval --model distilgpt2 --adapter runs/a/adapter --data alpaca
  tunelab eval runs/alpaca --benchmarks mmlu,ifeval --limit 50
  tunelab eval distilgpt2 --benchmarks mmlu mmlu.shots=0 mmlu.data=mmlu_files
  tunelab eval runs/alpaca --check

A run is evaluated next to its base. Answers are stored as they are generated: run the same command again to resume an
interrupted evaluation. --check measures nothing: a short sanity check says which of a model's scores to distrust.
"""

from __future__ import annotations

import argparse

from tunelab.cli._benchmarks import add_benchmark_arguments, check_flags, evaluate_on
from tunelab.cli._check import evaluate_check
from tunelab.cli._held_out import evaluate_held_out
from tunelab.cli._json import add_json_flag
from tunelab.cli._recipe_arguments import add_base_argument, add_recipe_arguments
from tunelab.errors import SAME_COMMAND, Interrupted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, or a model with data or benchmarks."""
    add_recipe_arguments(parser, subject="RUN | RECIPE.yaml", training=False)
    parser.add_argument("--adapter", metavar="DIR", help="with a model: PEFT adapter to evaluate too")
    add_base_argument(parser)
    parser.add_argument("--max-new-tokens", metavar="N", type=int, help="maximum tokens per answer")
    parser.add_argument("--micro-batch-tokens", metavar="N", type=int, help="tokens per forward pass; changes no score")
    flags = add_benchmark_arguments(parser)
    flags.add_argument("--arm", choices=("base", "tuned"), help="evaluate only this arm; default: all")
    parser.add_argument("--check", action="store_true", help="sanity check on a few easy items")
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and show the arms side by side."""
    if arguments.check:
        return evaluate_check(arguments)
    if arguments.benchmarks is not None:
        return evaluate_on(arguments)
    check_flags(arguments, ("arm", "chat_template", "backend"))
    try:
        return evaluate_held_out(arguments)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was computed so far is stored", f"{SAME_COMMAND} to resume") from None
