"""Rows that occur twice, exactly or nearly, within a split and between splits.

Near-duplicates are found by MinHash (Broder 1997) over 3-grams of words, with locality-sensitive hashing (the library
rensa, an extra); each pair that it proposes is then compared exactly. Lee et al. 2022, arXiv 2107.06499, say why it
matters: models repeat what they saw twice, and held-out rows that are in the training data measure memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from tunelab.linting.finding import Check, Flagged
from tunelab.linting.rows import LintedRows
from tunelab.linting.words import WordTable, table_of, words_of
from tunelab.units import format_counted

#: Rows are near-duplicates from this Jaccard similarity of their 3-grams on.
SIMILARITY = 0.8
NGRAM = 3
#: MinHash: values per row, and bands of them; a pair of exactly this similarity is found with probability 1 - 5e-8.
VALUES, BANDS, SEED = 128, 32, 7
#: Candidates of one row that are compared exactly.
MOST_COMPARED = 64

LIBRARY = "rensa"
NOT_INSTALLED = (
    "near-duplicates were not looked for: the library rensa is not installed (pip install 'tunelab[near-duplicates]')"
)


@dataclass(frozen=True)
class Twins:
    """Rows that another one before them is like.

    Args:
        exact: row -> the first row with the same words.
        near: row -> an earlier row with nearly the same words.
        prompts: row -> the first row with the same words in its prompt.
    """

    exact: dict[int, int]
    near: dict[int, int]
    prompts: dict[int, int]


def has_library() -> bool:
    """Whether near-duplicates can be found."""
    return find_spec(LIBRARY) is not None


#: Three checks ask for the same.
_known: WeakKeyDictionary[LintedRows, Twins] = WeakKeyDictionary()


def twins(rows: LintedRows) -> Twins:
    """What is like what among these rows."""
    if rows not in _known:
        _known[rows] = _twins(rows)
    return _known[rows]


def _twins(rows: LintedRows) -> Twins:
    exact: dict[int, int] = {}
    prompts: dict[int, int] = {}
    new = _words_of_new(rows, exact, prompts)
    if has_library():
        table = table_of(new)
        return Twins(exact, _near(table, [place for place in range(len(rows)) if place not in exact]), prompts)
    for _ in new:
        pass
    return Twins(exact, {}, prompts)


def _words_of_new(rows: LintedRows, exact: dict[int, int], prompts: dict[int, int]) -> Iterator[list[str]]:
    """The words of each row that no earlier one has the same as; fills `exact` and `prompts`, as in Twins.

    One pass, in which each text is taken apart once: that is most of the time of this check.
    """
    first: dict[str, int] = {}
    first_prompts: dict[str, int] = {}
    for place, (prompt, answer) in enumerate(zip(rows.prompts, rows.answers, strict=True)):
        of_prompt = words_of(prompt)
        if (earlier := first_prompts.setdefault(_key(of_prompt, prompt), place)) != place:
            prompts[place] = earlier
        words = [*of_prompt, *words_of(answer)]
        if (earlier := first.setdefault(_key(words, f"{prompt}\n{answer}"), place)) != place:
            exact[place] = earlier
        else:
            yield words


def _key(words: list[str], text: str) -> str:
    return " ".join(words) or text.strip()  # signs alone are compared as they are


def _near(table: WordTable, places: list[int]) -> dict[int, int]:
    """Row -> an earlier one with nearly the same words, of the rows in these places with these words."""
    from rensa import RMinHash, RMinHashLSH

    grams, starts = table.padded_ngrams(NGRAM)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams, starts.astype(np.uint64), VALUES, SEED)
    flags = RMinHashLSH(SIMILARITY, VALUES, BANDS).query_duplicate_flags_matrix_one_shot(matrix)
    candidates = np.flatnonzero(flags).tolist()
    sets = {place: frozenset(grams[starts[place] : starts[place + 1]].tolist()) for place in candidates}
    sets = {place: one for place, one in sets.items() if one}
    sketches = RMinHash.from_token_sets(
        [[gram.to_bytes(8, "little") for gram in one] for one in sets.values()], VALUES, SEED
    )
    index: Any = RMinHashLSH(SIMILARITY, VALUES, BANDS)
    found = {}
    for (place, own), sketch in zip(sets.items(), sketches, strict=True):
        like = (other for other in islice(sorted(index.query(sketch)), MOST_COMPARED) if _alike(own, sets[other]))
        if (earlier := next(like, None)) is None:
            index.insert(place, sketch)
        else:
            found[places[place]] = places[earlier]
    return found


def _alike(a: frozenset[int], b: frozenset[int]) -> bool:
    both = len(a & b)
    return both >= SIMILARITY * (len(a) + len(b) - both)


def duplicates(rows: LintedRows) -> Flagged:
    """Rows with the same words as an earlier one of their split."""
    return _within(rows, twins(rows).exact, "the same words as an earlier one")


def near_duplicates(rows: LintedRows) -> Flagged:
    """Rows with nearly the same words as an earlier one of their split."""
    return _within(rows, twins(rows).near, "nearly the same words as an earlier one")


def _within(rows: LintedRows, found: dict[int, int], what: str) -> Flagged:
    same = {row: other for row, other in found.items() if rows.split_of(row) == rows.split_of(other)}
    counted = format_counted(len(same), "row")
    return Flagged(f"{counted} with {what} of the same split", list(same), lambda row: _pair(rows, row, same[row]))


def leaked_rows(rows: LintedRows) -> Flagged:
    """Held-out and validation rows that are among the training rows, or nearly."""
    found = twins(rows)
    pairs = {**found.near, **found.prompts, **found.exact}
    across = {row: other for row, other in pairs.items() if rows.split_of(row) != rows.split_of(other)}
    exact = sum(row in found.exact for row in across)
    same_prompt = sum(row in found.prompts and row not in found.exact for row in across)
    what = (
        f"{format_counted(len(across), 'held-out or validation row')} of which another split has the same words "
        f"({exact:,}), the same prompt ({same_prompt:,}), or nearly the same words "
        f"({len(across) - exact - same_prompt:,})"
    )
    return Flagged(what, sorted(across), lambda row: _pair(rows, row, across[row]))


def _pair(rows: LintedRows, row: int, other: int) -> str:
    return f"like {rows.origins[other]}: {rows.prompts[row][:120]} → {rows.answers[row][:120]}"


CHECKS = (
    Check(
        "duplicates",
        "warning",
        "the model sees these rows more often than the others, and tends to repeat them word for word",
        "remove them from the file",
        duplicates,
    ),
    Check(
        "near-duplicates",
        "warning",
        "they count as several rows and teach little more than one",
        "keep one of each group, if the variants are not wanted",
        near_duplicates,
    ),
    Check(
        "leaked-rows",
        "warning",
        "held-out scores then measure memory as well, and look better than they are",
        "remove the duplicates before the rows are split",
        leaked_rows,
    ),
)
