"""Checks of rows as tokens: do answers end, do rows begin once, what is in the loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tunelab.linting.finding import Check, Flagged
from tunelab.linting.rows import TRAINING, LintedRows
from tunelab.units import format_counted

#: Tokens shown at the end or the beginning of a row.
SHOWN_TOKENS = 12


def _has_end(rows: LintedRows) -> npt.NDArray[np.bool_]:
    """[rows] whether a row's last answer ends with a token that stops generation."""
    assert rows.table is not None and rows.tokenized_with is not None
    table = rows.table
    places = np.arange(table.tokens)
    last = np.maximum.accumulate(np.where(table.answer_mask, places, 0))[table.row_starts[1:] - 1]
    return np.isin(table.input_ids[last], list(rows.tokenized_with.stop_token_ids))


def no_end_token(rows: LintedRows) -> Flagged | None:
    """No training row teaches the model to stop."""
    if rows.table is None or not rows.splits[TRAINING]:
        return None
    training = list(rows.splits[TRAINING])
    if _has_end(rows)[training].any():
        return None
    assert rows.tokenized_with is not None
    stops = rows.tokenized_with.tokenizer.convert_ids_to_tokens(list(rows.tokenized_with.stop_token_ids))
    what = f"no answer of {format_counted(len(training), 'training row')} ends with a stop token ({', '.join(stops)})"
    return Flagged(what, training, lambda row: _tokens(rows, row, at_end=True))


def cut_answers(rows: LintedRows) -> Flagged | None:
    """Some answers do not end with a stop token."""
    if rows.table is None or not rows.splits[TRAINING]:
        return None
    has_end = _has_end(rows)
    if not has_end[list(rows.splits[TRAINING])].any():
        return None  # no_end_token says it of all
    without = np.flatnonzero(~has_end).tolist()
    what = f"{format_counted(len(without), 'row')} with an answer that is cut before its stop token"
    return Flagged(what, without, lambda row: _tokens(rows, row, at_end=True))


def doubled_bos(rows: LintedRows) -> Flagged | None:
    """Rows that begin with the beginning-of-sequence token twice."""
    if rows.table is None or rows.tokenized_with is None:
        return None
    bos, table = rows.tokenized_with.tokenizer.bos_token_id, rows.table
    if bos is None:
        return None
    starts = table.row_starts[:-1]
    second = np.minimum(starts + 1, table.tokens - 1)
    twice = (table.input_ids[starts] == bos) & (table.input_ids[second] == bos) & (np.diff(table.row_starts) > 1)
    found = np.flatnonzero(twice).tolist()
    what = f"{format_counted(len(found), 'row')} that begins with the beginning-of-sequence token twice"
    if len(found) != 1:
        what = f"{len(found):,} rows that begin with the beginning-of-sequence token twice"
    return Flagged(what, found, lambda row: _tokens(rows, row, at_end=False))


def prompts_in_loss(rows: LintedRows) -> Flagged | None:
    """Rows of which every token is a target."""
    if rows.table is None or rows.tokenized_with is None:
        return None
    if rows.tokenized_with.loss_on == "all":
        share = 1 - rows.table.answer_mask.mean()
        found = list(range(len(rows)))
        what = f"data.loss_on=all: {share:.0%} of the target tokens are prompt and template"
    else:
        sums = np.concatenate([[0], np.cumsum(rows.table.answer_mask)])
        inside = sums[rows.table.row_starts[1:]] - sums[rows.table.row_starts[:-1]]
        found = np.flatnonzero(inside == np.diff(rows.table.row_starts)).tolist()
        what = f"{format_counted(len(found), 'row')} in which every token is a target, the prompt's too"
    return Flagged(what, found, lambda row: _tokens(rows, row, at_end=False))


def _tokens(rows: LintedRows, row: int, *, at_end: bool) -> str:
    """The first or the last tokens of a row, with bars between them."""
    assert rows.table is not None and rows.tokenized_with is not None
    ids = rows.table.row(row)[0].tolist()
    part = ids[-SHOWN_TOKENS:] if at_end else ids[:SHOWN_TOKENS]
    shown = "|".join(rows.tokenized_with.tokenizer.decode([id], clean_up_tokenization_spaces=False) for id in part)
    more = "…" if len(ids) > len(part) else ""
    return f"{more}{shown}" if at_end else f"{shown}{more}"


CHECKS = (
    Check(
        "no-end-token",
        "error",
        "nothing teaches the model to stop: it generates until the token limit",
        "let the rows end with the tokenizer's end-of-sequence token, inside the completion mask",
        no_end_token,
    ),
    Check(
        "doubled-bos",
        "error",
        "the model was pretrained with one; when it is served it gets one",
        "remove it from the rows or from the chat template",
        doubled_bos,
    ),
    Check(
        "cut-answers",
        "warning",
        "the model learns to break off, or not to stop",
        "raise data.max_length, or set data.on_overflow=drop; end rows of tokens with the end-of-sequence token",
        cut_answers,
    ),
    Check(
        "prompts-in-loss",
        "warning",
        "the model learns to write prompts as well, and the loss is not that of answers",
        "set data.loss_on=completion; give rows of tokens a completion_mask",
        prompts_in_loss,
    ),
)
