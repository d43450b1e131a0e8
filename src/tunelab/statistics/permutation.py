"""The paired permutation test of a mean difference, and the interval that belongs to it.

If two models are equally good, it is chance which of them gave an item its higher value: swapping a and b within any
items (or whole clusters) gives data that were as likely. p is the share of swaps with a mean at least as far out as the
observed one. The interval holds every shift that this test does not reject, so that it excludes 0 exactly if p is below
its level. Fewer items than 14 have all their swaps counted, which makes p exact.

Sources:
    Fisher 1935, The design of experiments, section 21; Phipson and Smyth 2010, Permutation p-values should never be
        zero (arXiv:1603.05766): the observed data count as one of the random swaps.
    Hartigan 1969, Using subsample values as typical values: swapping the items of a subset A moves the mean across a
        shift exactly if the mean over A is on the other side of it, so that the interval's ends are quantiles of the
        subsets' means.
    Bentkus and Dzindzalieta 2015, A tight Gaussian bound for weighted sums of Rademacher random variables
        (arXiv:1307.3451): bounds p where random swaps are too few to find any that is as far out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from tunelab.errors import DataError
from tunelab.statistics.paired_tests import student_interval
from tunelab.statistics.units import CONFIDENCE, Array, Difference, Units, check_share, gather_units

#: Random swaps. All swaps are counted if they are no more than this.
SWAPS = 10_000

#: Factor of the normal tail in the bound of Bentkus and Dzindzalieta: 1 / (4 P(Z >= sqrt 2)).
_BOUND = 1 / (4 * float(ndtr(-math.sqrt(2))))

#: Swaps held in memory at a time, 8 bytes per unit.
_AT_ONCE = 2**20

#: Sums that are equal up to rounding, relative to the sum of the absolute terms.
_ROUNDING = 1e-12


def paired_permutation(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    swaps: int = SWAPS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Mean difference with the p and the interval of the permutation test, by swapping items or whole clusters.

    With fewer than 6 units no p is below 0.05, so that the test's 95 % interval has no end: it is then that of
    Student's t, extended to hold 0.

    Args:
        a, b: one value per item, in the same order.
        clusters: of each item; None = items are independent.
        swaps: random swaps, if not all can be counted.
        seed: of the random swaps; the same seed gives the same numbers. Exchanging a and b only flips the sign.
        confidence: of the interval.

    Raises:
        DataError: lengths differ, a value is not finite, there are fewer than two units, swaps < 100, or confidence is
            not in (0, 1).
    """
    check_share("confidence", confidence)
    check_swaps(swaps)
    units = gather_units(a, b, clusters)
    value, number = units.mean, len(units.sums)
    sums, counts = _sums_of_subsets(units, swaps, seed)
    p, is_bound = _p_value(units, sums, exact=number in all_swaps_of(swaps))
    low, high, kind = value, value, ""
    if units.sums.any():
        low, high, kind = _interval(units, sums, counts, 1 - confidence)
    how = f"paired permutation test over {number:,} {'clusters' if units.is_clustered else 'items'} "
    how += f"({swaps_in_words(number, swaps, seed)}){kind}"
    least = smallest_p(number, swaps)
    return Difference(value, units.error, low, high, p, units.n, number, how, units.effective, least, is_bound)


def check_swaps(swaps: int) -> None:
    """Raises DataError if there are too few swaps for any p."""
    if swaps < 100:
        raise DataError(f"{swaps} swaps: expected 100 or more", f"the default is {SWAPS:,}")


def all_swaps_of(swaps: int) -> range:
    """The numbers of units whose swaps are all counted."""
    return range(swaps.bit_length())


def swaps_in_words(units: int, swaps: int, seed: int) -> str:
    """How many swaps were counted: "all 64 swaps", "10,000 random swaps, seed 0"."""
    return f"all {2**units:,} swaps" if units in all_swaps_of(swaps) else f"{swaps:,} random swaps, seed {seed}"


def least_p(units: int) -> float:
    """The smallest p of an exact paired test: of all swaps only none and that of every unit are as far out."""
    return 2.0 ** max(1 - units, sys.float_info.min_exp)


def smallest_p(units: int, swaps: int = SWAPS) -> float:
    """The smallest p that any differences of so many units could give."""
    least = least_p(units)
    return least if units in all_swaps_of(swaps) else max(least, min(2 / (swaps + 1), _bound(math.sqrt(units))))


