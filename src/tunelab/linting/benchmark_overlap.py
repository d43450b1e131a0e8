"""Training rows that share text with the items of a benchmark.

A 13-gram of words in both counts as an overlap, as in GPT-3's contamination study (Brown et al. 2020, arXiv 2005.14165,
appendix C); 13-grams of more than ten items are the benchmark's own frame, and are left out as there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunelab.linting.finding import Check, Finding, Flagged, found_by
from tunelab.linting.rows import LintedRows
from tunelab.linting.words import word_table
from tunelab.units import format_counted

NAME = "benchmark-overlap"
NGRAM = 13
#: 13-grams of more items than this are not an item's own.
MOST_ITEMS = 10


def benchmark_overlap(rows: LintedRows, benchmark: str, items: Sequence[tuple[str, str]]) -> Finding | None:
    """The rows that share 13 words in a row with an item; None if there are none.

    Args:
        items: id and text of each.
    """
    check = Check(
        NAME,
        "warning",
        "scores on these items measure memory as well, and look better than they are",
        "remove the rows, or do not evaluate on this benchmark",
        lambda rows: _overlap(rows, benchmark, items),
    )
    return found_by(check, rows)


def too_short(items: Sequence[tuple[str, str]]) -> int:
    """Items with fewer than 13 words, of which no row can be found."""
    return int((np.diff(word_table([text for _, text in items]).starts) < NGRAM).sum())


def _overlap(rows: LintedRows, benchmark: str, items: Sequence[tuple[str, str]]) -> Flagged:
    vocabulary: dict[str, int] = {}
    table = word_table([text for _, text in items], vocabulary)
    grams, owners = table.ngrams(NGRAM)
    own, first, counts = np.unique(grams, return_index=True, return_counts=True)
    own, first = own[counts <= MOST_ITEMS], first[counts <= MOST_ITEMS]
    texts = [f"{prompt}\n{answer}" for prompt, answer in zip(rows.prompts, rows.answers, strict=True)]
    of_rows, row_numbers = word_table(texts, vocabulary).ngrams(NGRAM)
    shared = np.flatnonzero(np.isin(of_rows, own))
    item_of = {
        int(row_numbers[place]): items[owners[first[np.searchsorted(own, of_rows[place])]]][0]
        for place in reversed(shared.tolist())
    }
    found = sorted(item_of)
    short = int((np.diff(table.starts) < NGRAM).sum())
    what = (
        f"{format_counted(len(found), 'training row')} with {NGRAM} words in a row of "
        f"{format_counted(len(set(item_of.values())), 'item')} of {benchmark}"
    )
    if short:
        what += f" ({short:,} of its {len(items):,} items are shorter and cannot be found)"
    return Flagged(what, found, lambda row: f"{benchmark} {item_of[row]}: {rows.prompts[row]}")
