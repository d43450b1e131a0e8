"""Compare two arms on the same items: which is better, by how much, with what uncertainty."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tunelab.comparison.align import Pairs
from tunelab.errors import DataError, RunError
from tunelab.notebook import data_frame, html_table
from tunelab.statistics.corpus import RESAMPLES, Statistic, paired_corpus_difference
from tunelab.statistics.crossed import Part, crossed
from tunelab.statistics.paired_tests import agreeing_interval, discordant_interval, holm, mcnemar
from tunelab.statistics.permutation import SWAPS, least_p, paired_permutation
from tunelab.statistics.power import detectable_accuracy_difference, detectable_effect
from tunelab.statistics.standard_errors import clustered_mean_with_error, mean_with_error
from tunelab.statistics.units import Difference
from tunelab.units import format_interval, format_number, format_probability, format_significant, interval_decimals

if TYPE_CHECKING:
    import pandas

ALPHA = 0.05
POWER = 0.8

#: With fewer discordant items the interval of clustered answers is at least as wide as that of independent ones.
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
        error: its paired standard error; with several trainings of each arm over items and trainings.
        low, high: its 95 % interval, before any correction: it excludes 0 exactly if `p` is below 0.05. Like p over
            items, and with several trainings of each arm over items and trainings.
        p: two-sided, for no difference; before any correction.
        p_holm: p after Holm's correction over the family; None if not corrected.
        family: number of comparisons corrected together; 1 if not corrected.
        p_mcnemar: McNemar's exact p, which assumes independent items; None if values are not right or wrong.
        n: number of items compared.
        clusters: number of clusters; None = items are independent.
        clustered_by: what clusters are ("subject"); "" = items are independent.
        effective_units: items or clusters; clusters of unequal size count as fewer (Units.effective).
        smallest_p: the smallest p that any answers to so many items could give.
        p_is_bound: whether p is only an upper bound, since fewer random swaps than any were as far out.
        left_out: items that only one of the two has.
        method: how interval and p were computed, in words.
        gained, lost: ids of items that only b, or only a, answers right; None if values are not right or wrong.
        detectable: the minimum detectable difference: the smallest true one that this test shows with 80 % power at
            level 0.05 / family, the one that Holm's correction requires of the smallest p; None if no result could be
            significant, or if values do not differ (right or wrong answers in clusters included).
        differing: other differences between the two, as allowed (comparison/align.py).
        seeds: number of seeds that values are averaged over.
        seed_error: SE of the difference across seeds; None = one seed, or unknown.
        a_trainings, b_trainings: trainings that the values of each are means over; 0 = not tuned, or not known.
        parts: SE and degrees of freedom of the choice of items, of the choice of trainings, and of measured costs where
            an arm is read between two budgets, if interval and p are over all; () = they are over items alone.
        exploratory: whether nothing had asked for this comparison (a study's question).
        by_seed: the difference of each seed, where both have several trainings or one is not tuned; () = none.
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
    clustered_by: str
    effective_units: float
    smallest_p: float
    p_is_bound: bool
    left_out: int
    method: str
    gained: tuple[str, ...] | None
    lost: tuple[str, ...] | None
    detectable: float | None
    differing: Mapping[str, tuple[Any, Any]]
    seeds: int = 1
    seed_error: float | None = None
    a_trainings: int = 0
    b_trainings: int = 0
    parts: tuple[tuple[float, float], ...] = ()
    exploratory: bool = False
    by_seed: tuple[float, ...] = ()

    @property
    def could_be_shown(self) -> bool:
        """Whether any answers to so many items could be significant in this family."""
        return self.smallest_p * self.family < ALPHA

    @property
    def test(self) -> str:
        """The test that p is from, its degrees of freedom, and by what items are clustered."""
        clusters = f", items clustered by {self.clustered_by}" if self.clusters is not None else ""
        if self.parts:
            return f"t-test over items and trainings, {self.degrees_in_words}{clusters}"
        if self.clusters is not None:
            return f"permutation test{clusters}"
        return "permutation test" if self.gained is None else "McNemar's exact test"

    @property
    def degrees_in_words(self) -> str:
        """The degrees of freedom: "196 and 2 degrees of freedom"; "" if p is over items alone."""
        *first, last = [format_significant(degrees, 3) for _, degrees in self.parts] or [""]
        return f"{', '.join(first)} and {last} degrees of freedom" if first else ""

    @property
    def shown(self) -> bool:
        """Whether a difference was shown: p is below 0.05, after correction if there was one."""
        return (self.p if self.p_holm is None else self.p_holm) < ALPHA

    def __repr__(self) -> str:
        p = self.p if self.p_holm is None else self.p_holm
        decimals = interval_decimals(self.low, self.high)
        shown = format_probability(p, is_bound=self.p_is_bound)
        interval = f"95 % interval {format_interval(self.low, self.high, decimals)}, p {shown}"
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
        parts = tuple((error, degrees) for error, degrees in value["parts"])
        return cls(**{**value, **flips, "differing": differing, "parts": parts, "by_seed": tuple(value["by_seed"])})


class Comparisons(list[Comparison]):
    """Comparisons that were corrected together; a list that a notebook shows as a table.

    Attributes:
        remarks: sentences about what was not compared, and why.
    """

    def __init__(self, comparisons: Iterable[Comparison] = (), remarks: Sequence[str] = ()) -> None:
        super().__init__(comparisons)
        self.remarks = tuple(remarks)

    def _repr_html_(self) -> str:
        return comparisons_table(self, self.remarks)

    def to_frame(self) -> pandas.DataFrame:
        """One row per comparison, with every attribute.

        Raises:
            UsageError: pandas is not installed.
        """
        return data_frame([one.to_json() for one in self])


def comparisons_table(comparisons: Sequence[Comparison], remarks: Sequence[str] = ()) -> str:
    """Comparisons as an HTML table for a notebook, with what is to be said about all of them."""
    columns = ("b", "minus a", "benchmark", "metric", "difference", "95 % interval", "p", "items")
    rows = []
    for one in comparisons:
        p = one.p if one.p_holm is None else one.p_holm
        decimals = interval_decimals(one.low, one.high)
        difference = f"{format_number(one.difference, decimals, signed=True)} {one.unit}"
        probability = format_probability(p, is_bound=one.p_is_bound)
        figures = (difference, format_interval(one.low, one.high, decimals), probability, f"{one.n:,}")
        rows.append((one.b_name, one.a_name, one.benchmark, one.metric.replace("_", " "), *figures))
    corrected = any(one.p_holm is not None for one in comparisons)
    note = f"p after Holm over {len(rows)}; intervals are of one comparison, without correction"
    notes = (*((note,) if corrected and len(rows) > 1 else ()), *remarks)
    return html_table("; ".join(notes), columns, rows)


def compare_values(
    pairs: Pairs,
    *,
    benchmark: str,
    metric: str,
    unit: str = "0-1",
    higher_is_better: bool = True,
    swaps: int = SWAPS,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the items that both answered.

    Values of the unit "0-1" that are all 0 or 1 are right or wrong: p is then McNemar's exact p, and the interval is
    Bonett and Price's, made to agree with it about 0. For other values the permutation test gives p and interval. If
    items are clustered, whole clusters are swapped, and McNemar's p is reported in addition; with fewer than 20
    discordant items the interval is at least as wide as that of independent ones.

    Args:
        pairs, benchmark, metric, unit, higher_is_better: from align(), and the meaning of its values, as in Score.
        swaps, seed: see paired_permutation.

    Raises:
        DataError: there are fewer than two items or clusters, or a value is not finite.
    """
    found = paired_permutation(pairs.a, pairs.b, pairs.clusters, swaps=swaps, seed=seed)
    gained, lost, exact = _flips(pairs) if unit == "0-1" else (None, None, None)
    if gained is not None and lost is not None and exact is not None:
        found = _of_answers(found, len(lost), len(gained), exact)
    figures = (_mean(pairs.a, pairs.clusters), _mean(pairs.b, pairs.clusters))
    comparison = _recorded(pairs, figures, found, (benchmark, metric, unit, higher_is_better))
    comparison = dataclasses.replace(comparison, p_mcnemar=exact, gained=gained, lost=lost)
    return dataclasses.replace(comparison, detectable=detectable_difference(comparison, ALPHA))


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
    swaps: int = SWAPS,
    seed: int = 0,
) -> Comparison:
    """Compare two models by a corpus metric (BLEU), computed from counts summed over the items that both answered.

    Interval and p come from paired_corpus_difference. Items have no values of their own, so none is gained or lost.

    Args:
        pairs: from align(); its values are ignored.
        a_counts, b_counts: [items, columns] for each seed, in the order of pairs.items.
        statistic: the metric of summed counts, [..., columns] -> [...].
        benchmark, metric, unit, higher_is_better: the meaning of the metric.
        resamples, swaps, seed: see paired_corpus_difference.

    Raises:
        DataError: counts and items do not match, or there are fewer than two items or clusters.
    """
    if unlike := [len(one) for one in (*a_counts, *b_counts) if len(one) != len(pairs.items)]:
        raise DataError(f"counts of {unlike[0]} items, but {len(pairs.items)} are compared: expected one row per item")
    how: dict[str, int] = {"resamples": resamples, "swaps": swaps, "seed": seed}
    corpus = paired_corpus_difference(a_counts, b_counts, statistic, pairs.clusters, **how)
    figures = ((corpus.a_value, corpus.a_error), (corpus.b_value, corpus.b_error))
    comparison = _recorded(pairs, figures, corpus.difference, (benchmark, metric, unit, higher_is_better))
    return dataclasses.replace(comparison, detectable=detectable_difference(comparison, ALPHA))


