"""Texts as numbered words, and hashes of their n-grams, computed for all rows at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class WordTable:
    """Words of rows end to end, in lower case and without punctuation.

    Args:
        hashes: [words of all rows], one number per different word.
        starts: [rows + 1].
    """

    hashes: Hashes
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def padded_ngrams(self, n: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """Hashes of the n-grams of each row with n - 1 empty words behind it, and where rows begin among them: as many
        as it has words."""
        rows = np.repeat(np.arange(len(self)), np.diff(self.starts))
        padded = np.zeros(len(self.hashes) + len(self) * (n - 1), dtype=np.uint64)
        places = np.arange(len(self.hashes)) + rows * (n - 1)
        padded[places] = self.hashes
        return _combined(padded, n)[places], self.starts

    def ngrams(self, n: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """Hashes of the n-grams within rows, and the row of each."""
        if len(self.hashes) < n:
            return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
        rows = np.repeat(np.arange(len(self)), np.diff(self.starts))
        inside = rows[: len(rows) - n + 1] == rows[n - 1 :]
        return _combined(self.hashes, n)[: len(inside)][inside], rows[: len(inside)][inside]


def _combined(hashes: Hashes, n: int) -> Hashes:
    """Hash of each n-gram that begins at a place; zeros follow the end."""
    result = np.zeros_like(hashes)
    for offset in range(n):
        result *= _FACTOR
        result[: len(hashes) - offset] += hashes[offset:]
    return _mixed(result)


def _mixed(values: Hashes) -> Hashes:
    """splitmix64's finalizer: every bit of the input changes half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = values ^ (values >> np.uint64(31))
    return mixed


def words_of(text: str) -> list[str]:
    """Its words in lower case."""
    return _WORD.findall(text.lower())


def word_table(texts: Iterable[str], vocabulary: dict[str, int] | None = None) -> WordTable:
    """The words of each text.

    Args:
        vocabulary: word -> number; new words are added, so that several tables can share it.
    """
    return table_of((words_of(text) for text in texts), vocabulary)


def table_of(rows: Iterable[list[str]], vocabulary: dict[str, int] | None = None) -> WordTable:
    """word_table() of rows whose words are known, one list after the other."""
    known = {} if vocabulary is None else vocabulary
    numbers: list[int] = []
    lengths = [0]
    for words in rows:
        numbers += [known.setdefault(word, len(known) + 1) for word in words]
        lengths.append(len(words))
    return WordTable(_mixed(np.asarray(numbers, dtype=np.uint64)), np.cumsum(lengths))
