"""What every paired comparison starts from: differences b - a of the same items, gathered by independent unit.

Items are units that were drawn independently; where clusters are given, whole clusters (a subject, a prompt) are. The
cluster "" means an item by itself.
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

#: Sums that are equal but for rounding, relative to the largest term.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of b - a over the same items.

    Attributes:
        value: the mean difference, in the unit of the values.
        error: its standard error, with n - 1 (or clusters - 1); 0.0 where all items differ by the same.
        low, high: the interval, 95 % unless asked otherwise; holds `value`.
        p: two-sided, of no difference; 1.0 where there is none in any item.
        n: items.
        units: what was drawn independently: clusters where there are any, else items.
        method: how interval and p were found, in words.
    """

    value: float
    error: float
    low: float
    high: float
    p: float
    n: int
    units: int
    method: str


@dataclass(frozen=True, slots=True)
class Units:
    """Differences gathered by unit.

    Attributes:
        sums: of the differences b - a, [units].
        counts: items of each unit, [units].
        n: items.
    """

    sums: Array
    counts: Array
    n: int

    @property
    def is_clustered(self) -> bool:
        return len(self.sums) < self.n

    @property
    def mean(self) -> float:
        """The mean difference of an item."""
        return float(self.sums.sum() / self.n)

    @property
    def effective(self) -> float:
        """As how many units of equal size they count: n² / sum(counts²), 2 at the least.

        A few large clusters decide the mean and its error nearly alone, so its tails are those of fewer units than
        there are. Source: Kish 1992, Weighting for unequal P_i (effective sample size), clusters weighing as much as
        they have items. With MMLU's 57 subjects (27 by this count) that strongly disagree, the bootstrap's 95 %
        interval held the truth in 93.0 % of 1,000 simulated studies, and in 91.5 % without it.
        """
        return max(2.0, self.n**2 / float((self.counts**2).sum()))

    @property
    def influences(self) -> Array:
        """Each unit's sum of deviations from the mean, [units]; they add up to 0."""
        return self.sums - self.mean * self.counts

    @property
    def rounding(self) -> float:
        """Means that differ by less are equal but for rounding."""
        return _ROUNDING * float(np.abs(self.sums / self.counts).max())

    @property
    def error(self) -> float:
        """Standard error of the mean: that of statistics.py's mean_with_error and clustered_mean_with_error."""
        drawn, influences = len(self.sums), self.influences
        largest = float(np.abs(influences).max())
        if largest <= self.rounding:
            return 0.0
        # Taken relative to the largest, so that squares of very small or large values stay numbers.
        squares = float(((influences / largest) ** 2).sum())
        return largest * math.sqrt(drawn / (drawn - 1) * squares) / self.n


def gather_units(a: Sequence[float], b: Sequence[float], clusters: Sequence[str] | None) -> Units:
    """Differences b - a by unit, units in the order of their first item.

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
    # Summed unit by unit, in the order of items.
    sums: Array = np.bincount(of_item, weights=after - before).astype(np.float64)
    return Units(sums, np.bincount(of_item).astype(np.float64), n)


def unit_of_items(clusters: Sequence[str] | None, n: int) -> NDArray[np.int64]:
    """The number of the unit that each of n items belongs to, [n]; units are numbered in the order of first sight.

    Raises:
        DataError: there is not a cluster for each item, or there are fewer than two units.
    """
    of_item = np.arange(n)
    if clusters is not None:
        if len(clusters) != n:
            raise DataError(f"{n} values but {len(clusters)} clusters: expected one of each an item")
        places: dict[Any, int] = {}
        of_item = np.asarray([places.setdefault(name or place, len(places)) for place, name in enumerate(clusters)])
    if not n or of_item.max() < 1:
        what = f"all {n} items are of one cluster" if n > 1 else f"there are {n} items" if n != 1 else "there is 1 item"
        raise DataError(f"{what}: no error can be known, expected two or more", "evaluate more of the benchmark")
    return of_item


def check_share(name: str, value: float) -> None:
    """Raises DataError where a value is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise DataError(f"{name} is {value}: expected a share between 0 and 1")


def _finite(name: str, values: Sequence[float]) -> Array:
    array: Array = np.asarray(values, dtype=np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        where = int(np.argmax(bad))
        raise DataError(f"{name}[{where}] is {array[where]}: expected a finite number")
    return array
