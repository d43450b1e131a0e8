"""What lies in the folder of an evaluation: one arm's responses to one benchmark, and what was made of them.

A benchmark's folder holds responses, grades (each item's values) and scores; a held-out evaluation's likelihoods,
responses, answer scores (what each answer adds to ROUGE and BLEU) and scores.
"""

from __future__ import annotations

SCORES, GRADES, RESPONSES = "scores.json", "grades.jsonl", "responses.jsonl"
LIKELIHOODS, ANSWER_SCORES = "likelihoods.jsonl", "answer_scores.jsonl"
