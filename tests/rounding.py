"""How near two float32 results of one formula must be where different code computed them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Of the largest number. Kernels differ between machines in how they cut and order sums, by a few float32 spacings
#: (2^-23 = 1.2e-7) a layer: between 1e-7 and 1e-6 is seen for the models of the tests. What the tests look for (another
#: weight, no adapter, a product in 16 bits) is off by 1e-3 and more.
SAME_BUT_FOR_ROUNDING = 1e-5


def assert_same_but_for_rounding(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Fails where a float32 tensor differs from its counterpart by more than SAME_BUT_FOR_ROUNDING of the largest."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype == torch.float32
        largest = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=SAME_BUT_FOR_ROUNDING * largest)
