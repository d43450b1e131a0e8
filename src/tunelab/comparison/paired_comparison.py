"""Compare two arms on the same items: which is better, by how much, with what uncertainty."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from scipy.special import stdtr

from tunelab.comparison.align import Pairs
from tunelab.errors import DataError, RunError
from tunelab.notebook import data_frame, html_table
from tunelab.statistics.bootstrap import RESAMPLES, BootstrapMethod, paired_bootstrap
from tunelab.statistics.corpus import Statistic, paired_corpus_bootstrap
from tunelab.statistics.paired_tests import discordant_interval, holm, mcnemar
from tunelab.statistics.power import detectable_accuracy_difference, detectable_difference
from tunelab.statistics.standard_errors import clustered_mean_with_error, mean_with_error
from tunelab.statistics.units import Difference
from tunelab.units import format_interval, format_number, format_probability, interval_decimals

if TYPE_CHECKING:
    import pandas

ALPHA = 0.05
POWER = 0.8

#: With fewer discordant items the bootstrap is unreliable: an exact test and an
#: adjusted interval replace it. Coverage of the bootstrap's 95 % interval was 90 % at 5 such items and 95 % at 20.
FEW_DISCORDANT = 20


@dataclass(frozen=True, slots=True)
class Comparison:
    """b against a on one metric of one benchmark. Differences are b - a, in the metric's unit.

    Attributes:
        benchmark, metric, unit, higher_is_better: what was measured ("mmlu", "accuracy", "0-1").
        a_name, b_name: names of the two.
        a_value, b_value: means over the common items, or a corpus metric of them.
        a_error, b_error: their standard errors, clustered if items are; None = unknown.
        difference: the mean of b - a, or the difference of the corpus metrics.
        error: its paired standard error.
        low, high: its 95 % interval.
        p: two-sided, for no difference; before any correction.
        p_holm: p after Holm's correction over the family; None if not corrected.
        family: number of comparisons corrected together; 1 if not corrected.
        p_mcnemar: McNemar's exact p, which assumes independent items; None if values are not right or wrong.
        n: number of items compared.
        clusters: number of clusters; None = items are independent.
        left_out: items that only one of the two has.
        method: how interval and p were computed, in words.
        gained, lost: ids of items that only b, or only a, answers right; None if values are not right or wrong.
        detectable: the smallest true difference detected with 80 % power at alpha 0.05 / family; None if no
            difference could be detected, or if values other than right or wrong do not vary.
        differing: other differences between the two, as allowed (comparison/align.py).
        seeds: number of seeds that values are averaged over.
        seed_error: SE of the difference across seeds (b minus a per seed); None = one seed, or unknown. `error`,
            interval and p are over items and do not include it.
    """

    benchmark: str
    metric: str
    unit: str
    higher_is_better: bool
    a_name: str
    b_name: str
    a_value: float
    b_value: float
    a_error: float | None
    b_error: float | None
    difference: float
    error: float
    low: float
    high: float
    p: float
    p_holm: float | None
    family: int
    p_mcnemar: float | None
    n: int
    clusters: int | None
    left_out: int
    method: str
    gained: tuple[str, ...] | None
    lost: tuple[str, ...] | None
    detectable: float | None
    differing: Mapping[str, tuple[Any, Any]]
    seeds: int = 1
    seed_error: float | None = None

    @property
    def p_of_seeds(self) -> float | None:
        """p of a paired t test on the differences per seed: the uncertainty from retraining. None for one seed. All
        seeds share the same items, so it does not cover the choice of items."""
        if self.seed_error is None or self.seeds < 2:
            return None
        if self.seed_error == 0:
            return 1.0 if self.difference == 0 else 0.0
        return 2 * float(stdtr(self.seeds - 1, -abs(self.difference) / self.seed_error))

    @property
    def beyond_seeds(self) -> bool:
        """Whether the difference exceeds the variation across seeds; True if that is unknown."""
        return self.p_of_seeds is None or self.p_of_seeds < ALPHA

    @property
    def shown(self) -> bool:
        """Whether a difference was shown: p is below 0.05, after correction if there was one."""
        return (self.p if self.p_holm is None else self.p_holm) < ALPHA

    def __repr__(self) -> str:
        p = self.p if self.p_holm is None else self.p_holm
        decimals = interval_decimals(self.low, self.high)
        interval = f"95 % interval {format_interval(self.low, self.high, decimals)}, p {format_probability(p)}"
        of = f"{self.b_name} minus {self.a_name}, {self.benchmark} {self.metric.replace('_', ' ')}"
        difference = f"{format_number(self.difference, decimals, signed=True)} {self.unit}"
        return f"Comparison({of}: {difference} ({interval}), {self.n:,} items)"

    def _repr_html_(self) -> str:
        return comparisons_table([self])

    def to_frame(self) -> pandas.DataFrame:
        """One row with every attribute.

        Raises:
            UsageError: pandas is not installed.
        """
        return data_frame([self.to_json()])

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Comparison:
        """Raises RunError if a key is missing or unknown."""
        fields = {one.name for one in dataclasses.fields(cls)}
        if strange := sorted(fields ^ set(value)):
            what = "lacks" if strange[0] in fields else "has an unknown"
            raise RunError(f"Comparison record {what} {strange[0]}", "it was written by another version")
        flips = {name: None if value[name] is None else tuple(value[name]) for name in ("gained", "lost")}
        differing = {key: (left, right) for key, (left, right) in value["differing"].items()}
        return cls(**{**value, **flips, "differing": differing})


class Comparisons(list[Comparison]):
    """Comparisons that were corrected together; a list that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        return comparisons_table(self)

    def to_frame(self) -> pandas.DataFrame:
        """One row per comparison, with every attribute.

        Raises:
            UsageError: pandas is not installed.
        """
        return data_frame([one.to_json() for one in self])


