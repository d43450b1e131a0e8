"""A row of tokens as text that shows token boundaries and targets: colored on a terminal, marked elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from typing import Any

from tunelab.cli._console import console, is_terminal, print_data


def print_row(tokenizer: Any, number: int, ids: Sequence[int], targets: Sequence[bool], stops: Collection[int]) -> None:
    """Print one row: a line of counts, its tokens, a blank line; line breaks in tokens are shown as ↵ and kept.

    Args:
        targets: [tokens], True where a token is in the loss.
        stops: token ids that end an answer.
    """
    eos = [place for place, id in enumerate(ids) if id == tokenizer.eos_token_id]
    in_loss = sum(targets[place] for place in eos)
    figures = (
        f"row {number}: {len(ids)} tokens, {sum(targets)} targets, {len(eos)} end of sequence ({in_loss} in the loss)"
    )
    print_data(figures + ("; its last answer has no stop token" if targets[-1] and ids[-1] not in stops else ""))
    pieces = [_shown(tokenizer, id) for id in ids]
    if is_terminal(sys.stdout) and not os.environ.get("NO_COLOR"):  # without color: marks
        from rich.text import Text

        text = Text()
        for place, (piece, target) in enumerate(zip(pieces, targets, strict=True)):
            # Neighboring tokens alternate in shade to show their boundaries; only targets are green.
            text.append(piece, style=(("bold green", "green") if target else ("default", "dim"))[place % 2])
        console(sys.stdout).print(text)
    else:
        print_data(_marked(pieces, targets))
    print_data("")


def _shown(tokenizer: Any, id: int) -> str:
    """A token as text, with its leading space and visible line breaks."""
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
