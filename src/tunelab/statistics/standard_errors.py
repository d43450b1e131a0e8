"""Standard errors over rows: means, token-weighted means, and their differences on the same rows.

Rows are treated as independent draws from a large population of rows. Tokens of one row are not independent of each
other, so errors are never computed over tokens: the row is the unit (a cluster of its tokens).

Source of the ratio estimator and its linearized error: W. G. Cochran, Sampling Techniques, 3rd edition (1977),
section 2.11 and chapter 6, without the finite-population correction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelab.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error.

    Attributes:
        value: the estimate.
        error: its standard error in the same unit; None = unknown (fewer than two rows), never reported as zero.
        n: number of rows.
    """

    value: float
    error: float | None
    n: int


def mean_with_error(values: Iterable[float]) -> Estimate:
    """Mean of one number per row; its error is the sample standard deviation (n - 1) over sqrt(n).

    Raises:
        DataError: there are no values, or one is not finite.
    """
    array = _finite("values", values)
    return Estimate(float(array.mean()), _error_of_mean(array - array.mean()), len(array))


def clustered_mean_with_error(values: Iterable[float], clusters: Iterable[str]) -> Estimate:
    """Mean of one number per item, for items that are correlated within clusters; `n` counts items.

    An item whose cluster is "" is its own cluster. The clusters are the sampling units: with d_c the sum of a
    cluster's deviations from the mean, error² = G / (G - 1) * sum(d_c²) / n². None for a single cluster.
    Source: Miller 2024, Adding Error Bars to Evals, section 2.2, with the correction for few clusters (CR1).

    Raises:
        DataError: there are no values, one is not finite, or the number of clusters differs.
    """
    array, names = _finite("values", values), list(clusters)
    if len(names) != len(array):
        raise DataError(f"{len(array)} values but {len(names)} clusters: expected one of each per item")
    sums: dict[str | int, float] = {}
    mean = float(array.mean())
    for place, (name, value) in enumerate(zip(names, array.tolist(), strict=True)):
        sums[name or place] = sums.get(name or place, 0.0) + value - mean
    if len(sums) < 2:
        return Estimate(mean, None, len(array))
    squares = math.fsum(total**2 for total in sums.values())
    return Estimate(mean, math.sqrt(len(sums) / (len(sums) - 1) * squares) / len(array), len(array))


def ratio_with_error(numerators: Iterable[float], denominators: Iterable[float]) -> Estimate:
    """Weighted mean R = sum(numerators) / sum(denominators) over rows, for example nats / tokens.

    The error comes from linearization: R - R_true is close to the mean of (y_i - R x_i) / mean(x), so that
    error² = n / (n - 1) * sum((y_i - R x_i)²) / sum(x)² (Cochran, section 2.11).

    Args:
        numerators: y_i, one per row.
        denominators: x_i >= 0, one per row, in the same order; a row of weight 0 does not affect the mean.

    Raises:
        DataError: no rows, lengths differ, a number is not finite, a weight is negative, or all weights are 0.
    """
    ratio, residuals = _ratio("numerators", numerators, "denominators", denominators)
    return Estimate(ratio, _error_of_mean(residuals), len(residuals))


def paired_ratio_difference(
    numerators_a: Iterable[float],
    denominators_a: Iterable[float],
    numerators_b: Iterable[float],
    denominators_b: Iterable[float],
) -> Estimate:
    """Difference R_a - R_b of two weighted means over the same rows in the same order, with its paired error.

    Row i contributes its linearized residual under a minus that under b, so variation shared by both cancels out.
    The weights may differ between a and b (two tokenizers split the same row into different numbers of tokens).

    Raises:
        DataError: as ratio_with_error; or a and b do not have the same number of rows.
    """
    ratio_a, residuals_a = _ratio("numerators_a", numerators_a, "denominators_a", denominators_a)
    ratio_b, residuals_b = _ratio("numerators_b", numerators_b, "denominators_b", denominators_b)
    if len(residuals_a) != len(residuals_b):
        raise DataError(
            f"a has {len(residuals_a)} rows and b has {len(residuals_b)}: a paired error needs the same rows",
            "compare only rows that both were evaluated on",
        )
    return Estimate(ratio_a - ratio_b, _error_of_mean(residuals_a - residuals_b), len(residuals_a))


def _ratio(name_y: str, numerators: Iterable[float], name_x: str, denominators: Iterable[float]) -> tuple[float, Array]:
    """The ratio and each row's residual (y_i - R x_i) / mean(x), whose mean is 0."""
    y, x = _finite(name_y, numerators), _finite(name_x, denominators)
    if len(y) != len(x):
        raise DataError(f"{len(y)} {name_y} but {len(x)} {name_x}: expected one of each per row")
    if (x < 0).any():
        raise DataError(f"{name_x}[{int(np.argmax(x < 0))}] is negative: weights must be 0 or more")
    if not x.any():
        raise DataError(f"all {len(x)} {name_x} are 0: there is nothing to divide by")
    ratio = math.fsum(y) / math.fsum(x)
    return ratio, (y - ratio * x) / x.mean()


def _error_of_mean(deviations: Array) -> float | None:
    """sqrt(sum d² / (n (n - 1))) of deviations from their mean, [n]; None for a single row."""
    n = len(deviations)
    if n < 2:
        return None
    return math.sqrt(math.fsum(deviations**2) / (n * (n - 1)))


def _finite(name: str, values: Iterable[float]) -> Array:
    array: NDArray[Any] = np.asarray(list(values), dtype=np.float64)
    if not array.size:
        raise DataError(f"no {name}: there are no rows to evaluate")
    bad = ~np.isfinite(array)
    if bad.any():
        where = int(np.argmax(bad))
        raise DataError(f"{name}[{where}] is {array[where]}: expected a finite number")
    return array
