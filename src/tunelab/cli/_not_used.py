"""What `prepare` and `inspect` say about what is not used: columns, and characters that the tokenizer drops."""

from __future__ import annotations

from collections import Counter

from tunelab.cli._console import say
from tunelab.data.prepared import PreparedData
from tunelab.data.vocabulary import dropped_characters, dropped_from_template


def say_unread_columns(data: PreparedData) -> None:
    """One line per source with columns that hold something and are not read."""
    for source in data.sources:
        if source.unread:
            shown = ", ".join(f"{column} ({rows:,} rows)" for column, rows in source.unread.items())
            say(f"{source.origin}: columns that are not read: {shown}")


def say_dropped_characters(data: PreparedData) -> None:
    """One line for all splits, and one if the prompt template itself has such characters."""
    splits = [counts for _, counts in data.splits.values()]
    total = sum(one.lost_characters for one in splits)
    if total:
        counts = sum((Counter(one.lost) for one in splits), Counter[str]())
        rows = f"{sum(one.lossy for one in splits):,} of {sum(one.kept for one in splits):,} rows"
        say(dropped_characters(counts, total, rows))
    if data.lost_of_template:
        say(dropped_from_template(data.lost_of_template))
