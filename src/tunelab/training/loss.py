"""Cross-entropy on target tokens only, in chunks: the full logits matrix never exists.

Of [tokens, vocabulary] logits only the rows of targets matter, and only a chunk of those is in memory at a time: each
chunk's gradient is computed inside the forward pass, so that its logits can be freed before the next
are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunelab.data.loader import LossOn, PackedBatch, TokenTable, packed_batch
from tunelab.data.packing import pack_best_fit
from tunelab.models.forward import BeforePass, RowLayout, attention_of, hidden_states, underlying
from tunelab.models.head import output_head, trained_behind
from tunelab.models.structure import row_layout
from tunelab.training.embedding_noise import EmbeddingNoise

#: Logits in memory at a time (float32: 32 MiB on the CPU, 256 MiB on a GPU); a chunk has this many divided by the
#: vocabulary's size. Each chunk reads the whole head from memory, 2 bytes for 2 operations per row: a GPU that does
#: 150 to 300 operations per byte waits for memory with fewer rows than that.
LOGITS_PER_CHUNK = {"cpu": 2**23, "cuda": 2**26}

#: On the CPU a chunk is padded to a multiple of this many rows: oneDNN compiles a kernel for every shape it meets.
ROWS_STEP = 32

#: Rows of logits processed at a time on the CPU: 2 MiB of float32 at a vocabulary of 32,000.
ROWS_IN_CACHE = 16


def chunk_of(vocabulary: int, device: str) -> int:
    """Targets whose logits are computed at a time: 512 for 128,000 tokens on a GPU, 64 on the CPU."""
    return max(1, LOGITS_PER_CHUNK.get(device, LOGITS_PER_CHUNK["cpu"]) // vocabulary // ROWS_STEP) * ROWS_STEP


def chunked_cross_entropy(
    hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], chunk: int
) -> Tensor:
    """Sum of -log p(label) over targets, a float32 scalar, equal to the plain loss on all logits at once.

    Args:
        hidden: [targets, hidden], states that predict the targets.
        labels: [targets], int64.
        head: [n, hidden] -> [n, vocabulary] logits, differentiable.
        parameters: what the head depends on and needs gradients.
        chunk: targets whose logits are computed at a time.
    """
    return _ChunkedCrossEntropy.apply(hidden, labels, head, chunk, *parameters)  # type: ignore[no-any-return, no-untyped-call]


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], chunk: int, *parameters: Tensor
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        needed = any(ctx.needs_input_grad)
        hidden_gradient = torch.empty_like(hidden) if needed else None
        gradients = [torch.zeros_like(parameter) for parameter in parameters] if needed else []
        for start in range(0, len(labels), chunk):
            piece = hidden[start : start + chunk].detach()
            rows = len(piece)
            if hidden.device.type == "cpu":
                piece = functional.pad(piece, (0, 0, 0, -rows % min(ROWS_STEP, chunk)))
            with torch.set_grad_enabled(needed):
                piece.requires_grad_(needed)
                logits = head(piece)  # [chunk, vocabulary]
            loss, logit_gradient = _cross_entropy(logits.detach(), labels[start : start + rows], needed)
            total += loss
            if hidden_gradient is None:
                continue
            found = torch.autograd.grad(logits, [piece, *parameters], logit_gradient)
            hidden_gradient[start : start + rows] = found[0][:rows]
            for gradient, part in zip(gradients, found[1:], strict=True):
                gradient += part
        if hidden_gradient is not None:
            ctx.save_for_backward(hidden_gradient, *gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, *gradients = ctx.saved_tensors
        # In float32: one over the number of targets, rounded to bfloat16, would be off by up to 0.4 %, and fp16's loss
        # scale does not fit into float16.
        scale = upstream[0].float()
        scaled = ((gradient.float() * scale).to(gradient.dtype) for gradient in gradients)
        return ((hidden_gradient.float() * scale).to(hidden_gradient.dtype), None, None, None, *scaled)


def _cross_entropy(logits: Tensor, labels: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Sum of -log p(label) in float32, and its gradient softmax(logits) - onehot(label) in the logits' own dtype.

    Rows of logits after the last label are padding: no loss, no gradient. A few rows at a time on the CPU, so that a
    row's float32 values are still in the cache when they are read again.
    """
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    result = torch.zeros_like(logits) if gradient else None
    rows = ROWS_IN_CACHE if logits.device.type == "cpu" else len(labels)
    for start in range(0, len(labels), rows):
        part = logits[start : min(start + rows, len(labels))].float()
        label = labels[start : start + rows, None]
        own = part.gather(1, label)
        if result is None:
            total += (torch.logsumexp(part, dim=1, keepdim=True) - own).sum()
            continue
        probability = torch.softmax(part, dim=1)
        # The largest probability is exp(largest logit - logsumexp): exact even if p(label) underflows float32.
        total += (part.amax(1, keepdim=True) - probability.amax(1, keepdim=True).log() - own).sum()
        probability.scatter_add_(1, label, torch.full_like(own, -1.0))
        result[start : start + len(part)] = probability
    return total, result


