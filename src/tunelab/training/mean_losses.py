"""Mean losses on held-out and validation rows, which a run measures before, during and after training."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from accelerate import Accelerator

from tunelab.config import Recipe
from tunelab.config.micro_batch import micro_batch_tokens
from tunelab.data.loader import TokenTable
from tunelab.data.prepared import PreparedData
from tunelab.errors import TrainingError
from tunelab.progress import Progress
from tunelab.records.runs import HELD_OUT, VALIDATION
from tunelab.training.loss import TargetLoss, table_loss
from tunelab.units import format_number

#: Losses in the manifest, each measured before and after training where there are such rows.
HELD_OUT_LOSS, VALIDATION_LOSS = "held_out_loss", "validation_loss"

#: Measures one of them.
Measure = Callable[[], float]


def mean_losses(
    module: TargetLoss, data: PreparedData, recipe: Recipe, accelerator: Accelerator, progress: Progress
) -> dict[str, Measure]:
    """The losses that a run measures before and after training, by their name in the manifest."""
    tables = {HELD_OUT_LOSS: (HELD_OUT, data.held_out), VALIDATION_LOSS: (VALIDATION, data.validation)}
    return {
        name: partial(_mean_loss, rows, table, module, recipe, accelerator, progress)
        for name, (rows, table) in tables.items()
        if len(table)
    }


def _mean_loss(
    rows: str, table: TokenTable, module: TargetLoss, recipe: Recipe, accelerator: Accelerator, progress: Progress
) -> float:
    """Mean loss over the targets of held-out or validation rows, divided among the processes."""
    stage = f"{rows} loss"
    progress(stage, 0, len(table))
    with accelerator.autocast():
        total, targets = table_loss(
            module,
            table,
            micro_batch_tokens=micro_batch_tokens(recipe.train),
            loss_on=recipe.data.loss_on,
            device=accelerator.device,
            rank=accelerator.process_index,
            ranks=accelerator.num_processes,
            on_rows=lambda done: progress(stage, min(done, len(table) - 1), len(table)),
        )
    sums = torch.tensor([total, targets], dtype=torch.float64, device=accelerator.device)
    total, count = accelerator.reduce(sums, "sum").tolist()
    if not math.isfinite(total):
        raise TrainingError(
            f"the {stage} is {total}; checkpoints have the earlier weights",
            "lower train.lr, or use train.dtype=fp32 or bf16",
            diverged=True,
        )
    loss = float(total / count)
    progress(stage, len(table), len(table), f"loss {format_number(loss, 3)}")
    return loss
