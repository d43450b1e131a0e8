"""Predict the memory, disk and time of a training from a model's config.json, before anything is loaded.

Examples:
  tunelab plan meta-llama/Llama-3.2-3B
  tunelab plan Qwen2.5-7B --gpu 24GB adapter.rank=64
  tunelab plan recipe.yaml --gpu "RTX 4090" --data rows.jsonl
  tunelab plan recipe.yaml --gpu T4 --write fits.yaml
  tunelab plan Llama-3.1-8B --gpu A100 --gpus 4 --json

Common models are known offline. With --data the rows are prepared, as `tunelab prepare` does, and their lengths give
steps and hours. Memory is that of tunelab's own loop; it fits if the upper end of the range does.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from tunelab.cli._console import progress_bar, say
from tunelab.cli._json import add_json_flag, print_json
from tunelab.cli._plan_recipe import memory_of, with_name, written
from tunelab.cli._plan_tables import plan_document, show_plan
from tunelab.cli._recipe_arguments import add_recipe_arguments, recipe_of, refuse_flags
from tunelab.cli._words import is_change, is_recipe_file
from tunelab.config import Recipe
from tunelab.errors import UsageError
from tunelab.planning.automatic import with_automatic
from tunelab.planning.cards import card_of
from tunelab.planning.estimate import Plan
from tunelab.planning.known import config_of
from tunelab.planning.rows import RowLengths
from tunelab.planning.shape import shape_of

#: Stands for the data of a plan without any.
NO_DATA = "alpaca"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model or a recipe, a GPU, --write, --json."""
    add_recipe_arguments(parser, subject="MODEL | RECIPE.yaml")
    parser.add_argument("--gpu", metavar="NAME|SIZE", help="what must fit: a GPU's name (T4, RTX 4090, H100), or 24GB")
    parser.add_argument("--gpus", metavar="N", type=int, default=1, help="number of such GPUs")
    parser.add_argument("--write", metavar="RECIPE.yaml", help="write the recipe, changed so that it fits --gpu")
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the plan; with --write, write the recipe that fits."""
    refuse_flags(
        arguments, ("--out", "--limit"), "nothing is trained or evaluated", "--write RECIPE.yaml writes a recipe"
    )
    refuse_flags(arguments, ("--allow",), "the data are not checked", "`tunelab lint` checks them")
    if arguments.gpus < 1:
        raise UsageError(f"--gpus {arguments.gpus}: expected a positive integer", "omit it for one GPU")
    has_rows, has_data = bool(arguments.data), _take_model(arguments)
    recipe, card = recipe_of(arguments), card_of(arguments.gpu) if arguments.gpu else None
    found = config_of(recipe.model.name, recipe.model.revision)
    recipe = with_name(recipe, found.name)
    on_gpu, has_bfloat16 = recipe.train.device != "cpu", card is None or card.has_bfloat16
    if card and not on_gpu:
        raise UsageError("--gpu and train.device=cpu", "omit one of the two")
    shape = shape_of(found.values, found.name)
    plan = Plan(shape, recipe, on_gpu=on_gpu, has_bfloat16=has_bfloat16, gpus=arguments.gpus)
    rows = _lengths(recipe) if has_rows else None
    plan = plan if rows is None else replace(plan, target_share=rows.target_share)
    plan, chosen = with_automatic(plan, memory_of(plan, card))
    if arguments.write:
        plan = written(plan, card, arguments.write, has_data)
    if arguments.json:
        print_json(plan_document(plan, found.source, card, rows, arguments.gpus))
    else:
        show_plan(plan, found, card, rows, arguments.gpus)
    if chosen:
        say(chosen)
    return 0


def _take_model(arguments: argparse.Namespace) -> bool:
    """Move a model among the words to its flag; whether data is named, for which something stands otherwise."""
    files = [word for word in arguments.words if is_recipe_file(word)]
    models = [word for word in arguments.words if not is_change(word) and word not in files]
    if len(models) > 1 or (models and arguments.model):
        raise UsageError(f"two models: {', '.join([*models, arguments.model or ''])}".rstrip(", "), "name one model")
    arguments.words = [word for word in arguments.words if word not in models]
    arguments.model = models[0] if models else arguments.model
    has_data = bool(files or arguments.data or any(word.startswith("data") for word in arguments.words))
    arguments.data = arguments.data or (None if has_data else [NO_DATA])
    return has_data


def _lengths(recipe: Recipe) -> RowLengths:
    from tunelab.preparation.rows import prepare

    with progress_bar() as progress:
        data = prepare(recipe, progress=progress)
    table, counts = data.train, data.train_counts
    targets = sum(table.targets) if recipe.data.loss_on == "completion" else table.tokens - len(table)
    return RowLengths(table.lengths, targets, counts.dropped_too_long, counts.truncated)
