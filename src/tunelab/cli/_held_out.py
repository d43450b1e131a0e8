"""`eval` without --benchmarks: evaluates a run, or a model with data, on held-out rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import print_table, progress_bar, quick_imports, say, say_base
from tunelab.cli._json import held_out_document, print_json
from tunelab.cli._recipe_arguments import given_flags, recipe_of, refuse_flags
from tunelab.cli._words import is_change, is_recipe_file
from tunelab.errors import UsageError
from tunelab.evaluation.metrics.unseen import not_seen
from tunelab.progress import Progress
from tunelab.report.table import EQUAL_VALUES, has_equal_values, score_rows
from tunelab.units import format_change, format_counted, format_number

if TYPE_CHECKING:
    from tunelab.answering.held_out_evaluation import Scores


def evaluate_held_out(arguments: argparse.Namespace) -> int:
    """Evaluate, and show the arms side by side."""
    run_directory = _run_directory(arguments)
    settings = {name: getattr(arguments, name) for name in ("limit", "max_new_tokens", "micro_batch_tokens")}
    for name, value in settings.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {value}, expected a positive integer")
    with progress_bar() as progress:
        if run_directory:
            with quick_imports():
                from tunelab.answering.held_out_evaluation import evaluate

            scores = evaluate(run_directory, **settings, base=arguments.base, progress=progress)
        else:
            scores = _evaluate_model(arguments, progress)
    if arguments.json:
        print_json(held_out_document(scores))
    else:
        show(scores)
    return 0


def show(scores: Scores) -> None:
    """Print the table on stdout and a summary on stderr."""
    print_table(*score_rows(scores.arms))
    everything = [score for found in scores.arms.values() for score in found]
    for said in dict.fromkeys(line for found in scores.arms.values() for line in not_seen(found)):
        say(said)
    for notice in scores.notices:
        say(notice)
    if any(map(has_equal_values, everything)):
        say(EQUAL_VALUES)
    change = scores.loss_change
    if change is not None and change.error:
        say(
            f"\ncompletion loss: tuned minus base = {format_change(change.value, change.error)} nats per token "
            f"(negative is better), paired over {format_counted(change.n, 'row')} "
            f"({format_number(abs(change.value) / change.error, 1)} standard errors)"
        )
    say(
        f"± is one standard error over {format_counted(scores.rows, 'held-out row')}; answers and scores: {scores.path}"
    )


def _run_directory(arguments: argparse.Namespace) -> str | None:
    """The run to evaluate; None if a recipe or --model says what to evaluate. Raises UsageError."""
    words: list[str] = arguments.words
    named = [word for word in words if not is_change(word) and not is_recipe_file(word)]
    if not named:
        if arguments.model or any(is_recipe_file(word) for word in words):
            if arguments.base is not None:
                raise UsageError("--base without a run", "a model is named with --model alone")
            return None
        raise UsageError("nothing to evaluate", "give a run directory, or --model with --data")
    if not Path(named[0]).is_dir():
        raise UsageError(f"{named[0]}: no such run", "give the directory that `tunelab train` printed, or --model NAME")
    others = list(words)
    others.remove(named[0])
    flags = [name for name in given_flags(arguments) if name != "--limit"]
    if given := [*others, *flags, *(["--adapter"] if arguments.adapter else [])]:
        raise UsageError(
            f"a run is evaluated with its own recipe; {', '.join(given)} cannot change it",
            "omit it (--limit, --max-new-tokens and --micro-batch-tokens are allowed), or use --model and --data",
        )
    return named[0]


def _evaluate_model(arguments: argparse.Namespace, progress: Progress) -> Scores:
    refuse_flags(arguments, ("--method", "--seed"), "nothing is trained", "omit it; data.seed=N samples other rows")
    for name in ("max_new_tokens", "micro_batch_tokens"):
        if getattr(arguments, name) is not None:
            arguments.words.append(f"evaluate.{name}={getattr(arguments, name)}")
    recipe = recipe_of(arguments)
    with quick_imports():
        from tunelab.answering.held_out_evaluation import evaluate_model

    say_base(recipe.model.name)
    # Next to the recipe's `out`, not in it: a run can start only in an empty directory.
    out = Path(arguments.out or (f"{recipe.out}-evaluations" if recipe.out else "evaluations"))
    adapter = Path(arguments.adapter) if arguments.adapter else None
    return evaluate_model(recipe, adapter=adapter, out=out, progress=progress)
