"""Names of the files in an evaluation's folder: one arm's responses to one benchmark, and their results.

A benchmark's folder contains responses, grades (each item's values) and scores. A held-out evaluation's folder contains
likelihoods, responses, answer scores (what each answer contributes to ROUGE, BLEU and chrF) and scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCORES, GRADES, RESPONSES = "scores.json", "grades.jsonl", "responses.jsonl"
LIKELIHOODS, ANSWER_SCORES = "likelihoods.jsonl", "answer_scores.jsonl"


def is_blind(protocol: Mapping[str, Any], n: int) -> bool:
    """Whether a score's metric cannot see most of its n references, so that its value means nothing."""
    return 2 * int(protocol.get("references_not_seen", 0)) > n
