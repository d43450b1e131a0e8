"""An answer of a model, and how it is read from a file of answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tunelab.errors import RunError


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a model.

    Attributes:
        text: the answer, without what the template itself puts before an answer (a space).
        token_ids: all its tokens, without the stop token.
        stop_reason: "stop", "length" or "context", see tunelab.inference.row.Generation.
        prompt_tokens: length of the prompt.
    """

    item: str
    text: str
    token_ids: tuple[int, ...]
    stop_reason: str
    prompt_tokens: int


def answer_of_record(path: Path, record: Mapping[str, Any]) -> Answer:
    """The answer that a line of a file of answers holds.

    Raises:
        RunError: it is no answer.
    """
    missing = [part.name for part in fields(Answer) if part.name not in record]
    if missing:
        raise RunError(f"{path}: item {record['item']!r} has no {missing[0]!r}: not an answer", "give another file")
    return Answer(
        **{**{part.name: record[part.name] for part in fields(Answer)}, "token_ids": tuple(record["token_ids"])}
    )
