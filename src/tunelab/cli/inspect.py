"""Show what the model sees: rows as tokens, with the tokens in the loss marked.

Examples:
  tunelab inspect --model distilgpt2 --data alpaca
  tunelab inspect recipe.yaml --rows 5
  tunelab inspect --model ./my-model --data rows.jsonl --template chat --rows 1
  tunelab inspect recipe.yaml --rows 0         (only the summary)

On a terminal, target tokens are colored; elsewhere they are in [[ ]]. Nothing is trained; bad rows are counted, not
fatal.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from tunelab.cli._console import print_table, progress_bar, say
from tunelab.cli._json import add_json_flag, inspected_document, print_json
from tunelab.cli._recipe_arguments import add_recipe_arguments, recipe_of
from tunelab.cli._shown_rows import shown_rows
from tunelab.cli._token_text import print_row
from tunelab.config import Recipe

if TYPE_CHECKING:
    from tunelab.data.prepared import PreparedData

#: Of the rows' lengths, besides the longest.
PERCENTILES = (50, 90, 99)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe, and how many rows to show."""
    add_recipe_arguments(parser)
    parser.add_argument("--rows", metavar="N", type=int, default=3, help="training rows to show (default 3)")
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Tokenize, show rows, then a summary."""
    recipe = recipe_of(arguments)
    from tunelab.preparation.rows import check_local_files, load_recipe_tokenizer, prepare_with

    check_local_files(recipe.data)
    tokenizer = load_recipe_tokenizer(recipe)
    skipping = recipe.model_copy(update={"data": recipe.data.model_copy(update={"on_bad_row": "skip"})})
    with progress_bar() as progress:
        data = prepare_with(tokenizer, skipping, progress=progress)
    rows = shown_rows(recipe, data, arguments.rows)
    if arguments.json:
        return print_json(inspected_document(data, tokenizer, rows))
    for number, (ids, targets) in enumerate(rows, 1):
        print_row(tokenizer, number, ids, targets, data.stop_token_ids)
    _show_summary(recipe, data, tokenizer)
    return 0


def _show_summary(recipe: Recipe, data: PreparedData, tokenizer: Any) -> None:
    from tunelab.data.prepared import MOST_SHOWN
    from tunelab.training.forecast import few_rows_warning

    sides = (data.train, data.train_counts), (data.held_out, data.held_out_counts)
    columns = ("", "training", "held-out")
    rows: list[tuple[str, ...]] = [
        ("rows", *(f"{counts.kept:,}" for _, counts in sides)),
        ("tokens", *(f"{counts.tokens:,}" for _, counts in sides)),
        ("target tokens", *(f"{counts.targets:,}" for _, counts in sides)),
        ("longest row", *(f"{counts.longest:,}" for _, counts in sides)),
        *((f"length, p{one}", *(_percentile(table.lengths, one) for table, _ in sides)) for one in PERCENTILES),
        ("steps", _steps(recipe, data), "-"),
        ("truncated", *(f"{counts.truncated:,}" for _, counts in sides)),
        ("dropped, too long", *(f"{counts.dropped_too_long:,}" for _, counts in sides)),
        ("dropped, bad", *(f"{counts.bad:,}" for _, counts in sides)),
        ("rows with dropped characters", *(f"{counts.lossy:,}" for _, counts in sides)),
    ]
    print_table(columns, rows)
    for source in data.sources:
        left_out = "".join(f", {count:,} {what}" for what, count in source.left_out.items())
        say(f"{source.origin}: {source.rows_read:,} rows read, {source.bad:,} bad{left_out}; license: {source.licence}")
    for reason in data.bad_rows[:MOST_SHOWN]:
        say(f"bad: {reason}")
    if len(data.bad_rows) > MOST_SHOWN:
        say(f"bad: and {len(data.bad_rows) - MOST_SHOWN:,} more")
    if warning := few_rows_warning(len(data.held_out)):
        say(warning)
    stops = ", ".join(str(tokenizer.convert_ids_to_tokens(id)) for id in data.stop_token_ids)
    say(f"stop tokens: {stops}")


def _percentile(lengths: list[int], share: int) -> str:
    """The shortest length that this percentage of the rows does not exceed."""
    return f"{sorted(lengths)[math.ceil(len(lengths) * share / 100) - 1]:,}" if lengths else "-"


def _steps(recipe: Recipe, data: PreparedData) -> str:
    from tunelab.training.setup import training_plan

    return f"{training_plan(recipe, data.train).total_steps:,}"
