"""Divergence of one model's next-token distributions from another's, on the answers of held-out rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunelab.models.forward import RowLayout

#: Memory limit of one model's log-probabilities: tokens x vocabulary in float32.
MOST_BYTES = 512 * 2**20

#: Maximum number of answer tokens compared.
MOST_TOKENS = 4096

#: Tokens of rows that are run at once. A forward pass for each row alone takes several times as long on short rows.
PACKED_TOKENS = 2048

#: Rounding is too much if its KL from the trained model is more than this many times what the dtype alone costs that
#: model, in computing. Sound merges were between 0.25 and 1.62 times that, and 0.96 for a real bf16 model
#: (docs/decisions/0017).
FLOOR_MULTIPLE = 4.0

#: Added to that limit, nats: in float32 the floor is zero, and only summation order is left. It changes a perplexity by
#: a factor of 1.00001.
FLOOR_LEAST = 1e-5

Row = tuple[Sequence[int], Sequence[bool]]


@dataclass(frozen=True, slots=True)
class Divergence:
    """A model compared with the trained model that it should match, and with that model's base.

    Attributes:
        tokens: number of held-out answer tokens compared.
        kl: mean Kullback-Leibler divergence of its next-token distribution from the trained model's, nats.
        changed: share of tokens with a different most likely token.
        base_loss, trained_loss, loss: mean -log p of the answer tokens, nats, for base, trained model and this one.
    """

    tokens: int
    kl: float
    changed: float
    base_loss: float
    trained_loss: float
    loss: float

    @property
    def kept_improvement(self) -> float | None:
        """Share of the trained model's loss improvement over the base that this model keeps; None if there was none."""
        gain = self.base_loss - self.trained_loss
        return (self.base_loss - self.loss) / gain if gain > 0 else None

    @property
    def most_kl(self) -> float:
        """The largest KL that rounding may cost a model whose dtype alone costs it this divergence, nats."""
        return FLOOR_MULTIPLE * self.kl + FLOOR_LEAST

    @property
    def perplexity(self) -> float:
        """exp(loss) on the answer tokens."""
        return math.exp(self.loss)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "kept_improvement": self.kept_improvement, "perplexity": self.perplexity}


@dataclass(frozen=True)
class AnswerDistributions:
    """log p of every next token at the positions that predict an answer token.

    Attributes:
        log_probabilities: [tokens, vocabulary] float32, on the CPU.
        targets: [tokens], the answers' tokens.
    """

    log_probabilities: Tensor
    targets: Tensor

    @property
    def loss(self) -> float:
        """Mean -log p of the targets, nats."""
        return float(-self.log_probabilities.gather(1, self.targets[:, None]).double().mean())


def answer_distributions(model: nn.Module, rows: Sequence[Row]) -> AnswerDistributions:
    """A model's distributions on the answers of rows, up to MOST_BYTES and MOST_TOKENS.

    Args:
        model: a transformers causal language model, optionally wrapped by PEFT; switched to evaluation mode meanwhile.
        rows: (input_ids, answer_mask) of each row.
    """
    import torch

    from tunelab.models.forward import attention_of, underlying
    from tunelab.models.head import output_head
    from tunelab.models.modes import evaluation_mode
    from tunelab.models.structure import row_layout

    head, layout = output_head(model), row_layout(model)
    most = min(MOST_TOKENS, MOST_BYTES // (4 * len(underlying(model).get_input_embeddings().weight)))
    kept: list[Tensor] = []
    targets: list[Tensor] = []
    with evaluation_mode(model), torch.no_grad(), attention_of(model, layout):
        for batch in _packed(rows, most):
            for hidden, ids, places in _hidden_states(model, batch, layout):
                places = places[: max(0, most)]
                most -= len(places)
                logits = head(hidden[places]).float()  # [answer tokens, vocabulary]
                kept.append(torch.log_softmax(logits, dim=-1).cpu())
                targets.append(ids[[place + 1 for place in places]].cpu())
    return AnswerDistributions(torch.cat(kept), torch.cat(targets))


def _packed(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    """Rows with answers, up to `most` tokens of answers, as batches of at most PACKED_TOKENS tokens."""
    batch: list[Row] = []
    for row in rows:
        if most <= 0:
            break
        if not any(row[1][1:]):
            continue
        if batch and sum(len(ids) for ids, _ in batch) + len(row[0]) > PACKED_TOKENS:
            yield batch
            batch = []
        batch.append(row)
        most -= sum(row[1][1:])
    if batch:
        yield batch


def _hidden_states(
    model: nn.Module, batch: Sequence[Row], layout: RowLayout
) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """Of each row of a batch: hidden states, ids, and the places that predict a token of an answer."""
    import torch

    from tunelab.models.forward import hidden_states, underlying

    device = underlying(model).device
    all_ids = torch.tensor([token for ids, _ in batch for token in ids], device=device)
    starts = [0, *accumulate(len(ids) for ids, _ in batch)]
    hidden = hidden_states(model, all_ids, torch.tensor(starts, device=device), layout)
    for (ids, mask), start in zip(batch, starts, strict=False):
        places = [place - 1 for place in range(1, len(ids)) if mask[place]]
        yield hidden[start : start + len(ids)], all_ids[start : start + len(ids)], places


def divergence(base_loss: float, trained: AnswerDistributions, other: AnswerDistributions) -> Divergence:
    """Divergence of `other` from `trained`, on the same rows."""
    p, q = trained.log_probabilities, other.log_probabilities
    # Rounding can take a divergence of zero below zero; clamp keeps NaN.
    kl = (p.exp() * (p - q)).sum(dim=-1).double().mean().clamp(min=0.0)
    changed = (p.argmax(dim=-1) != q.argmax(dim=-1)).double().mean()
    return Divergence(len(p), float(kl), float(changed), base_loss, trained.loss, other.loss)
