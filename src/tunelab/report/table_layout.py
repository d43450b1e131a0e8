"""Layout of tables on a terminal of a given width: no word is broken and no number is torn apart."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence

#: Width of a terminal table besides its text: two edges, and per column two spaces and a rule.
_EDGES, _AROUND = 1, 3

#: Longest cell that begins like a number and is kept in one line ("12.34 ± 0.56", "-0.12 to +0.34", "3 min 05 s").
_LONGEST_NUMBER = 24

#: Least width of a value next to a name; narrower terminals wrap it themselves.
_LEAST = 20


def column_parts(columns: Sequence[str], rows: Sequence[Sequence[str]], keys: int, width: int) -> list[list[int]]:
    """The columns in as few tables as possible that fit without broken words; each table repeats the key columns.

    Args:
        keys: number of columns at the left that name a row.
        width: of the terminal, in cells.

    Returns:
        For each table the places of its columns. A table with one column besides the keys may still not fit.
    """
    named = list(range(keys))
    parts = [list(named)]
    for place in range(keys, len(columns)):
        if len(parts[-1]) > keys and not fits(columns, rows, [*parts[-1], place], width):
            parts.append(list(named))
        parts[-1].append(place)
    return parts


def fits(columns: Sequence[str], rows: Sequence[Sequence[str]], places: Sequence[int], width: int) -> bool:
    """Whether the columns fit a terminal without broken words or torn numbers.

    Like rich (Table._collapse_widths), narrows the widest columns first, to an equal width. Leaves a margin of one
    cell, since rich rounds each column separately.
    """
    texts = [[columns[place], *(row[place] for row in rows)] for place in places]
    wanted = [max(map(_width, column)) for column in texts]
    room = width - _EDGES - _AROUND * len(places)
    if sum(wanted) <= room:
        return True
    words = [max((_width(word) for text in column for word in _words(text)), default=0) for column in texts]
    most = max(most for most in range(max(wanted) + 1) if sum(min(one, most) for one in wanted) <= max(room, 0))
    return all(word <= min(want, most - 1) or want < most for word, want in zip(words, wanted, strict=True))


def named_lines(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Rows of a name and a value as lines, for what fits no table. Values are wrapped between words alone; a longer
    word, such as a path, is left for the terminal to wrap, so that it can be copied.
    """
    first = max(len(name) for name, _ in rows) + 2
    room = max(_LEAST, width - first)
    lines = []
    for name, text in rows:
        value = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
        lines.append(f"{name:<{first}}{value[0]}".rstrip())
        lines += [" " * first + line for line in value[1:]]
    return lines


def number_columns(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column whether it is one of numbers: the first never is, another if all its cells are numbers."""
    return [place > 0 and all(_is_number(row[place]) for row in rows) for place in range(len(columns))]


def _is_number(text: str) -> bool:
    return text[:1] in tuple("0123456789+-<–") and len(text) <= _LONGEST_NUMBER


def _words(text: str) -> list[str]:
    """The parts of a text that are kept in one line."""
    if _is_number(text):
        return [text]
    return text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").split(" ")


def _width(text: str) -> int:
    """Width of a text in terminal cells."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
