"""Answers by transformers' own `generate`, for architectures that the token engine cannot run.

Tokens are chosen and answers ended as in the engine: the same sampling, seeds, stop tokens and stop strings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Literal

from tunelab.inference.row import Row, seen_tokens
from tunelab.inference.sampling import Decoding, next_tokens
from tunelab.models.modes import evaluation_mode

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Rows that share a batch: of any length, padded at their beginnings; of equal length; none.
AtOnce = Literal["padded", "equal", "one"]


def answered_by_model(
    model: nn.Module,
    rows: Sequence[Row],
    decoding: Decoding,
    stop_token_ids: Collection[int],
    micro_batch_tokens: int,
    skip: Collection[int],
    *,
    at_once: AtOnce,
) -> Iterator[Row]:
    """The rows when they have ended, batch by batch; a batch does not run if all of it is skipped.

    Args:
        at_once: which rows may share a batch, as tunelab.models.structure says.
    """
    for batch in _batches(rows, micro_batch_tokens, at_once):
        if any(row.index not in skip for row in batch):
            _run(model, batch, decoding, stop_token_ids)
            yield from batch


def streamed_by_model(
    model: nn.Module, row: Row, decoding: Decoding, stop_token_ids: Collection[int]
) -> Generator[str, None, None]:
    """The answer of a row in pieces of text, as they are generated. Closing the generator ends the answer."""
    import torch

    assert row.text is not None
    device = next(model.parameters()).device.type
    autocast = (torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
    pieces: SimpleQueue[str | BaseException | None] = SimpleQueue()
    is_closed = Event()

    def on_token() -> bool:
        assert row.text is not None
        if row.ended:
            row.text.finish()
        pieces.put(row.text.new_piece(last=bool(row.ended)))
        return is_closed.is_set()

    def run() -> None:
        try:
            with torch.autocast(device, autocast[0], enabled=autocast[1]):
                _run(model, [row], decoding, stop_token_ids, on_token)
            pieces.put(None)
        except BaseException as error:  # raised where the pieces are read
            pieces.put(error)

    thread = Thread(target=run)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            if piece:
                yield piece
    finally:
        is_closed.set()
        thread.join()


def _batches(rows: Sequence[Row], micro_batch_tokens: int, at_once: AtOnce) -> Iterator[list[Row]]:
    """Rows that run at once, longest first.

    All take the same number of steps: a row that its context ends earlier would run on beyond it, as a part of the
    batch.
    """
    batch: list[Row] = []
    widest = 0
    for row in sorted(rows, key=lambda row: (-len(row.prompt), row.index)):
        wider = max(widest, row.need)
        fits = (len(batch) + 1) * wider <= micro_batch_tokens
        if batch and not (fits and _may_join(row, batch[0], at_once)):
            yield batch
            batch, wider = [], row.need
        batch.append(row)
        widest = wider
    if batch:
        yield batch


def _may_join(row: Row, first: Row, at_once: AtOnce) -> bool:
    if at_once == "one":
        return False
    return row.room == first.room and (at_once == "padded" or len(row.prompt) == len(first.prompt))


def _run(
    model: nn.Module,
    rows: Sequence[Row],
    decoding: Decoding,
    stop_token_ids: Collection[int],
    is_closed_after_token: Callable[[], bool] = lambda: False,
) -> None:
    """Generate until all rows have ended."""
    from tunelab.models.own_generate import own_generate

    def choose(logits: Tensor) -> list[int] | None:
        drawn = [row.randomness[len(row.answer)] if row.randomness and not row.ended else 0.0 for row in rows]
        tokens = next_tokens(logits, decoding, drawn, seen_tokens(rows, logits, decoding))
        for row, token in zip(rows, tokens, strict=True):
            if not row.ended:
                row.add(token, decoding, stop_token_ids)
        return None if is_closed_after_token() or all(row.ended for row in rows) else tokens

    with evaluation_mode(model):
        own_generate(model, [row.prompt for row in rows], choose, max(row.room for row in rows))
