"""Tokenise a recipe's rows ahead of time, so that training tokenises nothing.

Examples:
  tunelab prepare --model distilgpt2 --data alpaca
  tunelab prepare recipe.yaml data.template=chat data.max_length=2048

The cache is keyed by data, template, tokenizer and settings: `tunelab train` with the same ones finds it, and a stale
one is never used. It lies in $TUNELAB_CACHE, else in the user's cache directory.
"""

from __future__ import annotations

import argparse

from tunelab.cli._console import print_table, progress_bar, say
from tunelab.cli._recipe_arguments import add_recipe_arguments, recipe_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe in any form."""
    add_recipe_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prepare, and show what became of the rows."""
    recipe = recipe_of(arguments)
    from tunelab.data.prepared import MOST_SHOWN, cache_directory
    from tunelab.preparation.rows import prepare

    with progress_bar() as progress:
        data = prepare(recipe, progress=progress)
    columns = ("side", "rows", "tokens", "targets", "longest", "truncated", "too long", "bad", "lossy")
    rows = [
        (
            side,
            f"{counts.kept:,}",
            f"{counts.tokens:,}",
            f"{counts.targets:,}",
            f"{counts.longest:,}",
            f"{counts.truncated:,}",
            f"{counts.dropped_too_long:,}",
            f"{counts.bad:,}",
            f"{counts.lossy:,}",
        )
        for side, counts in (("training", data.train_counts), ("held-out", data.held_out_counts))
    ]
    print_table(columns, rows)
    lost = data.train_counts.lost_characters + data.held_out_counts.lost_characters
    if lost:
        say(f"the tokenizer cannot spell {lost:,} characters of these rows and leaves them out (lossy: their rows)")
    for reason in data.bad_rows[:MOST_SHOWN]:
        say(f"left out: {reason}")
    if len(data.bad_rows) > MOST_SHOWN:
        say(f"left out: and {len(data.bad_rows) - MOST_SHOWN:,} more")
    say(f"{'found in' if data.from_cache else 'written to'} {cache_directory() / data.key}")
    return 0
