"""What of the data is not used, in sentences: columns, rows, and characters that the tokenizer drops."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from tunelab.data.prepared import PreparedData, RowCounts, what_to_do
from tunelab.data.vocabulary import dropped_characters, dropped_from_template
from tunelab.units import format_counted


def columns_not_read(data: PreparedData) -> list[str]:
    """One sentence per source with columns that hold something and are not read."""
    listed = []
    for source in data.sources:
        if source.unread:
            shown = ", ".join(f"{column} ({rows:,} rows)" for column, rows in source.unread.items())
            listed.append(f"{source.origin}: columns that are not read: {shown}")
    return listed


def characters_dropped(data: PreparedData) -> list[str]:
    """One sentence for all splits, and one if the prompt template itself has such characters."""
    listed = []
    splits = [counts for _, counts in data.splits.values()]
    total = sum(one.lost_characters for one in splits)
    if total:
        counts = sum((Counter(one.lost) for one in splits), Counter[str]())
        rows = f"{sum(one.lossy for one in splits):,} of {sum(one.kept for one in splits):,} rows"
        listed.append(dropped_characters(counts, total, rows))
    if data.lost_of_template:
        listed.append(dropped_from_template(data.lost_of_template))
    return listed


def rows_not_used(data: PreparedData, max_length: int, on_overflow: Literal["drop", "truncate"]) -> list[str]:
    """One sentence each for rows that are dropped since they are too long, truncated, or bad and skipped."""
    splits = {name: counts for name, (_, counts) in data.splits.items()}
    longer = f"longer than {max_length:,} tokens (the longest has {max(c.longest_given for c in splits.values()):,})"
    listed = []
    if dropped := _counted({name: (counts.dropped_too_long, counts) for name, counts in splits.items()}):
        most = max(splits.values(), key=lambda counts: counts.dropped_too_long)
        remedy = what_to_do(most, on_overflow).partition("; ")[0]
        listed.append(f"{dropped} are dropped: {longer}; {remedy}")
    if truncated := _counted({name: (counts.truncated, counts) for name, counts in splits.items()}):
        listed.append(f"{truncated} are truncated: {longer}")
    bad = sum(counts.bad for counts in splits.values()) + sum(source.bad for source in data.sources)
    if bad:
        listed.append(f"{format_counted(bad, 'bad row')} skipped; `tunelab inspect` lists the reasons")
    return listed


def _counted(found: dict[str, tuple[int, RowCounts]]) -> str:
    """ "89 of 270 training rows and 7 of 30 held-out rows"; empty if there are none."""
    return " and ".join(f"{some:,} of {counts.given:,} {name} rows" for name, (some, counts) in found.items() if some)
