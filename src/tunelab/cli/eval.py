"""Measure a run, or a model: on held-out rows (perplexity, BLEU, ROUGE), or on benchmarks; each score with its error.

Examples:
  tunelab eval runs/alpaca
  tunelab eval runs/alpaca --limit 50 --max-new-tokens 64
  tunelab eval --model distilgpt2 --adapter runs/alpaca/adapter --data alpaca --size 800
  tunelab eval runs/alpaca --benchmarks mmlu,ifeval --limit 50
  tunelab eval distilgpt2 --benchmarks mmlu --precision nf4 mmlu.shots=0 mmlu.data=mmlu_files
  tunelab eval runs/alpaca --check

A run is measured beside the base that it began with. Answers are stored as they are made: an evaluation that was killed
goes on where it was. With --check nothing is measured: a short protocol tells what of a model's scores to distrust.
"""

from __future__ import annotations

import argparse

from tunelab.cli._benchmarks import add_benchmark_arguments, check_flags, evaluate_on
from tunelab.cli._check import evaluate_check
from tunelab.cli._held_out import evaluate_held_out
from tunelab.cli._recipe_arguments import add_recipe_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, or a model with data or benchmarks."""
    add_recipe_arguments(parser)
    parser.add_argument("--adapter", metavar="DIR", help="with a model: a PEFT adapter to measure beside its base")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, help="tokens of an answer at most")
    parser.add_argument("--micro-batch-tokens", metavar="N", type=int, help="tokens computed at once; changes no score")
    flags = add_benchmark_arguments(parser)
    flags.add_argument("--arm", choices=("base", "tuned"), help="measure this arm alone; default: all there are")
    parser.add_argument("--check", action="store_true", help="ask a few easy items in several ways: what to distrust?")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and show the arms side by side."""
    if arguments.check:
        return evaluate_check(arguments)
    if arguments.benchmarks is not None:
        return evaluate_on(arguments)
    check_flags(arguments, ("arm", "chat_template", "backend"))
    return evaluate_held_out(arguments)