class TargetLoss(nn.Module):
    """A causal language model with its loss: packed batch in, sum of -log p over the batch's targets out.

    The loss is inside the module so that distributed wrappers see one forward pass.

    Args:
        model: a transformers causal language model, or PEFT's wrapper of one.
        chunk: targets whose logits are computed at a time; by default by the device, see LOGITS_PER_CHUNK.
        layout: how a batch's rows are run; None = packed where that gives the model's own logits.
        noise_alpha: of NEFTune, see embedding_noise.py; None = no noise.

    Raises:
        ModelError: see tunelab.models.structure.row_layout().
    """

    def __init__(
        self,
        model: nn.Module,
        chunk: int | None = None,
        layout: RowLayout | None = None,
        noise_alpha: float | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.layout: RowLayout = layout or row_layout(model)
        self.chunk = chunk
        self._vocabulary = underlying(model).config.get_text_config().vocab_size
        self._behind: list[nn.Parameter] | None = None
        self._before_pass: BeforePass | None = None
        if noise_alpha is not None:
            self._before_pass = EmbeddingNoise(underlying(model).get_input_embeddings(), noise_alpha).before_pass

    def attention(self) -> AbstractContextManager[None]:
        """Within the block, the model uses the attention that its rows' layout needs."""
        return attention_of(self.model, self.layout)

    def forward(
        self, input_ids: Tensor, row_starts: Tensor | Sequence[int], predicted_from: Tensor, labels: Tensor
    ) -> Tensor:
        """Scalar loss; arguments as in tunelab.data.loader.PackedBatch. Call inside `with module.attention()`."""
        starts = torch.as_tensor(row_starts)
        hidden = hidden_states(self.model, input_ids, starts, self.layout, self._before_pass)  # [tokens, hidden]
        wanted = hidden.index_select(0, predicted_from)  # [targets, hidden]
        head = output_head(self.model)
        parameters = self._parameters_behind(head, hidden) if torch.is_grad_enabled() else []
        chunk = self.chunk or chunk_of(self._vocabulary, wanted.device.type)
        return chunked_cross_entropy(wanted, labels, head, parameters, chunk)

    def _parameters_behind(self, head: Callable[[Tensor], Tensor], hidden: Tensor) -> list[nn.Parameter]:
        """What is trained behind the hidden states, looked for once."""
        if self._behind is None:
            self._behind = trained_behind(head, hidden)
        return self._behind

    def of_batch(self, batch: PackedBatch) -> Tensor:
        """The loss of one packed batch."""
        return self(batch.input_ids, batch.row_starts, batch.predicted_from, batch.labels)  # type: ignore[no-any-return]


def table_loss(
    module: TargetLoss,
    table: TokenTable,
    *,
    micro_batch_tokens: int,
    loss_on: LossOn,
    device: torch.device,
    rank: int = 0,
    ranks: int = 1,
    on_rows: Callable[[int], None] = lambda done: None,
) -> tuple[float, int]:
    """Sum of -log p over the targets of a table's rows, and their number, without gradients or dropout.

    With several ranks each takes every ranks-th batch; the caller sums.

    Args:
        on_rows: called after every batch with the number of rows that are done in all ranks, about.
    """
    was_training = module.training
    module.eval()
    total, targets = torch.zeros((), dtype=torch.float64, device=device), 0
    capacity = max(micro_batch_tokens, max(table.lengths, default=0))
    bins = pack_best_fit(table.lengths, capacity)
    try:
        with torch.no_grad(), module.attention():
            done, mine = 0, bins[rank::ranks]
            for rows in mine:
                batch = packed_batch(table, rows, loss_on).to(device)
                total += module.of_batch(batch)
                targets += len(batch.labels)
                done += len(rows)
                on_rows(min(done * ranks, len(table)))
            if len(mine) < -(-len(bins) // ranks):  # the others gather a sharded base once more
                module.of_batch(packed_batch(table, bins[0], loss_on).to(device))
    finally:
        module.train(was_training)
    return float(total), targets
