"""Input of every paired comparison: differences b - a on the same items, grouped by independent unit.

The units are items, or whole clusters (a subject, a prompt) if clusters are given. The cluster "" means that an item is
its own cluster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelab.errors import DataError

Array = NDArray[np.float64]

CONFIDENCE = 0.95

#: Sums that are equal up to rounding, relative to the largest term.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of b - a on the same items.

    Attributes:
        value: the mean difference, in the unit of the values.
        error: its standard error, with n - 1 (or clusters - 1); 0.0 if all items have the same difference.
        low, high: the interval, 95 % unless asked otherwise; holds `value`.
        p: two-sided, for no difference; 1.0 if no item differs.
        n: number of items.
        units: number of independent units: clusters if given, otherwise items.
        method: how interval and p were computed, in words.
        effective_units: units of equal size that determine the mean as well (Units.effective).
        smallest_p: the smallest p that any differences of so many units could give.
        p_is_bound: whether p is only an upper bound: random swaps found none that is as far out.
    """

    value: float
    error: float
    low: float
    high: float
    p: float
    n: int
    units: int
    method: str
    effective_units: float
    smallest_p: float
    p_is_bound: bool = False


@dataclass(frozen=True, slots=True)
class Units:
    """Differences grouped by unit.

    Attributes:
        sums: of the differences b - a, [units].
        counts: items of each unit, [units].
        n: number of items.
    """

    sums: Array
    counts: Array
    n: int

    @property
    def is_clustered(self) -> bool:
        return len(self.sums) < self.n

    @property
    def mean(self) -> float:
        """The mean difference per item."""
        return float(self.sums.sum() / self.n)

    @property
    def effective(self) -> float:
        """The equivalent number of units of equal size: n² / sum(counts²), at least 2.

        A few large clusters largely determine the mean and its error, so the tails are those of fewer units than
        there are. Source: Kish 1992, Weighting for unequal P_i (effective sample size), with clusters weighted by
        their number of items.
        """
        return max(2.0, self.n**2 / float((self.counts**2).sum()))

    @property
    def influences(self) -> Array:
        """Each unit's sum of deviations from the mean, [units]; they sum to 0."""
        return self.sums - self.mean * self.counts

    @property
    def rounding(self) -> float:
        """Means that differ by less are equal up to rounding."""
        return _ROUNDING * float(np.abs(self.sums / self.counts).max())

    @property
    def error(self) -> float:
        """Standard error of the mean, as in mean_with_error and clustered_mean_with_error (standard_errors.py)."""
        drawn, influences = len(self.sums), self.influences
        largest = float(np.abs(influences).max())
        if largest <= self.rounding:
            return 0.0
        # Scaled by the largest, so that squares of very small or large values do not under- or overflow.
        squares = float(((influences / largest) ** 2).sum())
        return largest * math.sqrt(drawn / (drawn - 1) * squares) / self.n


def gather_units(a: Sequence[float], b: Sequence[float], clusters: Sequence[str] | None) -> Units:
    """Differences b - a grouped by unit, units in the order of their first item.

    Raises:
        DataError: lengths differ, a value is not finite, or there are fewer than two units.
    """
    before, after = _finite("a", a), _finite("b", b)
    n = len(before)
    if n != len(after):
        raise DataError(
            f"a has {n} values and b has {len(after)}: a paired comparison needs the same items",
            "compare only items that both answered",
        )
    of_item = unit_of_items(clusters, n)
    # Summed per unit, in item order.
    sums: Array = np.bincount(of_item, weights=after - before).astype(np.float64)
    return Units(sums, np.bincount(of_item).astype(np.float64), n)


def unit_of_items(clusters: Sequence[str] | None, n: int) -> NDArray[np.int64]:
    """The unit number of each of n items, [n]; units are numbered in order of first occurrence.

    Raises:
        DataError: the number of clusters is not n, or there are fewer than two units.
    """
    of_item = np.arange(n)
    if clusters is not None:
        if len(clusters) != n:
            raise DataError(f"{n} values but {len(clusters)} clusters: expected one of each per item")
        places: dict[Any, int] = {}
        of_item = np.asarray([places.setdefault(name or place, len(places)) for place, name in enumerate(clusters)])
    if not n or of_item.max() < 1:
        what = f"all {n} items are in one cluster" if n > 1 else f"there are {n} items" if n != 1 else "there is 1 item"
        raise DataError(f"{what}: expected two or more to estimate an error", "evaluate more of the benchmark")
    return of_item


def check_share(name: str, value: float) -> None:
    """Raises DataError if a value is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise DataError(f"{name} is {value}: expected a number between 0 and 1")


def _finite(name: str, values: Sequence[float]) -> Array:
    array: Array = np.asarray(values, dtype=np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        where = int(np.argmax(bad))
        raise DataError(f"{name}[{where}] is {array[where]}: expected a finite number")
    return array
