"""Names of the files in an evaluation's folder: one arm's responses to one benchmark, and their results.

A benchmark's folder contains responses, grades (each item's values) and scores. A held-out evaluation's folder contains
likelihoods, responses, answer scores (what each answer contributes to ROUGE, BLEU and chrF) and scores.
"""

from __future__ import annotations

SCORES, GRADES, RESPONSES = "scores.json", "grades.jsonl", "responses.jsonl"
LIKELIHOODS, ANSWER_SCORES = "likelihoods.jsonl", "answer_scores.jsonl"
