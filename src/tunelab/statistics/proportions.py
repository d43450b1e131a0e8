"""Shares of right answers: exact binomial tests and intervals, and what a sample says in which every item scored the
same, as its standard error of 0 is not a certainty.

Sources:
    Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927): the end of the score
        interval if none of n items has a property. (The rule of three, 3 / n, is its one-sided relative.)
    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial" (1934).
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


def binomial_p(right: int, n: int, share: float) -> float:
    """Two-sided p of `right` of n independent items, if each is right with probability `share`: twice the smaller tail,
    at most 1. Four wrong answers to questions of four choices are no surprise: 2 * 0.75^4 = 0.63."""
    from scipy.special import bdtr, bdtrc  # only few scores need it

    at_least = float(bdtrc(right - 1, n, share)) if right else 1.0
    return min(1.0, 2 * min(float(bdtr(right, n, share)), at_least))


def binomial_interval(right: int, n: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share of which `right` of n items were drawn: those binomial_p() accepts."""
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = float(betaincinv(right, n - right + 1, tail)) if right else 0.0
    high = float(betaincinv(right + 1, n - right, 1 - tail)) if right < n else 1.0
    return low, high
