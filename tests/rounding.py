"""How near two float32 results of one formula must be where different code computed them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Of the largest number. Kernels differ between machines in how they cut and order sums. Logits of the tests' models in
#: float32 are 4e-7 to 9e-7 off those in float64 (float32's spacing is 2^-23 = 1.2e-7), and two orders of summing differ
#: by no more than both errors. What the tests look for is far above: linear layers computed in bfloat16 make 8e-3, a
#: weight that was not quantised 1e-2, an adapter that is missing more than 1e-3.
SAME_BUT_FOR_ROUNDING = 1e-5


def assert_same_but_for_rounding(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Fails where a float32 tensor differs from its counterpart by more than SAME_BUT_FOR_ROUNDING of the largest."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype == torch.float32
        largest = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=SAME_BUT_FOR_ROUNDING * largest)
