"""Tokenize a recipe's rows ahead of training.

Examples:
  tunelab prepare --model distilgpt2 --data alpaca
  tunelab prepare recipe.yaml data.template=chat data.max_length=2048

The cache key covers data, template, tokenizer and settings: `tunelab train` with the same ones uses it, and never a
stale one. The cache is in $TUNELAB_CACHE, by default in the user's cache directory.
"""

from __future__ import annotations

import argparse

from tunelab.cli._console import print_table, progress_bar, quick_imports, say
from tunelab.cli._json import add_json_flag, prepared_document, print_json
from tunelab.cli._recipe_arguments import add_recipe_arguments, recipe_of, refuse_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe, --json."""
    add_recipe_arguments(parser)
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prepare, and show the row counts."""
    why = "rows go into the cache, whose key finds them, and all of them are prepared"
    refuse_flags(arguments, ("--out", "--limit"), why, "set TUNELAB_CACHE to move the cache, --size N to sample rows")
    recipe = recipe_of(arguments)
    with quick_imports():
        from tunelab.data.not_used import characters_dropped, columns_not_read
        from tunelab.data.prepared import MOST_SHOWN, cache_directory
        from tunelab.linting.summary import table
        from tunelab.preparation.rows import prepare_and_check

    with progress_bar() as progress:
        data, found = prepare_and_check(recipe, progress)
    if arguments.json:
        return print_json(prepared_document(data, cache_directory() / data.key))
    columns = ("split", "rows", "tokens", "targets", "longest", "truncated", "too long", "bad", "lossy")
    rows = [
        (
            split,
            f"{counts.kept:,}",
            f"{counts.tokens:,}",
            f"{counts.targets:,}",
            f"{counts.longest:,}",
            f"{counts.truncated:,}",
            f"{counts.dropped_too_long:,}",
            f"{counts.bad:,}",
            f"{counts.lossy:,}",
        )
        for split, (_, counts) in data.splits.items()
    ]
    print_table(columns, rows)
    if bad_when_read := sum(source.bad for source in data.sources):
        say(f"{bad_when_read:,} more rows were bad when read, before the split")
    for sentence in (*columns_not_read(data), *characters_dropped(data)):
        say(sentence)
    for reason in data.bad_rows[:MOST_SHOWN]:
        say(f"dropped: {reason}")
    if len(data.bad_rows) > MOST_SHOWN:
        say(f"dropped: and {len(data.bad_rows) - MOST_SHOWN:,} more")
    if said := table(found, recipe.data.allow):
        say(said)
    say(f"{'found in' if data.from_cache else 'written to'} {cache_directory() / data.key}")
    return 0