def comparisons_table(comparisons: Sequence[Comparison]) -> str:
    """Comparisons as an HTML table for a notebook."""
    columns = ("b", "minus a", "benchmark", "metric", "difference", "95 % interval", "p", "items")
    rows = []
    for one in comparisons:
        p = one.p if one.p_holm is None else one.p_holm
        decimals = interval_decimals(one.low, one.high)
        difference = f"{format_number(one.difference, decimals, signed=True)} {one.unit}"
        figures = (difference, format_interval(one.low, one.high, decimals), format_probability(p), f"{one.n:,}")
        rows.append((one.b_name, one.a_name, one.benchmark, one.metric.replace("_", " "), *figures))
    corrected = any(one.p_holm is not None for one in comparisons)
    return html_table(f"p after Holm over {len(rows)}" if corrected and len(rows) > 1 else "", columns, rows)


def compare_values(
    pairs: Pairs,
    *,
    benchmark: str,
    metric: str,
    unit: str = "0-1",
    higher_is_better: bool = True,
    bootstrap: BootstrapMethod = "bca",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the items that both answered.

    Values of the unit "0-1" that are all 0 or 1 are right or wrong: p is then McNemar's exact p, and the interval is
    the bootstrap's, or Bonett and Price's with fewer than 20 discordant items. For other values the bootstrap gives
    interval and p. If items are clustered, the clustered bootstrap gives both, and McNemar's p is reported in
    addition; with few discordant items the larger p and the wider interval are used.

    Args:
        pairs, benchmark, metric, unit, higher_is_better: from align(), and the meaning of its values, as in Score.
        bootstrap, resamples, seed: see paired_bootstrap.

    Raises:
        DataError: there are fewer than two items or clusters, or a value is not finite.
    """
    found = paired_bootstrap(pairs.a, pairs.b, pairs.clusters, method=bootstrap, resamples=resamples, seed=seed)
    gained, lost, exact = _flips(pairs) if unit == "0-1" else (None, None, None)
    low, high, p, method = _interval_and_p(found, gained, lost, exact)
    figures = (_mean(pairs.a, pairs.clusters), _mean(pairs.b, pairs.clusters))
    comparison = _recorded(pairs, figures, found, (benchmark, metric, unit, higher_is_better))
    comparison = dataclasses.replace(
        comparison, low=low, high=high, p=p, p_mcnemar=exact, method=method, gained=gained, lost=lost
    )
    return dataclasses.replace(comparison, detectable=_detectable(comparison, ALPHA))


def compare_counts(
    pairs: Pairs,
    a_counts: Sequence[NDArray[Any]],
    b_counts: Sequence[NDArray[Any]],
    statistic: Statistic,
    *,
    benchmark: str,
    metric: str,
    unit: str = "0-100",
    higher_is_better: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models by a corpus metric (BLEU), computed from counts summed over the items that both answered.

    Interval and p come from paired_corpus_bootstrap. Items have no values of their own, so none is gained or lost.

    Args:
        pairs: from align(); its values are ignored.
        a_counts, b_counts: [items, columns] for each seed, in the order of pairs.items.
        statistic: the metric of summed counts, [..., columns] -> [...].
        benchmark, metric, unit, higher_is_better: the meaning of the metric.
        resamples, seed: see paired_corpus_bootstrap.

    Raises:
        DataError: counts and items do not match, or there are fewer than two items or clusters.
    """
    if unlike := [len(one) for one in (*a_counts, *b_counts) if len(one) != len(pairs.items)]:
        raise DataError(f"counts of {unlike[0]} items, but {len(pairs.items)} are compared: expected one row per item")
    corpus = paired_corpus_bootstrap(a_counts, b_counts, statistic, pairs.clusters, resamples=resamples, seed=seed)
    figures = ((corpus.a_value, corpus.a_error), (corpus.b_value, corpus.b_error))
    comparison = _recorded(pairs, figures, corpus.difference, (benchmark, metric, unit, higher_is_better))
    return dataclasses.replace(comparison, detectable=_detectable(comparison, ALPHA))


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the comparisons of one family: sets each p after Holm's correction and the detectable difference.

    An earlier correction is replaced. The detectable difference uses alpha / family, the level that Holm's smallest p
    must reach.
    """
    family = len(comparisons)
    corrected = holm([one.p for one in comparisons])
    return [
        dataclasses.replace(one, p_holm=p, family=family, detectable=_detectable(one, ALPHA / family))
        for one, p in zip(comparisons, corrected, strict=True)
    ]


def _recorded(
    pairs: Pairs,
    figures: tuple[tuple[float, float | None], tuple[float, float | None]],
    found: Difference,
    labels: tuple[str, str, str, bool],
) -> Comparison:
    """A comparison from the bootstrap's result, for values or metrics that are not right or wrong.

    Args:
        figures: a's and b's value and error.
        labels: benchmark, metric, unit, and whether higher is better.
    """
    (a_value, a_error), (b_value, b_error) = figures
    return Comparison(
        *labels,
        pairs.a_name,
        pairs.b_name,
        a_value,
        b_value,
        a_error,
        b_error,
        difference=found.value,
        error=found.error,
        low=found.low,
        high=found.high,
        p=found.p,
        p_holm=None,
        family=1,
        p_mcnemar=None,
        n=found.n,
        clusters=found.units if found.units < found.n else None,
        left_out=len(pairs.only_in_a) + len(pairs.only_in_b),
        method=f"interval and p: {found.method}",
        gained=None,
        lost=None,
        detectable=None,
        differing=pairs.differing,
    )


def _flips(pairs: Pairs) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None, float | None]:
    """Items gained and lost, and McNemar's p; all None if values are not right or wrong."""
    if not all(value in (0.0, 1.0) for value in (*pairs.a, *pairs.b)):
        return None, None, None
    rows = list(zip(pairs.items, pairs.a, pairs.b, strict=True))
    gained = tuple(item for item, a, b in rows if b > a)
    lost = tuple(item for item, a, b in rows if a > b)
    return gained, lost, mcnemar(len(lost), len(gained))


def _interval_and_p(
    found: Difference, gained: tuple[str, ...] | None, lost: tuple[str, ...] | None, exact: float | None
) -> tuple[float, float, float, str]:
    """The interval's ends, p and the method, as described in compare_values."""
    low, high, p, method = found.low, found.high, found.p, f"interval and p: {found.method}"
    if gained is None or lost is None or exact is None:
        return low, high, p, method
    clustered = found.units < found.n
    discordant = len(lost) + len(gained)
    adjusted_low, adjusted_high = discordant_interval(len(lost), len(gained), found.n)
    adjusted = f"Bonett and Price ({discordant} discordant items are few for a bootstrap)"
    if discordant < FEW_DISCORDANT and clustered:
        low, high, p = min(low, adjusted_low), max(high, adjusted_high), max(p, exact)
        method = f"interval: the wider of {found.method} and {adjusted}; p: the larger of the bootstrap's and McNemar's"
    elif discordant < FEW_DISCORDANT:
        low, high, p, method = adjusted_low, adjusted_high, exact, f"p: exact McNemar; interval: {adjusted}"
    elif not clustered:
        p, method = exact, f"p: exact McNemar; interval: {found.method}"
    return low, high, p, method


def _mean(values: Sequence[float], clusters: Sequence[str] | None) -> tuple[float, float | None]:
    if clusters is None:
        estimate = mean_with_error(values)
    else:
        # An item without a cluster is its own; the number keeps it apart from a cluster of that name.
        names = [f"of {name}" if name else f"item {place}" for place, name in enumerate(clusters)]
        estimate = clustered_mean_with_error(values, names)
    return estimate.value, estimate.error


def _detectable(one: Comparison, alpha: float) -> float | None:
    if one.gained is None or one.lost is None:
        deviation = one.error * math.sqrt(one.n)
        return detectable_difference(one.n, deviation, alpha=alpha, power=POWER) if deviation > 0 else None
    discordance = (len(one.gained) + len(one.lost)) / one.n
    plain = math.sqrt((discordance - one.difference**2) / (one.n - 1)) if discordance > one.difference**2 else 0.0
    # Clusters reduce the error only by chance, so an apparent reduction is not used.
    effect = max(1.0, (one.error / plain) ** 2) if one.clusters is not None and plain > 0 else 1.0
    return detectable_accuracy_difference(one.n, discordance, design_effect=effect, alpha=alpha, power=POWER)
