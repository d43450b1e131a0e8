"""The length of a text in sentences, words and paragraphs: the instructions length_constraints:*."""

from __future__ import annotations

import re

from tunelab.evaluation.instructions import punkt
from tunelab.evaluation.instructions.relation import holds

_WORD = re.compile(r"\w+")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_END_OF_WORD = re.compile(r"""[.,?!'"]""")


def number_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    """Less than / at least `num_sentences` sentences by punkt. Raises DataError if punkt's data is missing."""
    return holds(len(punkt.sentences(text)), relation, num_sentences)


def number_words(text: str, *, num_words: int, relation: str) -> bool:
    r"""Less than / at least `num_words` words, a word being a run of `\w` ("don't" counts as two)."""
    return holds(len(_WORD.findall(text)), relation, num_words)


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Exactly `num_paragraphs` paragraphs between dividers (***); only the first and the last part may be empty."""
    parts = [part.strip() for part in _DIVIDER.split(text)]
    if not all(parts[1:-1]):
        return False
    # Without a divider the text is both first and last part: if empty, it is removed once, not twice.
    ends = {0, len(parts) - 1}
    return len(parts) - sum(not parts[place] for place in ends) == num_paragraphs


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly `num_paragraphs` paragraphs (blank line between), the n-th of which begins with `first_word`.

    As in the original, empty paragraphs do not count toward the number but do count toward n.
    """
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    if sum(map(bool, paragraphs)) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    words = paragraphs[nth_paragraph - 1].split()
    if not words:
        return False
    word = words[0].lstrip("'").lstrip('"')
    # Lower-cased letter by letter, as in the original: otherwise a final capital sigma becomes another letter.
    return "".join(map(str.lower, _END_OF_WORD.split(word, maxsplit=1)[0])) == first_word.lower()
