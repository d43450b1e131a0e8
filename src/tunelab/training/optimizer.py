"""AdamW and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import nn

Schedule = Literal["cosine", "linear", "constant"]


def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    in_8_bits: bool = False,
    lr_factors: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) over the parameters that need gradients.

    Vectors (biases, norms) get no weight decay, as usual for transformers.

    Args:
        in_8_bits: both moments in 8 bits with one scale per 256 values (Dettmers et al. 2022), by bitsandbytes; in
            float32 for tensors with fewer than 4,096 values. On a GPU in paged memory, which moves to the host when
            the GPU is full (Dettmers et al. 2023, QLoRA, section 3).
        lr_factors: multiples of the learning rate, where they are not 1. Each group keeps its own as `lr_factor`.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    alike: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in trainable:
        alike.setdefault(((lr_factors or {}).get(parameter, 1.0), parameter.ndim >= 2), []).append(parameter)
    groups = [
        {"params": alike[factor, decays], "lr": lr * factor, "lr_factor": factor, "weight_decay": weight_decay * decays}
        for factor, decays in sorted(alike, key=lambda key: (key[0], not key[1]))
    ]
    on_gpu = any(parameter.is_cuda for parameter in trainable)
    if not in_8_bits:
        # One kernel for all: torch's default on a GPU has copies of the size of the weights in the update.
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=on_gpu or None)
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    kind = PagedAdamW8bit if on_gpu else AdamW8bit
    optimizer: torch.optim.Optimizer = kind(groups, lr=lr, betas=betas, eps=eps)
    return optimizer


def loraplus_factors(model: nn.Module, *, ratio: float, embedding_lr: float, lr: float) -> dict[nn.Parameter, float]:
    """Multiples of the learning rate for LoRA+: B matrices learn `ratio` times as fast as A.

    As in PEFT's create_loraplus_optimizer(): vectors (DoRA's magnitudes) learn as B does, adapters of embeddings at a
    rate of their own. Source: Hayou et al. 2024, arXiv 2402.12354.

    Args:
        embedding_lr: of adapters of embeddings.
        lr: the learning rate that is multiplied.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    embeddings = {parameter: embedding_lr / lr for name, parameter in named if ".lora_embedding_" in name}
    fast = {parameter: ratio for name, parameter in named if ".lora_B." in name or parameter.ndim == 1}
    return {**fast, **embeddings}


def warmup_steps(warmup: float, total: int) -> int:
    """Warmup steps: a share of all steps if it is below 1, else their number."""
    return math.ceil(warmup * total) if warmup < 1 else round(warmup)


def learning_rate(step: int, total: int, *, peak: float, schedule: Schedule, warmup: float) -> float:
    """The learning rate of step `step` (from 0) of `total`: linear warmup, then the schedule down to 0 at the end."""
    rising = warmup_steps(warmup, total)
    if step < rising:
        return peak * (step + 1) / rising
    if schedule == "constant":
        return peak
    share = (step - rising) / max(1, total - rising)
    if schedule == "linear":
        return peak * (1 - share)
    return peak * 0.5 * (1 + math.cos(math.pi * share))
