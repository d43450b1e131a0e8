"""Rows with one instruction and one answer: what Alpaca and its kin, prompt/completion and columns share."""

from __future__ import annotations

import re

from tunelab.data.messages import Conversation, Example, Message, check_conversation
from tunelab.data.sources._source import Row, SourceOptions, optional_text, text

ALPACA_COLUMNS = frozenset({"instruction", "output"})

ALPACA_EXAMPLE = [
    {"instruction": "Name the colour of the sky at noon.", "input": "", "output": "Blue."},
    {"instruction": "Sort the words by the alphabet.", "input": "pear, apple, fig", "output": "apple, fig, pear"},
]

# Alpaca's generator was told to write <noinput>; the data has it also as "<noinput", "< noinput >", "\<noinput\>", ...
NO_INPUT = re.compile(r"[\W_]*no[\W_]*input[\W_]*", re.IGNORECASE)


def single_turn(prompt: str, completion: str, *, system: str = "", context: str = "") -> Conversation:
    """One question and its answer, all texts unchanged.

    Args:
        system: system turn; none if it is empty.
        context: Alpaca's `input`; none if it is empty.

    Raises:
        BadRow: prompt or completion is blank.
    """
    messages = [Message("system", system)] if system else []
    messages += [Message("user", prompt, input=context), Message("assistant", completion)]
    return check_conversation(Conversation(tuple(messages)))


def alpaca_examples(row: Row, options: SourceOptions) -> list[Example]:
    """One conversation from `instruction`, `output` and the optional `input`; other columns (`text`) are not read.

    No input means: no such column, null, blank text, or nothing but the words "no input" with punctuation (<noinput>).

    Raises:
        BadRow: a column is missing or not text; instruction or output is blank.
    """
    context = optional_text(row, "input")
    if NO_INPUT.fullmatch(context):
        context = ""
    return [single_turn(text(row, "instruction"), text(row, "output"), context=context)]
