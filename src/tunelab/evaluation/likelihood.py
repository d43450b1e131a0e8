"""Negative log-likelihoods of answers and of full sequences, row by row.

A row's value does not depend on the rows next to it: they are packed where the architecture allows it. Logits are
computed in float32 for a few hundred positions at a time; the full logits matrix is never in memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunelab.errors import DataError, ModelError
from tunelab.inference.engine import context_length
from tunelab.models.modes import evaluation_mode
from tunelab.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunelab.models.forward import RowLayout

#: Number of positions whose logits are in memory: 512 x 128,256 (Llama 3) in float32 are 0.24 GiB.
CHUNK = 512

Row = tuple[Sequence[int], Sequence[bool]]


@dataclass(frozen=True, slots=True)
class RowLikelihood:
    """A model's likelihood of one row. The row's first token has no prediction and is not counted.

    Attributes:
        index: the row's index in the input.
        completion_nll: negative log-likelihood of the answer tokens, nats, summed.
        completion_tokens: number of answer tokens.
        sequence_nll: negative log-likelihood of all tokens but the first, nats, summed.
        sequence_tokens: number of all tokens but the first.
    """

    index: int
    completion_nll: float
    completion_tokens: int
    sequence_nll: float
    sequence_tokens: int


def row_likelihoods(
    model: nn.Module,
    rows: Sequence[Row],
    *,
    micro_batch_tokens: int,
    skip: Collection[int] = (),
    progress: Progress = silent,
) -> Iterator[RowLikelihood]:
    """The likelihood of each row, in the rows' order.

    Batches depend on all rows and on micro_batch_tokens, never on `skip`: a resumed evaluation
    computes exactly the same floats as an uninterrupted one.

    Args:
        model: a transformers causal language model, optionally wrapped by PEFT; switched to evaluation mode meanwhile.
        rows: (input_ids, answer_mask) of each row, both of the same length, at least two tokens; answer_mask says
            which tokens belong to an answer (including its end-of-sequence token).
        micro_batch_tokens: maximum number of tokens per batch; a longer row runs alone.
        skip: indices to leave out; a batch does not run if all of it is skipped.

    Raises:
        DataError: a row has fewer than two tokens, or a mask of a different length.
        ModelError: a row is longer than the model's context, or its likelihood is not finite.
    """
    from tunelab.models.forward import longrope_border
    from tunelab.models.structure import row_layout

    _check(rows, context_length(model))
    layout, done = row_layout(model), 0
    for batch in _batches([len(ids) for ids, _ in rows], micro_batch_tokens, alone_above=longrope_border(model)):
        if any(index not in skip for index in batch):
            for index, likelihood in zip(batch, _score_batch(model, rows, batch, layout), strict=True):
                if index not in skip:
                    yield likelihood
        done += len(batch)
        progress("scoring held-out rows", done, len(rows))


def _check(rows: Sequence[Row], context: int | None) -> None:
    for index, (ids, mask) in enumerate(rows):
        if len(ids) < 2:
            raise DataError(f"row {index} has {len(ids)} tokens: at least 2 are needed to predict one", "omit the row")
        if len(mask) != len(ids):
            raise DataError(f"row {index} has {len(ids)} tokens but an answer mask of {len(mask)}")
        if context is not None and len(ids) > context:
            raise ModelError(
                f"row {index} has {len(ids)} tokens, more than the model's context of {context}",
                "limit the row length to the context when preparing the data",
            )


def _batches(lengths: Sequence[int], micro_batch_tokens: int, alone_above: int | None) -> Iterator[list[int]]:
    """Indices in order, in batches of at most micro_batch_tokens; a row longer than `alone_above` runs alone."""
    batch: list[int] = []
    tokens = 0
    for index, length in enumerate(lengths):
        alone = alone_above is not None and max(length, lengths[batch[0]] if batch else 0) > alone_above
        if batch and (alone or tokens + length > micro_batch_tokens):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += length
    if batch:
        yield batch


def _score_batch(model: nn.Module, rows: Sequence[Row], batch: Sequence[int], layout: RowLayout) -> list[RowLikelihood]:
    import torch

    from tunelab.models.forward import attention_of, hidden_states, underlying

    base: Any = underlying(model)
    device = base.device
    ids = torch.tensor([token for index in batch for token in rows[index][0]], device=device)  # [tokens]
    starts = [0]
    for index in batch:
        starts.append(starts[-1] + len(rows[index][0]))
    with evaluation_mode(model), torch.no_grad():
        with attention_of(model, layout):
            hidden = hidden_states(model, ids, torch.tensor(starts, device=device), layout)  # [tokens, hidden]
        losses = _token_losses(model, hidden, ids)  # [tokens - 1]: index i is the loss of token i + 1
    result = []
    for index, start, end in zip(batch, starts, starts[1:], strict=False):
        # The position before `start` predicts this row's first token from another row: it belongs to neither.
        of_row = losses[start : end - 1]
        of_answer = [loss for loss, answer in zip(of_row, rows[index][1][1:], strict=True) if answer]
        likelihood = RowLikelihood(index, math.fsum(of_answer), len(of_answer), math.fsum(of_row), len(of_row))
        if not math.isfinite(likelihood.sequence_nll):
            raise ModelError(
                f"row {index}: its negative log-likelihood is {likelihood.sequence_nll}, expected a finite number",
                "the model's weights are broken or its dtype overflows; try bf16 or fp32",
            )
        result.append(likelihood)
    return result


def _token_losses(model: nn.Module, hidden: Tensor, ids: Tensor) -> list[float]:
    """-log p(ids[i + 1] | hidden[i]) in nats for every position but the last, CHUNK positions at a time."""
    import torch
    from torch.nn import functional

    from tunelab.models.head import output_head

    head = output_head(model)
    losses = []
    for begin in range(0, len(ids) - 1, CHUNK):
        targets = ids[begin + 1 : begin + 1 + CHUNK]
        logits = head(hidden[begin : begin + len(targets)]).float()  # [chunk, vocabulary]
        losses.append(functional.cross_entropy(logits, targets, reduction="none"))
    values: list[float] = torch.cat(losses).double().tolist()
    return values
