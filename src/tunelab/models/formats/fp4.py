"""4-bit floats of bitsandbytes: sign, two bits of exponent, one of mantissa, blocks of 64.

Not the elements of MXFP4: the levels are 0, 0.0052, 1/6, 1/4, 1/3, 1/2, 2/3 and 1 times the block's largest value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunelab.models.formats._four_bits import FourBits


@dataclass(frozen=True)
class Format(FourBits):
    """FP4 of bitsandbytes."""

    name: ClassVar[str] = "fp4"
    levels_bound: ClassVar[float] = 1 / 6
