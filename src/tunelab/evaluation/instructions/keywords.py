"""Words and letters that a text must or must not contain: the instructions keywords:*.

Keywords are regular expressions, as in the original; matching is case-insensitive.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from tunelab.errors import DataError
from tunelab.evaluation.instructions.relation import holds


def existence(text: str, *, keywords: Sequence[str]) -> bool:
    """Every keyword occurs, also as part of a longer word."""
    return all(pattern(keyword).search(text) for keyword in keywords)


def frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """The keyword occurs less than / at least `frequency` times, also counting parts of longer words."""
    return holds(len(pattern(keyword.strip()).findall(text)), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of the words occurs as a whole word."""
    return not any(pattern(rf"\b{word}\b").search(text) for word in forbidden_words)


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """The letter occurs less than / at least `let_frequency` times; any other character ("#") is counted literally."""
    return holds(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


@functools.lru_cache(maxsize=4096)
def pattern(expression: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    """The compiled expression, case-insensitive unless `flags` says otherwise.

    Raises:
        DataError: it is not a valid regular expression.
    """
    try:
        return re.compile(expression, flags)
    except re.error as error:
        raise DataError(
            f"the keyword {expression!r} is not a valid regular expression: {error}",
            "keywords are regular expressions: write a backslash before ( ) [ * + ? and the like",
        ) from None
