"""nltk's sentence and word rules as of nltk 3.8 and 3.9, when IFEval and its published scores were produced.

nltk 3.10 ends a sentence before and after “curly” quotes and «guillemets» and splits words at dashes, so the same
answer could pass or fail depending on the nltk version. These rules prevent that. This module imports nltk, which is
slow, so punkt.py imports it when the first sentence is counted.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from nltk.data import FileSystemPathPointer
from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import (
    PunktLanguageVars,
    PunktSentenceTokenizer,
    load_punkt_params,
)


class AsciiQuotes(PunktLanguageVars):  # type: ignore[misc]
    """Only ASCII quotation marks and brackets close a sentence."""

    re_boundary_realignment = re.compile(r"""["')\]}]+?(?:\s+|(?=--)|$)""", re.MULTILINE)
    _re_non_word_chars = r"""(?:[)";}\]*:@'({\[?!])"""


class UncutDashes(NLTKWordTokenizer):  # type: ignore[misc]
    """Words are not split at en and em dashes; a single letter before an apostrophe is (o' clock, not O'Neil)."""

    PUNCTUATION: ClassVar[list[Any]] = [rule for rule in NLTKWordTokenizer.PUNCTUATION if not rule[0].search("—")]
    STARTING_QUOTES: ClassVar[list[Any]] = [
        *NLTKWordTokenizer.STARTING_QUOTES[:-1],
        (re.compile(r"(')(?!re|ve|ll|m|t|s|d|n)(\w)\b", re.IGNORECASE), r"\1 \2"),
    ]


def sentence_tokenizer(folder: FileSystemPathPointer) -> PunktSentenceTokenizer:
    """punkt with the parameters in the folder. Raises LookupError if some of its files are missing."""
    return PunktSentenceTokenizer(load_punkt_params(folder), lang_vars=AsciiQuotes())
