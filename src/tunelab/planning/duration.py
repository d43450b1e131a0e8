"""Floating-point operations of a training, and hours on a GPU as a range: from published shares of its peak (MFU)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tunelab.planning.cards import Card
from tunelab.planning.shape import ModelShape

#: Published trainings with their sources.
TABLE = Path(__file__).resolve().parents[1] / "assets" / "published_mfu.csv"

#: Tokens of a micro-batch from which on published trainings are about equally efficient.
LONG_MICRO_BATCH = 2048

#: Bytes of memory traffic per trained float32 parameter and optimizer step; from the time of AdamW's steps on bf16
#: parameters, 42 and 51 (TRAIS-Lab/Dr.Post-Training), which have half the size.
_STEP_TRAFFIC = (84.0, 102.0)


@dataclass(frozen=True, slots=True)
class Mfu:
    """A published training's share of its GPU's peak.

    Args:
        method: "full", "lora", or "4-bit" for LoRA over a 4-bit base.
        tokens: of a micro-batch.
    """

    method: str
    tokens: int
    share: float
    what: str
    source: str


@cache
def published() -> tuple[Mfu, ...]:
    """The table that ships."""
    text = TABLE.read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(Mfu(r["method"], int(r["tokens"]), float(r["mfu"]), r["what"], r["source"]) for r in rows)


def mfu_range(method: str, tokens: int) -> tuple[float, float]:
    """The least and the largest published share of a method with micro-batches of about this length.

    Args:
        method: "full", "lora" or "4-bit".
        tokens: of a micro-batch.
    """
    is_long = tokens >= LONG_MICRO_BATCH
    shares = [one.share for one in published() if one.method == method and (one.tokens >= LONG_MICRO_BATCH) == is_long]
    return min(shares), max(shares)


def flops_per_token(shape: ModelShape, *, full: bool, row: float) -> float:
    """Operations per token of forward and backward, without what checkpointing computes again: 6 per weight, or 4 where
    weights are frozen, and causal attention.

    Args:
        row: mean tokens of a row.
    """
    attention = 6 * shape.layers * shape.query_width * row
    return (6 if full else 4) * shape.active + attention


def seconds_range(
    card: Card, flops: float, shares: tuple[float, float], *, trained: int = 0, steps: float = 0.0
) -> tuple[float, float] | None:
    """The least and the most seconds of a training on a card; None if its speed is unknown.

    Args:
        flops: of the whole training.
        shares: as mfu_range() gives.
        trained: parameters whose update costs bandwidth, in each of `steps` steps.
    """
    if card.flops is None or card.bandwidth is None:
        return None
    fast, slow = (flops / (card.flops * share) for share in (shares[1], shares[0]))
    least, most = (traffic * trained * steps / card.bandwidth for traffic in _STEP_TRAFFIC)
    return fast + least, slow + most
