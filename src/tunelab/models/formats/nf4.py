"""4-bit NormalFloat: 16 levels at the quantiles of a normal distribution, blocks of 64 (QLoRA).

Source: Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs, section 3 and appendix E.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunelab.models.formats._four_bits import FourBits


@dataclass(frozen=True)
class Format(FourBits):
    """NF4 of bitsandbytes."""

    name: ClassVar[str] = "nf4"
    levels_bound: ClassVar[float] = (1.0 - 0.6961928) / 2
