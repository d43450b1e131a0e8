"""References that BLEU or ROUGE cannot see: whatever is answered scores about zero, a right answer too.

BLEU counts runs of four words and splits words at spaces; ROUGE's tokenizer keeps only a-z and 0-9. Chinese, Japanese,
Thai and others are written without spaces between words, and many answers are shorter than four words. chrF, which
counts characters, and exact match see all of these.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from tunelab.evaluation.benchmark import Score

#: Key of a score's protocol: how many references the metric cannot see, and why.
COUNT, REASON = "references_not_seen", "not_seen_because"

# Below this share of references it is not worth a sentence: a corpus metric counts their shorter runs.
_TOLD = 0.1

_LEAST_WORDS = 4
_WITHOUT_SPACES = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}


def not_seen_by_bleu(references: Sequence[str], words: Sequence[int]) -> dict[str, Any]:
    """Protocol entries for BLEU.

    Args:
        references: the texts.
        words: their lengths in BLEU's tokens.
    """
    reasons = Counter(
        "in a script without spaces between words" if _share(text, _is_without_spaces) > 0.5 else "under 4 words"
        for text, count in zip(references, words, strict=True)
        if count < _LEAST_WORDS or _share(text, _is_without_spaces) > 0.5
    )
    return _entries(reasons)


def not_seen_by_rouge(references: Sequence[str]) -> dict[str, Any]:
    """Protocol entries for ROUGE."""
    unseen = sum(_share(text, _is_ascii) < 0.5 for text in references)
    return _entries(Counter({"mostly of letters other than a-z and 0-9": unseen} if unseen else {}))


def not_seen(scores: Sequence[Score]) -> list[str]:
    """Sentences about the metrics that cannot see many of the references, each reason once."""
    groups: dict[str, list[str]] = {}
    for score in scores:
        count = score.protocol.get(COUNT, 0)
        if count > _TOLD * score.n:
            said = f"cannot see {count:,} of {score.n:,} references ({score.protocol[REASON]})"
            said += ": right and wrong answers score alike; use chrf or exact_match" if score.is_blind else ""
            groups.setdefault(said, []).append(score.name)
    return [f"{', '.join(names)} {said}" for said, names in groups.items()]


def _entries(reasons: Mapping[str, int]) -> dict[str, Any]:
    if not reasons:
        return {COUNT: 0}
    told = sorted(reasons.items(), key=lambda one: -one[1])
    return {COUNT: sum(reasons.values()), REASON: " or ".join(reason for reason, _ in told)}


def _share(text: str, holds: Any) -> float:
    """Share of a text's letters and digits for which something holds; 0.0 without any."""
    letters = [letter for letter in text if letter.isalnum()]
    return sum(map(holds, letters)) / len(letters) if letters else 0.0


def _is_ascii(letter: str) -> bool:
    return letter.isascii()


@cache
def _is_without_spaces(letter: str) -> bool:
    return unicodedata.name(letter, "").partition(" ")[0] in _WITHOUT_SPACES
