"""What a sample in which every item scored the same says about the others: its standard error of 0 is not a certainty.

Source: Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927): the end of the score
interval if none of n items has a property. (The rule of three, 3 / n, is its one-sided relative.)
"""

from __future__ import annotations

#: Least and largest value of an item, by the unit of a score.
BOUNDS = {"0-1": (0.0, 1.0), "0-100": (0.0, 100.0)}

#: Square of the 97.5 % quantile of the normal distribution.
_Z_SQUARED = 3.8414588206941236


def unseen_share(n: int) -> float:
    """The largest share of all items, at 95 % confidence, that may differ if n items came out alike: 0.13 for 25."""
    return _Z_SQUARED / (n + _Z_SQUARED)


def interval_of_equal_values(value: float, n: int, low: float, high: float) -> tuple[float, float]:
    """The 95 % interval of a mean if n independent items all have this value, of values from `low` to `high`."""
    share = unseen_share(n)
    return value - share * (value - low), value + share * (high - value)
