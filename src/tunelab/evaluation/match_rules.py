"""Match rules: whether a generated answer is one of the accepted ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

Match = Literal["exact", "normalized", "number", "contains", "regex"]
MATCHES: tuple[Match, ...] = get_args(Match)


def matches(text: str, answers: Sequence[str], match: Match) -> bool:
    """Whether a text matches one of the answers.

    exact: equal, without white space around them. normalized: equal in case-folded words without punctuation around
    them. number: the text's last number has this value. contains: the answer is in the text, whatever its case.
    regex: the pattern is found in the text (Python's re.search).
    """
    if match == "exact":
        return text.strip() in {answer.strip() for answer in answers}
    if match == "normalized":
        return normalized(text) in map(normalized, answers)
    if match == "number":
        found = last_number(text)
        return found is not None and found in [number_of(answer) for answer in answers]
    if match == "contains":
        folded = _folded(text)
        return any(_folded(answer) in folded for answer in answers)
    return any(re.search(pattern, text) is not None for pattern in answers)


def normalized(text: str) -> str:
    """NFKC, case-folded, white space collapsed, and no punctuation at the ends of words; a number keeps its sign."""
    words = (_bare(word) for word in _folded(text).split(" "))
    return " ".join(word for word in words if word)


#: Digits with commas in thousands, and a decimal part.
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?"

#: A number in a text: its sign does not follow a word or another number ("10-20").
_NUMBER = re.compile(rf"(?:(?<![\w.)])[-+])?{_DIGITS}", re.IGNORECASE)
_ALONE = re.compile(rf"[-+]?{_DIGITS}", re.IGNORECASE)


def last_number(text: str) -> Decimal | None:
    """The last number in a text ("$1,200.50" is 1200.50), or None."""
    found = _NUMBER.findall(text.replace("\u2212", "-"))
    return number_of(found[-1]) if found else None


def number_of(text: str) -> Decimal | None:
    """The value of a text that is a number, without thousands' commas, a currency sign or a percent sign; else None.

    A number with an exponent that nobody means (1e99999999999999999999) has no value either.
    """
    bare = text.strip().replace("\u2212", "-").lstrip("$€£").rstrip("%")
    try:
        return Decimal(bare.replace(",", "")) if _ALONE.fullmatch(bare) else None
    except InvalidOperation:
        return None


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _bare(word: str) -> str:
    """A word without punctuation at its ends; the sign or the point before a digit stays."""
    start, end = 0, len(word)
    while start < end and _is_punctuation(word[start]) and not re.match(r"[-+]?\.?\d", word[start:]):
        start += 1
    while end > start and _is_punctuation(word[end - 1]):
        end -= 1
    return word[start:end]


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
