"""Two models' logits over the same rows, compared in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """How far logits differ, relative to the largest; tiny models of two layers show 1e-6 where nothing is wrong."""

    tokens: int
    largest_difference: float
    same_argmax: float

    @property
    def passed(self) -> bool:
        return self.largest_difference <= 1e-4


def compare_logits(expected: Sequence[Tensor], got: Sequence[Tensor]) -> Comparison:
    """Of rows of [tokens, vocabulary] each."""
    first, second = torch.cat(list(expected)), torch.cat(list(got))
    return Comparison(
        tokens=len(first),
        largest_difference=float((first - second).abs().max()) / float(first.abs().max()),
        same_argmax=float((first.argmax(-1) == second.argmax(-1)).float().mean()),
    )
