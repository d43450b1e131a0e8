"""What the lengths of a recipe's rows say about its training: steps, packed micro-batches, tokens, time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tunelab.config import TrainSettings
from tunelab.config.micro_batch import micro_batch_tokens
from tunelab.data.packing import pack_best_fit
from tunelab.planning.cards import Card
from tunelab.planning.duration import flops_per_token, mfu_range, seconds_range
from tunelab.planning.estimate import Plan
from tunelab.units import format_significant

#: Rows per step if the recipe sets neither rows nor tokens.
_BATCH = 16

#: Rows of an epoch that are packed to know how full micro-batches are; the others are like them.
_MOST_PACKED = 20_000


@dataclass(frozen=True)
class RowLengths:
    """Tokens of each training row, and how many of all are in the loss.

    Args:
        dropped, truncated: rows longer than `data.max_length`, which are left out or cut.
    """

    lengths: Sequence[int]
    targets: int
    dropped: int = 0
    truncated: int = 0

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def mean(self) -> float:
        return self.tokens / len(self.lengths)

    @cached_property
    def quantiles(self) -> tuple[int, int, int]:
        """Median, 95th percentile and maximum."""
        ordered = sorted(self.lengths)
        return ordered[len(ordered) // 2], ordered[math.ceil(0.95 * len(ordered)) - 1], ordered[-1]

    @property
    def target_share(self) -> float:
        return self.targets / self.tokens

    def steps(self, settings: TrainSettings) -> int:
        """Optimizer steps of the whole training."""
        if settings.steps is not None:
            return settings.steps
        size = settings.batch_size or _BATCH
        each = self.tokens / settings.batch_tokens if settings.batch_tokens else math.ceil(len(self.lengths) / size)
        return max(1, round(settings.epochs * each))

    def trained_tokens(self, settings: TrainSettings) -> float:
        """Tokens of all steps."""
        if settings.steps is None:
            return settings.epochs * self.tokens
        return settings.steps * (settings.batch_tokens or (settings.batch_size or _BATCH) * self.mean)

    def filled(self, settings: TrainSettings) -> float:
        """Mean tokens of a micro-batch: a step's rows are packed, so a small step fills less than a micro-batch."""
        some = list(self.lengths[:_MOST_PACKED])
        each = settings.batch_size or (None if settings.batch_tokens else _BATCH)
        groups = [some] if each is None else [some[start : start + each] for start in range(0, len(some), each)]
        packs = sum(len(pack_best_fit(group, micro_batch_tokens(settings))) for group in groups)
        return sum(some) / packs


def hours(plan: Plan, card: Card, rows: RowLengths | None = None) -> tuple[float, float] | None:
    """The least and the most hours of a training on a card, or on several that divide each step; of a million tokens if
    its rows are not known. None: the card's speed is not known."""
    settings = plan.recipe.train
    tokens = rows.trained_tokens(settings) if rows else 1e6
    row, filled = (rows.mean, rows.filled(settings)) if rows else (plan.longest, plan.tokens)
    method = "full" if plan.is_full else "lora" if plan.precision == "none" else "4-bit"
    flops = tokens * flops_per_token(plan.shape, full=plan.is_full, row=row)
    found = seconds_range(
        card,
        flops,
        mfu_range(method, round(filled)),
        trained=plan.trained,
        steps=rows.steps(settings) if rows else 0.0,
    )
    return None if found is None else (found[0] / plan.gpus / 3600, found[1] / plan.gpus / 3600)


def format_hours(least: float, most: float) -> str:
    """A range of hours: "2.1 to 5.3 h", or in minutes or days."""
    for limit, size, unit in ((1.0, 1 / 60, "min"), (72.0, 1.0, "h"), (math.inf, 24.0, "days")):
        if most < limit:
            return f"{format_significant(least / size, 2)} to {format_significant(most / size, 2)} {unit}"
    raise AssertionError("no limit is above infinity")
