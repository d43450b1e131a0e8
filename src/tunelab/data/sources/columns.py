"""Your own rows with any columns: options say which column is the prompt, the completion, the system turn, the input.

    name: columns
    path: questions.csv
    options: {prompt: question, completion: answer}

`system` and `input` may be missing, null or blank in a row: then the row has none. Texts stay unchanged.
"""

from __future__ import annotations

from pydantic import Field

from tunelab.data.messages import Example
from tunelab.data.sources._instruction import single_turn
from tunelab.data.sources._source import UNKNOWN_LICENCE, Row, SourceOptions, column, optional_text, text

HUB = None
LICENCE = UNKNOWN_LICENCE
# No column name is required, so that no file can be recognized as this format.
COLUMNS: frozenset[str] = frozenset()
EXAMPLE = [{"question": "What is the capital of France?", "answer": "Paris.", "style": "Answer in one word."}]
EXAMPLE_OPTIONS = {"prompt": "question", "completion": "answer", "system": "style"}


class Options(SourceOptions):
    """Which column is what."""

    prompt: str = Field(description="Column of the user's turn.")
    completion: str = Field(description="Column of the answer.")
    system: str | None = Field(None, description="Column of the system turn; null: no row has one.")
    input: str | None = Field(None, description="Column of the instruction's context, Alpaca's input; null: none.")


def examples(row: Row, options: Options) -> list[Example]:
    """One conversation. Raises BadRow: a named column is missing or not text, or prompt or completion is blank."""
    optional = []
    for name in (options.system, options.input):
        if name is not None:
            # A misspelled column must not mean "this row has none".
            column(row, name)
        optional.append(optional_text(row, name) if name is not None else "")
    system, context = optional
    prompt, completion = text(row, options.prompt), text(row, options.completion)
    return [single_turn(prompt, completion, system=system, context=context)]
