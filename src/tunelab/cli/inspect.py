"""Show what the model sees: rows as tokens, with the tokens in the loss marked.

Examples:
  tunelab inspect --model distilgpt2 --data alpaca
  tunelab inspect recipe.yaml --rows 5
  tunelab inspect --model ./my-model --data rows.jsonl --template chat --rows 1
  tunelab inspect recipe.yaml --rows 0         (only the summary)

On a terminal, target tokens are colored; elsewhere they are in [[ ]]. Nothing is trained; bad rows are counted, not
fatal. The exit code is 1 if no row is left to train on.
"""

from __future__ import annotations

import argparse

from tunelab.cli._console import progress_bar, quick_imports, say, say_base
from tunelab.cli._json import add_json_flag, inspected_document, print_json
from tunelab.cli._recipe_arguments import add_recipe_arguments, recipe_of, refuse_flags
from tunelab.cli._row_summary import show_summary
from tunelab.cli._shown_rows import shown_rows
from tunelab.cli._token_text import print_row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe, and how many rows to show."""
    add_recipe_arguments(parser)
    parser.add_argument("--rows", metavar="N", type=int, default=3, help="training rows to show (default 3)")
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Tokenize, show rows, then a summary."""
    why = "nothing is trained or evaluated, so nothing is written or limited"
    refuse_flags(arguments, ("--out", "--limit"), why, "--rows N shows N rows, --size N samples N")
    refuse_flags(arguments, ("--allow",), "nothing is checked", "`tunelab lint` checks the data")
    recipe = recipe_of(arguments)
    with quick_imports():
        from tunelab.data.prepared import what_to_do, what_was_dropped
        from tunelab.preparation.rows import check_local_files, fit_to_model, prepare_with
        from tunelab.preparation.tokenizer import load_recipe_tokenizer

    check_local_files(recipe.data)
    tokenizer = load_recipe_tokenizer(recipe)
    say_base(recipe.model.name)
    recipe = fit_to_model(recipe, tokenizer)
    skipping = recipe.model_copy(update={"data": recipe.data.model_copy(update={"on_bad_row": "skip"})})
    with progress_bar() as progress:
        data = prepare_with(tokenizer, skipping, may_be_empty=True, progress=progress)
    rows = shown_rows(recipe, data, arguments.rows)
    if arguments.json:
        print_json(inspected_document(data, tokenizer, rows))
        return 0 if len(data.train) else 1
    for number, (ids, targets) in enumerate(rows, 1):
        print_row(tokenizer, number, ids, targets, data.stop_token_ids)
    show_summary(recipe, data, tokenizer)
    if not len(data.train):
        dropped = what_was_dropped(data.train_counts, recipe.data.max_length or 0)
        say(f"error: no training row is left: {dropped}; {what_to_do(data.train_counts, recipe.data.on_overflow)}")
        return 1
    return 0
