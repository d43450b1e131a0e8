"""A row of tokens as text that shows token boundaries and targets: colored on a terminal, marked elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from typing import Any

from tunelab.cli._console import console, is_terminal, print_data
from tunelab.units import format_counted


def print_row(tokenizer: Any, number: int, ids: Sequence[int], targets: Sequence[bool], stops: Collection[int]) -> None:
    """Print one row: a line of counts, its tokens, a blank line; line breaks in tokens are shown as ↵ and kept.

    Args:
        targets: [tokens], True where a token is in the loss.
        stops: token ids that end an answer.
    """
    from tunelab.preparation.inspection import InspectedRow, token_text

    eos = [place for place, id in enumerate(ids) if id == tokenizer.eos_token_id]
    in_loss = sum(targets[place] for place in eos)
    figures = (
        f"row {number}: {len(ids)} tokens, {format_counted(sum(targets), 'target')}, "
        f"{len(eos)} end of sequence ({in_loss} in the loss)"
    )
    print_data(figures + ("; its last answer has no stop token" if targets[-1] and ids[-1] not in stops else ""))
    row = InspectedRow(number, tuple(token_text(tokenizer, id) for id in ids), tuple(targets))
    if is_terminal(sys.stdout) and not os.environ.get("NO_COLOR"):  # without color: marks
        from rich.text import Text

        text = Text()
        for place, (piece, target) in enumerate(zip(row.tokens, row.targets, strict=True)):
            # Neighboring tokens alternate in shade to show their boundaries; only targets are green.
            text.append(piece, style=(("bold green", "green") if target else ("default", "dim"))[place % 2])
        console(sys.stdout).print(text)
    else:
        print_data(row.marked())
    print_data("")
