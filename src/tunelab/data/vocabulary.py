"""Which characters a tokenizer can represent; some vocabularies lack brackets, accents or whole scripts."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

#: Kinds of dropped characters that a message lists.
MOST_KINDS = 10


class Vocabulary:
    """Finds the characters that a tokenizer drops.

    Args:
        tokenizer: a fast transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.spells_everything = spells_everything(tokenizer)
        self._kept: set[str] = set()
        self._lost: set[str] = set()

    def lost(self, text: str) -> str:
        """The characters of a text that are not in the vocabulary, in order, with repetitions."""
        if self.spells_everything or self._kept.issuperset(text):
            return ""
        for character in set(text) - self._kept - self._lost:
            (self._lost if self._drops(character) else self._kept).add(character)
        return "".join(character for character in text if character in self._lost)

    def _drops(self, character: str) -> bool:
        """Whether the character is missing after tokenizing and decoding it between two others."""
        if character.isspace():
            return False
        probe = unicodedata.normalize("NFC", f"a{character}a")  # tokenizers may compose accents
        ids = self._tokenizer(probe, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        decoded = str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        return len(decoded.strip()) < len(probe)


def spells_everything(tokenizer: Any) -> bool:
    """Whether the vocabulary covers any text: printable ASCII and a few other characters survive a round trip."""
    probe = "a" + "a".join(chr(code) for code in range(33, 127)) + "a\ta\na \u00e9 \u20ac \u4e2d \U0001f600 a"
    ids = tokenizer(probe, add_special_tokens=False)["input_ids"]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).strip() == probe


def dropped_characters(counts: Mapping[str, int], total: int, texts: str) -> str:
    """One sentence about dropped characters: how many in which texts, and the most frequent of them.

    Args:
        counts: character -> how often it was dropped; may lack rare ones.
        total: number of dropped characters.
        texts: where they were, such as "3 of 25 prompts".
    """
    frequent = sorted(counts, key=lambda character: -counts[character])[:MOST_KINDS]
    listed = ", ".join(_shown(character) + f" ({counts[character]:,})" * (total > 1) for character in frequent)
    more = ", ..." if sum(counts[character] for character in frequent) < total else ""
    are = "character is" if total == 1 else "characters are"
    return f"{total:,} {are} not in the tokenizer's vocabulary and dropped from {texts}: {listed}{more}"


def dropped_from_template(lost: str) -> str:
    """One sentence about characters of a prompt template that are dropped from every prompt."""
    kinds = dict.fromkeys(lost)
    listed, verb = ", ".join(map(_shown, kinds)), "is" if len(kinds) == 1 else "are"
    return f"the prompt template's own {listed} {verb} not in the tokenizer's vocabulary and dropped from every prompt"


def _shown(character: str) -> str:
    """The character, or its code point if it is not visible."""
    return character if character.isprintable() else f"U+{ord(character):04X}"
