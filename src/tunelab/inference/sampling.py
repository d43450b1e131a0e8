"""How the next token is chosen: greedily, or sampled from a truncated distribution.

The order of the steps is transformers' (generation/logits_process.py): repetition penalty, temperature, top-k, top-p,
min-p. A row has its own random numbers, from the seed and its index: neither its neighbors in the batch nor the batch
size affect it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunelab.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are generated.

    Attributes:
        max_new_tokens: maximum tokens of an answer.
        temperature: logits are divided by it; 0 = greedy: always the most likely token, and the next three are
            ignored.
        top_p: only the most likely tokens that together have this probability; 1 = all. Holtzman et al. 2020.
        top_k: only this many most likely tokens; 0 = all.
        min_p: only tokens with at least this share of the most likely one's probability; 0 = all. Nguyen et al. 2024.
        repetition_penalty: logits of tokens that are already in prompt or answer are divided by it if positive, else
            multiplied; 1 = none. Keskar et al. 2019.
        seed: row i uses the random numbers of (seed, i).
        stop_strings: an answer ends before the first of these.

    Raises:
        UsageError: a value is outside its range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ranges = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 (greedy) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1 (all tokens)"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "min_p": (0 <= self.min_p <= 1, "from 0 (all tokens) to 1"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "above 0; 1 is no penalty"),
            "seed": (self.seed >= 0, "0 or more"),
            "stop_strings": (all(self.stop_strings), "non-empty texts"),
        }
        for name, (allowed, expected) in ranges.items():
            if not allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}, expected {expected}")


def row_randomness(seed: int, row: int, count: int) -> list[float]:
    """Numbers in [0, 1) with which a row samples its first `count` tokens."""
    import numpy as np

    return [float(number) for number in np.random.default_rng([seed, row]).random(count)]


def next_tokens(logits: Tensor, decoding: Decoding, randomness: list[float], seen: Tensor | None = None) -> list[int]:
    """The next token of each row.

    Args:
        logits: [rows, vocabulary], of any float dtype.
        randomness: for each row a number in [0, 1); not used for greedy decoding.
        seen: [rows, vocabulary] bool, tokens that the row already has; needed for the repetition penalty.
    """
    import torch

    from tunelab.models.page_locked import copied

    if decoding.repetition_penalty != 1 and seen is not None:
        penalty = decoding.repetition_penalty
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if decoding.temperature == 0:
        return logits.argmax(dim=-1).tolist()
    probabilities = narrowed_probabilities(logits, decoding)
    total = probabilities.cumsum(dim=-1)  # [rows, vocabulary]
    drawn = copied(torch.tensor(randomness, dtype=total.dtype), total.device)
    wanted = drawn[:, None] * total[:, -1:]
    # The first token whose running total exceeds the number drawn; one of probability 0 never does.
    return torch.searchsorted(total, wanted, right=True).clamp_max(total.shape[-1] - 1)[:, 0].tolist()


def narrowed_probabilities(logits: Tensor, decoding: Decoding) -> Tensor:
    """Probabilities after temperature, top-k, top-p and min-p, not normalized: float64, as logits."""
    import torch

    scaled = logits.double() / decoding.temperature
    if 0 < decoding.top_k < scaled.shape[-1]:
        least = scaled.topk(decoding.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    probabilities = torch.softmax(scaled, dim=-1)
    if decoding.top_p < 1:
        ordered, places = probabilities.sort(dim=-1, descending=True, stable=True)
        # A token stays while those before it have not yet reached top_p: the one that reaches it stays too.
        cut = ordered.cumsum(dim=-1) - ordered >= decoding.top_p
        cut[:, 0] = False
        probabilities = probabilities.masked_fill(torch.zeros_like(cut).scatter(1, places, cut), 0.0)
    if decoding.min_p > 0:
        least = decoding.min_p * probabilities.max(dim=-1, keepdim=True).values
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities
