"""The ways in which a training may be computed that change what is kept: kernels, dtypes, adapters, loss, optimizer.

Two profiles of the same count: tunelab's own loop, and plain transformers with PEFT, whose published measurements test
the count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

#: rows: tunelab's on a CPU. varlen: FlashAttention over packed rows. row by row: torch's FlashAttention, one call per
#: row. flash: transformers' FlashAttention 2. efficient: torch's memory-efficient kernel, with repeated keys and
#: values. math: scores and probabilities are kept.
Kernel = Literal["rows", "varlen", "row by row", "flash", "efficient", "math"]

#: own: one autograd function for a frozen layer and its adapter. peft: PEFT's operations.
AdapterPath = Literal["own", "peft"]

#: foreach: torch's default on a GPU, which makes a copy of the trained parameters at the step. single: one parameter
#: at a time, as on a CPU.
Update = Literal["foreach", "fused", "single", "8-bit", "paged 8-bit", "sgd", "momentum"]

#: Bytes per token and vocabulary entry of a plain loss on all logits, measured: 18, transformers of 2024; 14, with the
#: logits kept in `outputs`; 12, without; 8 and 6, cross-entropy in bfloat16.
PlainLoss = Literal[18, 14, 12, 8, 6]


@dataclass(frozen=True)
class Ways:
    """How a training is computed.

    Args:
        full: all weights are trained; else adapters.
        ranks: by the name of a linear layer of each layer ("self_attn.q_proj"), the rank of its adapter; of each
            number of layer, see memory.py.
        compute: bytes of a number in matrix products: 2 (bf16, fp16) or 4.
        weights: bytes of a stored weight that is not quantized.
        autocast: torch.autocast is on: it casts inputs of products, and trained float32 weights.
        loss: "chunked", or bytes of PlainLoss.
        keeps_logits, keeps_cache: what other tools' scripts leave in scope until the step is done.
        dropout: of the adapters' inputs.
    """

    full: bool
    compute: int = 2
    weights: int = 2
    autocast: bool = True
    on_gpu: bool = True
    kernel: Kernel = "varlen"
    adapter_path: AdapterPath = "own"
    dropout: float = 0.0
    loss: Literal["chunked"] | PlainLoss = "chunked"
    keeps_logits: bool = False
    keeps_cache: bool = False
    update: Update = "foreach"
    checkpointing: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
