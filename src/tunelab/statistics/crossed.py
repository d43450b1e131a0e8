"""One verdict over items and trainings: would another training, evaluated on other items of the kind, say the same?

Items and trainings are two crossed samples: every training answers the same items. The variance of a difference is what
the choice of items and what the choice of trainings contribute. In a two-way layout without replication the exact sum
is (MS_items + MS_trainings - MS_rest) / (items trainings); MS_rest, which is in both terms, is not subtracted, so that
the error is never too small.

The half-widths of both samples' own t intervals are added in squares. That interval holds the truth at least as often
as it says, whatever the two variances are, at every level, so that it can be corrected for many comparisons. The usual
interval with Satterthwaite's degrees of freedom does not: with two trainings, whose variance is often far too small by
chance, up to 13 % of its 5 % claims are false, and with three up to 8 % (benchmarks/simulate_trainings.py).

Sources:
    Banerjee 1960, Approximate confidence interval for linear functions of means of k populations when the population
        variances are not equal (Sankhya 22): half-widths added in squares.
    Satterthwaite 1946, An approximate distribution of estimates of variance components.
    Brennan 2001, Generalizability theory, chapter 3 (persons crossed with conditions, one observation per cell).
    Owen 2007, The pigeonhole bootstrap (10.1214/07-AOAS122): crossed samples, and that the sum is conservative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit

from tunelab.errors import DataError
from tunelab.statistics.units import Array

#: The smallest tail that p is sought in.
_SMALLEST = 1e-300


@dataclass(frozen=True, slots=True)
class Part:
    """What one sample contributes to an estimate's variance.

    Attributes:
        error: the standard error from this sample alone.
        degrees: degrees of freedom that it is estimated with.
    """

    error: float
    degrees: float


@dataclass(frozen=True, slots=True)
class Crossed:
    """An estimate over crossed samples, normal about the truth.

    Attributes:
        value: the estimate.
        parts: of its variance.
    """

    value: float
    parts: tuple[Part, ...]

    @property
    def error(self) -> float:
        """Standard error over all samples."""
        return math.hypot(*(one.error for one in self.parts))

    def reach(self, tail: float) -> float:
        """The half-width of the interval that leaves out this share on each side."""
        return float(half_width([one.error for one in self.parts], [one.degrees for one in self.parts], tail))

    def interval(self, confidence: float) -> tuple[float, float]:
        """The interval of this confidence, at least."""
        half = self.reach((1 - confidence) / 2)
        return self.value - half, self.value + half

    def above(self, border: float = 0.0) -> float:
        """One-sided p of a truth that is no larger than the border."""
        distance = self.value - border
        if not self.error:
            return float(distance <= 0)
        tail = self._tail(abs(distance))
        return tail if distance > 0 else 1 - tail

    @property
    def p(self) -> float:
        """Two-sided p of no difference."""
        if not self.error:
            return float(not self.value)
        return 2 * self._tail(abs(self.value))

    def detectable(self, tail: float, power: float) -> float:
        """The smallest truth that is shown with this power, if a claim needs an estimate beyond reach(tail)."""
        return self.reach(tail) + float(ndtri(power)) * self.error

    def _tail(self, distance: float) -> float:
        """The share on one side of the interval that ends so far from the estimate: 0.5 at none."""
        low, high = math.log(_SMALLEST), math.log(0.5)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if self.reach(math.exp(middle)) <= distance else (middle, high)
        return math.exp(high)


def crossed(value: float, parts: Sequence[Part]) -> Crossed:
    """An estimate whose variance is the sum of independent parts.

    Raises:
        DataError: there is no part, an error is negative or not finite, or degrees of freedom are not positive.
    """
    if not parts:
        raise DataError("no variance to estimate an error from: expected that of the items, at least")
    for one in parts:
        if not (0 <= one.error < math.inf and one.degrees > 0):
            raise DataError(
                f"an error of {one.error} with {one.degrees} degrees of freedom: expected 0 or more, above 0"
            )
    return Crossed(value, tuple(parts))


def half_width(errors: Sequence[ArrayLike], degrees: Sequence[float], tail: float) -> NDArray[np.float64]:
    """Half-width of the interval of sums of independent parts, [...]: those of the parts, added in squares.

    Args:
        errors: of each part, [parts, ...]: one sum for each of the further axes.
        degrees: of each part, [parts].
        tail: what the interval leaves out on each side.
    """
    ends = [-float(stdtrit(one, tail)) * np.asarray(error) for one, error in zip(degrees, errors, strict=True)]
    found: Array = np.hypot.reduce(np.stack(ends))
    return found


def satterthwaite_p(value: float, parts: Sequence[Part]) -> tuple[float, float]:
    """Two-sided p of Student's t with Satterthwaite's degrees of freedom, and these: what is usual, and too small where
    trainings are few and vary much. For comparison with published analyses alone.
    """
    shares = [one.error**2 for one in parts]
    degrees = sum(shares) ** 2 / sum(share**2 / one.degrees for share, one in zip(shares, parts, strict=True))
    return 2 * float(stdtr(degrees, -abs(value) / math.sqrt(sum(shares)))), degrees


def parts_of_trainings(figures: Sequence[Sequence[float]], weights: Sequence[float]) -> list[Part]:
    """What the choice of trainings contributes to a weighted sum of several arms' means.

    Arms with equally many trainings are paired, training by training, so that what a shared seed does to both cancels
    out; else each arm contributes its own variance. A model that is not tuned has one figure and contributes none.

    Args:
        figures: of each arm, one per training.
        weights: of each arm's mean in the sum.
    """
    weighted = [weight * np.asarray(one, dtype=np.float64) for one, weight in zip(figures, weights, strict=True)]
    several = [one for one in weighted if len(one) > 1]
    if len({len(one) for one in several}) == 1:
        several = [np.sum(several, axis=0)]
    return [Part(float(one.std(ddof=1)) / math.sqrt(len(one)), len(one) - 1.0) for one in several]
