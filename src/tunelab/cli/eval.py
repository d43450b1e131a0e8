"""Measure base and tuned models on held-out rows: perplexity, bits per byte, BLEU, ROUGE, each with its error.

Examples:
  tunelab eval runs/alpaca
  tunelab eval runs/alpaca --limit 50 --max-new-tokens 64
  tunelab eval --model distilgpt2 --data alpaca --size 800
  tunelab eval --model distilgpt2 --adapter runs/alpaca/adapter --data alpaca --size 800

Answers are stored as they are made: an evaluation that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import print_table, progress_bar, say
from tunelab.cli._recipe_arguments import add_recipe_arguments, recipe_of
from tunelab.errors import UsageError
from tunelab.report.table import score_rows

if TYPE_CHECKING:
    from tunelab.workflows.evaluate import Scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, or a model with data."""
    add_recipe_arguments(parser)
    parser.add_argument("--adapter", metavar="DIR", help="with --model: a PEFT adapter to measure beside its base")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, help="tokens of an answer at most")
    parser.add_argument("--batch-tokens", metavar="N", type=int, help="tokens computed at once; changes no score")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and show the arms side by side."""
    words = arguments.words
    is_run = len(words) == 1 and Path(words[0]).is_dir()
    if not is_run and not arguments.model and not any(word.endswith((".yaml", ".yml")) for word in words):
        raise UsageError("nothing to evaluate", "give a run's directory, or --model with --data")
    with progress_bar() as progress:
        if is_run:
            _refuse_recipe_flags(arguments)
            from tunelab.workflows.evaluate import evaluate

            scores = evaluate(
                words[0],
                limit=arguments.limit,
                max_new_tokens=arguments.max_new_tokens,
                batch_tokens=arguments.batch_tokens,
                progress=progress,
            )
        else:
            scores = _evaluate_model(arguments, progress)
    show(scores)
    return 0


def show(scores: Scores) -> None:
    """The table on stdout; what it means in words on stderr."""
    print_table(*score_rows(scores.arms))
    if scores.gain is not None and scores.gain.error:
        gain = scores.gain
        assert gain.error is not None
        say(
            f"\nresponse loss: base less tuned = {gain.value:+.4f} ± {gain.error:.4f} nats per token, paired over "
            f"{gain.n} rows ({abs(gain.value) / gain.error:.1f} standard errors)"
        )
    say(f"± is one standard error over rows; answers and scores: {scores.path}")


def _evaluate_model(arguments: argparse.Namespace, progress: object) -> Scores:
    for name in ("max_new_tokens", "batch_tokens"):
        if getattr(arguments, name) is not None:
            arguments.words.append(f"evaluate.{name}={getattr(arguments, name)}")
    recipe = recipe_of(arguments)
    from tunelab.workflows.evaluate import evaluate_model

    adapter = Path(arguments.adapter) if arguments.adapter else None
    out = Path(recipe.out or "evaluations")
    return evaluate_model(recipe, adapter=adapter, out=out, progress=progress)  # type: ignore[arg-type]


def _refuse_recipe_flags(arguments: argparse.Namespace) -> None:
    names = ("model", "data", "method", "size", "template", "out", "seed", "adapter")
    given = [f"--{name}" for name in names if getattr(arguments, name) is not None]
    if given:
        raise UsageError(
            f"a run is evaluated on its own recipe; {', '.join(given)} cannot change it",
            "leave them away, or evaluate a model with --model and --data",
        )
