"""The language and the letter case of a text: the instructions language:* and change_case:*.

The original uses langdetect without a seed; tunelab.languages has one.
"""

from __future__ import annotations

from tunelab.evaluation.instructions import punkt
from tunelab.evaluation.instructions.relation import holds
from tunelab.languages import detect


def response_language(text: str, *, language: str, seeded: bool = True) -> bool:
    """The text is in this language (ISO 639-1, "zh-cn"). Text without letters counts as followed, as originally."""
    return detect(text, seeded) in (language, None)


def english_capital(text: str, *, seeded: bool = True) -> bool:
    """All letters are upper case, and the text is English."""
    return text.isupper() and detect(text, seeded) in ("en", None)


def english_lowercase(text: str, *, seeded: bool = True) -> bool:
    """All letters are lower case, and the text is English."""
    return text.islower() and detect(text, seeded) in ("en", None)


def capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """Less than / at least `capital_frequency` words in capitals. Raises DataError if punkt's data is missing."""
    return holds(sum(word.isupper() for word in punkt.words(text)), capital_relation, capital_frequency)
