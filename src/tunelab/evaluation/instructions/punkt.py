"""Split text into sentences and words with nltk's punkt (English) and word tokenizer; the user downloads punkt's data.

Source: Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary Detection" (Computational Linguistics 2006).
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from tunelab.errors import DataError

if TYPE_CHECKING:
    from nltk.data import FileSystemPathPointer

DATA = "punkt_tab"
COMMAND = f"python -m nltk.downloader {DATA}"


def is_available() -> bool:
    """Whether punkt's data is in nltk's search path: NLTK_DATA, the home directory, system folders."""
    try:
        _tokenizer()
    except DataError:
        return False
    return True


def sentences(text: str) -> list[str]:
    """The text's sentences.

    Raises:
        DataError: punkt's data is missing; the hint is the command that downloads it.
    """
    return list(_tokenizer().tokenize(text))


def words(text: str) -> list[str]:
    """The text's words and punctuation marks, sentence by sentence; a hyphenated word is one word.

    Raises:
        DataError: punkt's data is missing; the hint is the command that downloads it.
    """
    parts = sentences(text)
    from tunelab.evaluation.instructions.nltk_rules import UncutDashes

    tokenizer = UncutDashes()
    return [word for sentence in parts for word in tokenizer.tokenize(sentence)]


def _tokenizer() -> Any:
    import nltk.data

    # nltk reads NLTK_DATA once, on import; here it applies whenever it is set.
    own = [path for path in os.environ.get("NLTK_DATA", "").split(os.pathsep) if path]
    try:
        return _load(nltk.data.find(f"tokenizers/{DATA}/english/", [*own, *nltk.data.path]))
    except (LookupError, FileNotFoundError):  # FileNotFoundError: nltk 3.9, if some of the files are missing
        raise DataError(f"nltk's {DATA} data (English) was not found: sentences cannot be counted", COMMAND) from None


@functools.lru_cache(maxsize=1)
def _load(folder: FileSystemPathPointer) -> Any:
    from tunelab.evaluation.instructions.nltk_rules import sentence_tokenizer

    return sentence_tokenizer(folder)
