"""A row of tokens as text in which borders and targets can be seen: coloured on a terminal, marked elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from typing import Any

from tunelab.cli._console import console, is_terminal, print_data


def print_row(tokenizer: Any, number: int, ids: Sequence[int], targets: Sequence[bool], stops: Collection[int]) -> None:
    """One row on stdout: a line of figures, its tokens, a blank line; a token's line breaks are shown as ↵ and kept.

    Args:
        targets: [tokens], True where a token is learned.
        stops: ids that close an answer.
    """
    eos = [place for place, id in enumerate(ids) if id == tokenizer.eos_token_id]
    learned = sum(targets[place] for place in eos)
    figures = (
        f"row {number}: {len(ids)} tokens, {sum(targets)} targets, {len(eos)} end of sequence ({learned} in the loss)"
    )
    print_data(figures + ("; its last answer is not closed" if targets[-1] and ids[-1] not in stops else ""))
    pieces = [_shown(tokenizer, id) for id in ids]
    if is_terminal(sys.stdout) and not os.environ.get("NO_COLOR"):  # without colour, marks
        from rich.text import Text

        text = Text()
        for place, (piece, target) in enumerate(zip(pieces, targets, strict=True)):
            # Neighbouring tokens differ in shade, so that borders can be seen; only targets are green.
            text.append(piece, style=(("bold green", "green") if target else ("default", "dim"))[place % 2])
        console(sys.stdout).print(text)
    else:
        print_data(_marked(pieces, targets))
    print_data("")


def _shown(tokenizer: Any, id: int) -> str:
    """A token as text: its own spelling with spaces, and line breaks shown."""
    token = str(tokenizer.convert_ids_to_tokens(id))
    if id in tokenizer.all_special_ids:
        return token
    text = str(tokenizer.decode([id], clean_up_tokenization_spaces=False))
    if token.startswith("\u2581") and not text.startswith(" "):  # sentencepiece drops the first space
        text = " " + text
    return text.replace("\n", "↵\n")


def _marked(pieces: Sequence[str], targets: Sequence[bool]) -> str:
    """Tokens with a bar between them, and [[ ]] around each stretch of targets."""
    shown = ""
    inside = False
    for piece, target in zip(pieces, targets, strict=True):
        if target and not inside:
            shown += "[["
        elif inside and not target:
            shown += "]]"
        elif shown:
            shown += "|"
        shown += piece
        inside = target
    return shown + ("]]" if inside else "")
