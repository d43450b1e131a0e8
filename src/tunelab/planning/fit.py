"""What fits a memory: the largest micro-batch and the longest row, by bisection over a prediction that only grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tunelab.planning.estimate import Plan

#: Tokens of a micro-batch beyond which nothing is gained.
MOST_TOKENS = 2**20

Verdict = Literal["fits", "may fit", "does not fit"]


def verdict(plan: Plan, memory: float, tokens: int | None = None) -> Verdict:
    """Whether a plan fits a device: surely, perhaps, or not, by the range of what the device would show.

    Args:
        memory: bytes of the device.
        tokens: of a micro-batch; None = the recipe's.
    """
    least, most = plan.card_bytes(tokens)
    return "fits" if most <= memory else "may fit" if least <= memory else "does not fit"


def largest_micro_batch(plan: Plan, memory: float) -> int:
    """The most tokens of a micro-batch that surely fit, rows as long as the recipe says; 0 = none do."""
    return _largest(lambda tokens: plan.card_bytes(tokens)[1] <= memory, MOST_TOKENS)


def longest_row(plan: Plan, memory: float) -> int:
    """The most tokens of one row, alone in its micro-batch, that surely fit the device and the context window."""
    most = min(plan.shape.context or MOST_TOKENS, MOST_TOKENS)
    return _largest(lambda tokens: plan.card_bytes(tokens, tokens)[1] <= memory, most)


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits, if all smaller ones do; 0 if not even 1 does."""
    if fits(most):
        return most
    good, bad = 0, most
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