def drawn_subsets(units: int, swaps: int, seed: int) -> Iterator[Array]:
    """Which units are swapped: 1.0 or 0.0, [swaps at a time, units]; the first of all swaps none, the observed data."""
    if units in all_swaps_of(swaps):
        rows = _rows_at_once(units)
        for start in range(0, 2**units, rows):
            numbers = np.arange(start, min(start + rows, 2**units))
            yield (numbers[:, None] >> np.arange(units) & 1).astype(np.float64)
        return
    yield np.zeros((1, units))
    for packed in _random_subsets(units, swaps, seed):
        yield np.unpackbits(packed, axis=1, count=units).astype(np.float64)


def _random_subsets(units: int, swaps: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Random subsets, packed: a bit per unit, and random bits beyond the last one, [swaps at a time, bytes]."""
    random, rows = np.random.default_rng(seed), _rows_at_once(units)
    for start in range(0, swaps, rows):
        yield random.integers(0, 256, size=(min(rows, swaps - start), -(-units // 8)), dtype=np.uint8)


def _rows_at_once(units: int) -> int:
    return max(1, _AT_ONCE // units)


def _sums_of_subsets(units: Units, swaps: int, seed: int) -> tuple[Array, Array]:
    """Sums of the differences, and of the items, of each swap's units, [swaps] each; 0 if 0 up to rounding."""
    columns, number = (units.sums, units.counts), len(units.sums)
    if number in all_swaps_of(swaps):
        chosen = np.concatenate(list(drawn_subsets(number, swaps, seed)))
        found = [chosen @ column for column in columns]
    else:
        tables, starts = [_sums_of_bytes(column) for column in columns], 256 * np.arange(-(-number // 8))
        subsets = (starts + packed for packed in _random_subsets(number, swaps, seed))
        sums_of = [[table.take(subset).sum(axis=1) for table in tables] for subset in subsets]
        found = [np.concatenate([np.zeros(1), *parts]) for parts in zip(*sums_of, strict=True)]
    sums = np.where(np.abs(found[0]) <= _ROUNDING * float(np.abs(units.sums).sum()), 0.0, found[0])
    return sums, found[1]


def _sums_of_bytes(values: Array) -> Array:
    """Sums of each eight values for each byte of a packed subset, [256 per eight values]: one look-up takes the place
    of eight products."""
    blocks = -(-len(values) // 8)
    padded = np.zeros(8 * blocks)
    padded[: len(values)] = values
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float64)  # [256, 8]
    found: Array = (padded.reshape(blocks, 8) @ bits.T).ravel()
    return found


def _p_value(units: Units, sums: Array, *, exact: bool) -> tuple[float, bool]:
    """Two-sided p, twice the smaller of both tails; and whether it is only an upper bound."""
    # Swapping a subset subtracts twice its sum, so the mean is as high as observed exactly if that sum is not positive.
    rarest = int(min((sums <= 0).sum(), (sums >= 0).sum()))
    p = min(1.0, 2 * rarest / len(sums))
    if exact:
        return p, False
    bound = _bound(abs(float(units.sums.sum())) / (_length(units.sums) or 1.0))
    return min(p, bound), bound < p or rarest == 1


def _bound(score: float) -> float:
    """The largest two-sided p of a sum of differences that is `score` times the root of the sum of their squares."""
    return max(2 * _BOUND * float(ndtr(-score)), sys.float_info.min)


def _length(values: Array) -> float:
    """Euclidean length, scaled so that squares neither under- nor overflow."""
    largest = float(np.abs(values).max())
    return largest * math.sqrt(float(((values / largest) ** 2).sum())) if largest else 0.0


def _interval(units: Units, sums: Array, counts: Array, alpha: float) -> tuple[float, float, str]:
    """The shifts that the test does not reject at level alpha; and a word if they have no end."""
    means = np.sort(sums[counts > 0] / counts[counts > 0])
    # A shift is rejected if alpha / 2 of the swaps or fewer are as far out; swaps of no unit always are.
    place = math.floor(alpha * len(sums) / 2) - (len(sums) - len(means))
    value = units.mean
    if place < 0:
        low, high = student_interval(units, 1 - alpha)
        return min(low, 0.0), max(high, 0.0), "; interval: Student's t, as the test excludes nothing"
    return min(float(means[place]), value), max(float(means[-1 - place]), value), ""