def correct(comparisons: Sequence[Comparison], others: Sequence[float] = ()) -> list[Comparison]:
    """Correct the comparisons of one family: sets each p after Holm's correction and the detectable difference.

    An earlier correction is replaced. The detectable difference uses alpha / family, the level that Holm's smallest p
    must reach: where others of the family are significant too, somewhat smaller ones are found as often.

    Args:
        others: p of other claims of the same family.
    """
    family = len(comparisons) + len(others)
    corrected = holm([*(one.p for one in comparisons), *others])[: len(comparisons)]
    return [
        dataclasses.replace(one, p_holm=p, family=family, detectable=detectable_difference(one, ALPHA / family))
        for one, p in zip(comparisons, corrected, strict=True)
    ]


def _recorded(
    pairs: Pairs,
    figures: tuple[tuple[float, float | None], tuple[float, float | None]],
    found: Difference,
    labels: tuple[str, str, str, bool],
) -> Comparison:
    """A comparison from the test's result, without what is known of answers that are right or wrong.

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
        clustered_by=(pairs.clustered_by or "group") if found.units < found.n else "",
        effective_units=found.effective_units,
        smallest_p=found.smallest_p,
        p_is_bound=found.p_is_bound,
        left_out=len(pairs.only_in_a) + len(pairs.only_in_b),
        method=found.method,
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


def _of_answers(found: Difference, lost: int, gained: int, exact: float) -> Difference:
    """Interval and p of right or wrong answers, as described in compare_values."""
    interval = discordant_interval(lost, gained, found.n)
    if found.units == found.n:
        low, high = interval
        how = "exact McNemar; interval: Bonett and Price, made to agree with the test about 0"
        exactly: dict[str, Any] = {"p": exact, "smallest_p": least_p(found.n), "p_is_bound": False}
        return dataclasses.replace(found, low=low, high=high, method=how, **exactly)
    if lost + gained >= FEW_DISCORDANT:
        return found
    wide = min(found.low, interval[0]), max(found.high, interval[1])
    low, high = agreeing_interval(wide, (found.low, found.high))
    how = f"{found.method}; interval at least as wide as Bonett and Price's, as {lost + gained} items are discordant"
    return dataclasses.replace(found, low=low, high=high, method=how)


def _mean(values: Sequence[float], clusters: Sequence[str] | None) -> tuple[float, float | None]:
    estimate = mean_with_error(values) if clusters is None else clustered_mean_with_error(values, clusters)
    return estimate.value, estimate.error


def detectable_difference(one: Comparison, alpha: float) -> float | None:
    """The minimum detectable difference of the test that gave p, at this level."""
    if one.smallest_p >= alpha:
        return None
    if one.parts:
        parts = [Part(error, degrees) for error, degrees in one.parts]
        return crossed(0.0, parts).detectable(alpha / 2, POWER) if one.error else None
    if one.gained is not None and one.lost is not None and one.clusters is None:
        discordance = (len(one.gained) + len(one.lost)) / one.n
        return detectable_accuracy_difference(one.n, discordance, alpha=alpha, power=POWER)
    if not one.error:
        return None
    units = max(2, round(one.effective_units))
    while (effect := detectable_effect(units, alpha=alpha, power=POWER)) is None:
        units += 1  # a few large clusters count as fewer than the test has to swap
    return effect * math.sqrt(units) * one.error
