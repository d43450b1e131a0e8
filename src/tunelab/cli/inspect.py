"""Show what the model will really see: rows as tokens, with the learned ones marked.

Examples:
  tunelab inspect --model distilgpt2 --data alpaca
  tunelab inspect recipe.yaml --rows 5
  tunelab inspect --model ./my-model --data rows.jsonl --template chat --rows 1
  tunelab inspect recipe.yaml --rows 0         (the summary alone)

On a terminal the targets are coloured; elsewhere they stand in [[ ]]. Nothing is trained; bad rows are counted, not
fatal.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tunelab.cli._console import console, is_terminal, print_data, print_table, progress_bar, say
from tunelab.cli._recipe_arguments import add_recipe_arguments, recipe_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe in any form, and how many rows to show."""
    add_recipe_arguments(parser)
    parser.add_argument("--rows", metavar="N", type=int, default=3, help="training rows shown (default 3)")


def run(arguments: argparse.Namespace) -> int:
    """Tokenise, show rows, then the summary of all."""
    recipe = recipe_of(arguments)
    from tunelab.workflows.prepare import load_recipe_tokenizer, prepare_with

    tokenizer = load_recipe_tokenizer(recipe)
    skipping = recipe.model_copy(update={"data": recipe.data.model_copy(update={"on_bad_row": "skip"})})
    with progress_bar() as progress:
        data = prepare_with(tokenizer, skipping, progress=progress)
    for index in range(min(arguments.rows, len(data.train))):
        ids, mask = data.train.row(index)
        wanted = mask if recipe.data.loss_on == "completion" else [place > 0 for place in range(len(ids))]
        _show_row(tokenizer, index + 1, ids.tolist(), [bool(one) for one in wanted])
    _show_summary(data, tokenizer)
    return 0


def _show_row(tokenizer: Any, number: int, ids: list[int], targets: list[bool]) -> None:
    """One row: a line of figures, then its tokens; a token's own line breaks are shown as ↵ and kept."""
    eos = [place for place, id in enumerate(ids) if id == tokenizer.eos_token_id]
    learned = sum(targets[place] for place in eos)
    print_data(
        f"row {number}: {len(ids)} tokens, {sum(targets)} targets, end of sequence {len(eos)} times ({learned} learned)"
    )
    pieces = [_shown(tokenizer, id) for id in ids]
    if not is_terminal(sys.stdout):
        print_data(_marked(pieces, targets) + "\n")
        return
    from rich.text import Text

    text = Text()
    for place, (piece, target) in enumerate(zip(pieces, targets, strict=True)):
        # Neighbouring tokens differ in shade, so that borders can be seen; only targets are green.
        shade = ("bold green", "green")[place % 2] if target else ("default", "dim")[place % 2]
        text.append(piece, style=shade)
    console(sys.stdout).print(text)
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


def _marked(pieces: list[str], targets: list[bool]) -> str:
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


def _show_summary(data: Any, tokenizer: Any) -> None:
    sides = (data.train, data.train_counts), (data.held_out, data.held_out_counts)
    columns = ("", "training", "held-out")
    rows: list[tuple[str, ...]] = [
        ("rows", *(f"{counts.kept:,}" for _, counts in sides)),
        ("tokens", *(f"{counts.tokens:,}" for _, counts in sides)),
        ("target tokens", *(f"{counts.targets:,}" for _, counts in sides)),
        ("longest row", *(f"{counts.longest:,}" for _, counts in sides)),
        ("median row", *(f"{_median(table.lengths):,}" for table, _ in sides)),
        ("truncated", *(f"{counts.truncated:,}" for _, counts in sides)),
        ("left out, too long", *(f"{counts.dropped_too_long:,}" for _, counts in sides)),
        ("left out, bad", *(f"{counts.bad:,}" for _, counts in sides)),
        ("with characters lost", *(f"{counts.lossy:,}" for _, counts in sides)),
    ]
    print_table(columns, rows)
    for source in data.sources:
        left_out = "".join(f", {count:,} {what}" for what, count in source.left_out.items())
        say(f"{source.origin}: {source.rows_read:,} rows read, {source.bad:,} bad{left_out}; licence: {source.licence}")
    for reason in data.bad_rows[:20]:
        say(f"bad: {reason}")
    if len(data.bad_rows) > 20:
        say(f"bad: and {len(data.bad_rows) - 20} more")
    stops = ", ".join(str(tokenizer.convert_ids_to_tokens(id)) for id in data.stop_token_ids)
    say(f"an answer ends at: {stops}")


def _median(values: list[int]) -> int:
    return sorted(values)[len(values) // 2] if values else 0
