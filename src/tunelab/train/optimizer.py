"""AdamW and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

Schedule = Literal["cosine", "linear", "constant"]


def adamw(
    parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over the parameters that need gradients.

    Vectors (biases, norms) get no weight decay, as is usual for transformers.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps)


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of warm-up: a share of all steps where it is below 1, else their number."""
    return math.ceil(warmup * total) if warmup < 1 else round(warmup)


def learning_rate(step: int, total: int, *, peak: float, schedule: Schedule, warmup: float) -> float:
    """The rate of step `step` (from 0) of `total`: a linear rise, then the schedule down to 0 after the last step."""
    rising = warmup_steps(warmup, total)
    if step < rising:
        return peak * (step + 1) / rising
    if schedule == "constant":
        return peak
    share = (step - rising) / max(1, total - rising)
    if schedule == "linear":
        return peak * (1 - share)
    return peak * 0.5 * (1 + math.cos(math.pi * share))
