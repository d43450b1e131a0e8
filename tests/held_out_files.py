"""A held-out evaluation's folder as an evaluation writes it, from texts and nats alone: no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunelab.evaluation.held_out import HeldOutAnswer, LikelihoodRecord, write_answer_scores
from tunelab.evaluation.runner import answer_scores, score_held_out

WORDS = ["a", "dog", "saw", "the", "cat", "on", "a", "big", "red", "ball", "under", "the", "old", "tree", "and", "ran"]


def write_held_out(
    folder: Path,
    answers: Sequence[str],
    references: Sequence[str],
    nats: Sequence[float],
    tokens: Sequence[int],
    **header: Any,
) -> Path:
    """likelihoods.jsonl, responses.jsonl, answer_scores.jsonl and scores.json of one arm."""
    header = {"arm": "base", "model": folder.name, "template": "plain", "data": "sha256:1", "precision": None, **header}
    folder.mkdir(parents=True)
    rows = [
        LikelihoodRecord(f"{n:06d}", folder.name, one, count, 4 * count, one + 9, count + 5, 4 * count + 20)
        for n, (one, count) in enumerate(zip(nats, tokens, strict=True))
    ]
    made = [
        HeldOutAnswer(f"{n:06d}", folder.name, text, (1,), "stop", 3, reference)
        for n, (text, reference) in enumerate(zip(answers, references, strict=True))
    ]
    for name, first, records in (
        ("likelihoods", {**header, "measured": "likelihood"}, rows),
        ("responses", {**header, "decoding": {"method": "greedy", "max_new_tokens": 8}}, made),
    ):
        lines = [json.dumps(first), *(json.dumps(record.to_json()) for record in records)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    by_answer = answer_scores(made)
    scores = [one.to_json() for one in score_held_out(made, rows, {"rows": len(rows)}, by_answer=by_answer)]
    write_answer_scores(folder, by_answer)
    found = {"header": header, "scores": scores, "rows": [row.item for row in rows]}
    (folder / "scores.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def texts(n: int, wrong_every: int) -> tuple[list[str], list[str]]:
    """Answers and references of n rows; of every answer each so-many-th word is another."""
    references = [" ".join(WORDS[(row + place) % len(WORDS)] for place in range(6 + row % 5)) for row in range(n)]
    answers = [
        " ".join("thing" if (row + place) % wrong_every == 0 else word for place, word in enumerate(text.split()))
        for row, text in enumerate(references)
    ]
    return answers, references
