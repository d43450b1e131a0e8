"""Rows with one instruction and one answer: what Alpaca and its kin, prompt/completion and columns share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunelab.data.messages import Conversation, Example, Message, check_conversation
from tunelab.data.sources._source import Row, SourceOptions, items, kind_of, optional_text, text
from tunelab.errors import BadRow

ALPACA_COLUMNS = frozenset({"instruction", "output"})

ALPACA_EXAMPLE = [
    {"instruction": "Name the colour of the sky at noon.", "input": "", "output": "Blue."},
    {"instruction": "Sort the words by the alphabet.", "input": "pear, apple, fig", "output": "apple, fig, pear"},
]

# Alpaca's generator was told to write <noinput>; the data has it also as "<noinput", "< noinput >", "\<noinput\>", ...
NO_INPUT = re.compile(r"[\W_]*no[\W_]*input[\W_]*", re.IGNORECASE)


def single_turn(
    prompt: str, completion: str, *, system: str = "", context: str = "", history: Sequence[tuple[str, str]] = ()
) -> Conversation:
    """One question and its answer, all texts unchanged.

    Args:
        system: system turn; none if it is empty.
        context: Alpaca's `input`; none if it is empty.
        history: earlier questions with their answers, which are in the loss too.

    Raises:
        BadRow: prompt or completion is blank.
    """
    messages = [Message("system", system)] if system else []
    for question, answer in history:
        messages += [Message("user", question), Message("assistant", answer)]
    messages += [Message("user", prompt, input=context), Message("assistant", completion)]
    return check_conversation(Conversation(tuple(messages)))


def alpaca_examples(row: Row, options: SourceOptions) -> list[Example]:
    """One conversation from `instruction`, `output` and the optional `input`, `system` and `history`.

    `history` is LLaMA-Factory's: a list of [question, answer], the turns before the instruction. They are in the loss,
    as they are there.

    No input means: no such column, null, blank text, or nothing but the words "no input" with punctuation (<noinput>).

    Raises:
        BadRow: a column is missing or not text; instruction or output is blank; history is no list of pairs of text.
    """
    context = optional_text(row, "input")
    if NO_INPUT.fullmatch(context):
        context = ""
    return [
        single_turn(
            text(row, "instruction"),
            text(row, "output"),
            system=optional_text(row, "system"),
            context=context,
            history=_history(row),
        )
    ]


def _history(row: Row) -> list[tuple[str, str]]:
    if row.get("history") in (None, ""):
        return []
    pairs = items(row, "history")
    for number, pair in enumerate(pairs, 1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(turn, str) for turn in pair)):
            kind = f"a list of {len(pair)}" if isinstance(pair, list) else kind_of(pair)
            raise BadRow(f"history: entry {number} is {kind}, expected [question, answer], both text")
    return [(question, answer) for question, answer in pairs]
