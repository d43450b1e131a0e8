"""From a table of tokenized rows to the packed batches of each step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tunelab.data.answer_mask import Mask
from tunelab.data.packing import divide_among_ranks, epoch_order, group_steps, pack_best_fit, pad_together
from tunelab.data.tokenize import EncodedRow, Ids

if TYPE_CHECKING:
    import torch

LossOn = Literal["completion", "all"]


@dataclass(frozen=True)
class TokenTable:
    """Rows of tokens end to end.

    Args:
        input_ids: [tokens of all rows].
        answer_mask: [tokens of all rows], True where a token belongs to an answer.
        row_starts: [rows + 1], int64.
        prompt_lengths: [rows], tokens before the last answer.
    """

    input_ids: Ids
    answer_mask: Mask
    row_starts: npt.NDArray[np.int64]
    prompt_lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[EncodedRow]) -> TokenTable:
        """The table of these rows, in their order."""

        def column(values: list[int]) -> npt.NDArray[np.int64]:
            return np.asarray(values, dtype=np.int64)

        return cls(
            input_ids=np.concatenate([np.zeros(0, dtype=np.int32), *(row.input_ids for row in rows)]),
            answer_mask=np.concatenate([np.zeros(0, dtype=np.bool_), *(row.answer_mask for row in rows)]),
            row_starts=column([0, *(len(row.input_ids) for row in rows)]).cumsum(),
            prompt_lengths=column([row.prompt_length for row in rows]),
        )

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    def row(self, index: int) -> tuple[Ids, Mask]:
        """input_ids and answer_mask of one row, views of the table."""
        start, end = self.row_starts[index], self.row_starts[index + 1]
        return self.input_ids[start:end], self.answer_mask[start:end]

    def first(self, count: int) -> TokenTable:
        """The table of the first rows, at most `count`."""
        count = min(count, len(self))
        end = self.row_starts[count]
        return TokenTable(
            self.input_ids[:end], self.answer_mask[:end], self.row_starts[: count + 1], self.prompt_lengths[:count]
        )

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [int(length) for length in np.diff(self.row_starts)]

    @property
    def tokens(self) -> int:
        return len(self.input_ids)

    @cached_property
    def targets(self) -> list[int]:
        """Target tokens of each row under `loss_on: completion`."""
        sums = np.concatenate([[0], np.cumsum(self.answer_mask)])
        first = self.answer_mask[self.row_starts[:-1]] if len(self) else np.zeros(0, dtype=np.bool_)
        return [int(count) for count in sums[self.row_starts[1:]] - sums[self.row_starts[:-1]] - first]

    @cached_property
    def sha256(self) -> str:
        """Hash of the tokens, the masks and where rows begin: equal tables are equal data for a model."""
        content = hashlib.sha256()
        for array in (self.input_ids, self.answer_mask, self.row_starts):
            content.update(np.ascontiguousarray(array).tobytes())
        return content.hexdigest()

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The columns by name, as they are stored."""
        names = ("input_ids", "answer_mask", "row_starts", "prompt_lengths")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class PackedBatch:
    """One packed sequence of a few rows, and its targets.

    Args:
        input_ids: [tokens], int64.
        row_starts: [rows + 1], int64; on the host on every device: what is computed of it decides what is run.
        predicted_from: [targets], int64: places whose hidden state predicts a target (the token before it).
        labels: [targets], int64: the targets.
    """

    input_ids: torch.Tensor
    row_starts: torch.Tensor
    predicted_from: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch on a device; to a GPU in one copy from page-locked memory, which the host does not wait for."""
        import torch

        parts: tuple[torch.Tensor, ...] = (self.input_ids, self.predicted_from, self.labels)
        if torch.device(device).type == "cuda":
            together = torch.cat(parts).pin_memory().to(device, non_blocking=True)
            parts = torch.split(together, [len(part) for part in parts])
        input_ids, predicted_from, labels = (part.to(device) for part in parts)
        return PackedBatch(input_ids, self.row_starts, predicted_from, labels)


def packed_batch(table: TokenTable, rows: Sequence[int], loss_on: LossOn = "completion") -> PackedBatch:
    """The packed batch of these rows of a table. The first token of a row is never a target: nothing predicts it."""
    import torch

    parts = [table.row(row) for row in rows]
    input_ids = np.concatenate([ids for ids, _ in parts]).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids, _ in parts])])
    wanted = np.concatenate([mask if loss_on == "completion" else np.ones_like(mask) for _, mask in parts])
    wanted[starts[:-1]] = False
    targets = np.flatnonzero(wanted)
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        row_starts=torch.from_numpy(starts),
        predicted_from=torch.from_numpy(targets - 1),
        labels=torch.from_numpy(input_ids[targets]),
    )


@dataclass(frozen=True)
class Step:
    """One optimizer step: its rows, and how many targets and tokens they hold."""

    rows: tuple[int, ...]
    targets: int
    tokens: int


@dataclass(frozen=True)
class TrainingPlan:
    """Every step of a run, from lengths and a seed alone.

    Args:
        epochs: passes over the table, may be fractional; `steps` overrides it.
        batch_size, batch_tokens: exactly one is given.
        micro_batch_tokens: maximum tokens of a micro-batch.
        packing: False = rows are padded: a micro-batch counts its padding.
    """

    table: TokenTable
    epochs: float
    steps: int | None
    batch_size: int | None
    batch_tokens: int | None
    micro_batch_tokens: int
    packing: bool = True
    loss_on: LossOn = "completion"
    seed: int = 0
    _groups: dict[int, list[list[int]]] = field(default_factory=dict, repr=False)
    _counts: dict[int, int] = field(default_factory=dict, repr=False)

    @cached_property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        if self.steps is not None:
            return self.steps
        whole = math.floor(self.epochs)
        alike = self.batch_size is not None
        total = whole * self._count(0) if alike else sum(self._count(epoch) for epoch in range(whole))
        rest = self.epochs - whole
        if rest > 1e-9:
            total += round(rest * self._count(whole))
        return max(total, 1)

    def _count(self, epoch: int) -> int:
        """Steps of an epoch: all have the same number, unless a step is a number of tokens."""
        if self.batch_size is not None:
            return math.ceil(len(self.table) / self.batch_size)
        if epoch not in self._counts:
            self._counts[epoch] = len(self._epoch(epoch))
        return self._counts[epoch]

    def _epoch(self, epoch: int) -> list[list[int]]:
        if epoch not in self._groups:
            if len(self._groups) > 1:
                self._groups.clear()
            order = epoch_order(len(self.table), seed=self.seed, epoch=epoch)
            self._groups[epoch] = group_steps(
                order,
                self.table.lengths,
                batch_size=self.batch_size,
                batch_tokens=self.batch_tokens,
            )
        return self._groups[epoch]

    def step(self, number: int) -> tuple[Step, float]:
        """Step `number` (from 0), and the (fractional) epoch reached when it is done."""
        epoch = 0
        if self.batch_size is not None and len(self.table):
            epoch, number = divmod(number, self._count(0))
        while number >= self._count(epoch):
            number -= self._count(epoch)
            epoch += 1
        groups = self._epoch(epoch)
        rows = groups[number]
        counts = self.table.targets if self.loss_on == "completion" else [length - 1 for length in self.table.lengths]
        step = Step(
            rows=tuple(rows),
            targets=sum(counts[row] for row in rows),
            tokens=sum(self.table.lengths[row] for row in rows),
        )
        return step, epoch + (number + 1) / len(groups)

    def batches(self, step: Step, *, rank: int = 0, ranks: int = 1) -> list[list[int]]:
        """Rows of each micro-batch that a rank computes for a step; empty where the step has fewer rows than ranks."""
        lengths = self.table.lengths
        mine = divide_among_ranks(step.rows, lengths, ranks)[rank] if ranks > 1 else list(step.rows)
        together = pack_best_fit if self.packing else pad_together
        return [[mine[i] for i in bin] for bin in together([lengths[row] for row in mine], self.micro_batch_tokens)]
