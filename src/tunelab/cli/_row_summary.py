"""What `inspect` says about all rows: counts, lengths and steps in a table, and what was dropped, in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tunelab.cli._console import print_table, say
from tunelab.config import Recipe
from tunelab.units import UNKNOWN

if TYPE_CHECKING:
    from tunelab.data.prepared import PreparedData

#: Of the rows' lengths, besides the longest.
PERCENTILES = (50, 90, 99)


def show_summary(recipe: Recipe, data: PreparedData, tokenizer: Any) -> None:
    """The table on stdout, the sentences on stderr."""
    from tunelab.data.not_used import characters_dropped, columns_not_read
    from tunelab.data.prepared import MOST_SHOWN
    from tunelab.training.forecast import few_rows_warning

    sides = tuple(data.splits.values())
    bad_when_read = sum(source.bad for source in data.sources)  # before rows are split
    columns = ("", *data.splits)
    others = len(sides) - 1
    rows: list[tuple[str, ...]] = [
        ("rows", *(f"{counts.kept:,}" for _, counts in sides)),
        ("tokens", *(f"{counts.tokens:,}" for _, counts in sides)),
        ("target tokens", *(f"{counts.targets:,}" for _, counts in sides)),
        ("longest row", *(f"{counts.longest:,}" for _, counts in sides)),
        *((f"length, p{one}", *(_percentile(table.lengths, one) for table, _ in sides)) for one in PERCENTILES),
        ("steps", _steps(recipe, data), *[UNKNOWN] * others),
        ("truncated", *(f"{counts.truncated:,}" for _, counts in sides)),
        ("dropped, too long", *(f"{counts.dropped_too_long:,}" for _, counts in sides)),
        ("dropped, bad", *(f"{counts.bad:,}" for _, counts in sides)),
        *([("dropped, bad when read", f"{bad_when_read:,} in all", *[""] * others)] if bad_when_read else []),
        ("rows with dropped characters", *(f"{counts.lossy:,}" for _, counts in sides)),
    ]
    print_table(columns, rows)
    for source in data.sources:
        left_out = "".join(f", {count:,} {what}" for what, count in source.left_out.items())
        say(f"{source.origin}: {source.rows_read:,} rows read, {source.bad:,} bad{left_out}; license: {source.licence}")
    for sentence in (*columns_not_read(data), *characters_dropped(data)):
        say(sentence)
    for reason in data.bad_rows[:MOST_SHOWN]:
        say(f"bad: {reason}")
    if len(data.bad_rows) > MOST_SHOWN:
        say(f"bad: and {len(data.bad_rows) - MOST_SHOWN:,} more")
    if warning := few_rows_warning(len(data.held_out)):
        say(warning)
    stops = ", ".join(str(tokenizer.convert_ids_to_tokens(id)) for id in data.stop_token_ids)
    say(f"template: {recipe.data.template}; stop tokens: {stops}")


def _percentile(lengths: list[int], share: int) -> str:
    """The shortest length that this percentage of the rows does not exceed."""
    return f"{sorted(lengths)[math.ceil(len(lengths) * share / 100) - 1]:,}" if lengths else UNKNOWN


def _steps(recipe: Recipe, data: PreparedData) -> str:
    from tunelab.training.setup import training_plan

    if not len(data.train):
        return "0"
    return f"{training_plan(recipe, data.train).total_steps:,}"
