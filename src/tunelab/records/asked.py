"""What a study asked before there were results: a question or a margin that was changed afterwards is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunelab.config.questions import Question
from tunelab.config.study import Study
from tunelab.errors import RunError
from tunelab.failures import explained
from tunelab.files import read_json, write_json_atomically

ASKED_FILE = "asked.json"

#: The words of a question may change; what is compared, by what, and within what margin may not.
_WORDS = "ask"


def keep_asked(questions: Sequence[Question], folder: Path) -> None:
    """Write down what is asked. To be called until there is a result, and once more if nothing was written by then."""
    write_json_atomically(folder / ASKED_FILE, {"questions": [_content(one) for one in questions]})


def asked_late(study: Study, folder: Path) -> list[Question]:
    """The questions that are not as they were before there were results; none if nothing was written down.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / ASKED_FILE
    if not path.exists():
        return []
    with explained(f"{path}: not what a study asked", RunError, "restore it from a copy"):
        before = [_content(Question.model_validate({_WORDS: "?", **one})) for one in read_json(path)["questions"]]
    return [one for one in study.questions if _content(one) not in before]


def _content(question: Question) -> dict[str, Any]:
    return question.model_dump(mode="json", by_alias=True, exclude={_WORDS})
