"""What tuning changed on general texts: every tuned arm against its untuned one, and what it learned meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from tunelab.comparison.evaluated import Evaluated
from tunelab.comparison.paired_comparison import Comparison
from tunelab.comparison.paired_evaluations import Side, compare_sides
from tunelab.config.questions import COMPLETION_LOSS, HELD_OUT
from tunelab.config.study import FORGETTING
from tunelab.errors import TunelabError
from tunelab.report.forgetting_content import Forgetting, ForgettingOfArm, ForgettingOfDomain, Interval

#: Gives the evaluations of an arm on a benchmark, one per seed.
Evaluations = Callable[[str, str], Sequence[Evaluated]]


def forgetting_part(
    pairs: Sequence[tuple[str, str]],
    benchmarks: Sequence[str],
    evaluations: Evaluations,
    comparisons: Sequence[Comparison],
) -> Forgetting | None:
    """The report's part; None if no pair was evaluated on the texts.

    Args:
        pairs: (untuned arm, tuned arm).
        benchmarks: that were evaluated; learning is read from the held-out rows, or else from the first other one.
        comparisons: already made; others are made here, for the part alone.
    """
    learned_on = next((one for one in (HELD_OUT, *benchmarks) if one in benchmarks and one != FORGETTING), "")

    def compared(pair: tuple[str, str], benchmark: str) -> Comparison | None:
        metric = COMPLETION_LOSS if benchmark == HELD_OUT else None
        return _comparison(pair, benchmark, metric, evaluations, comparisons)

    lost = {pair: found for pair in pairs if (found := compared(pair, FORGETTING)) is not None}
    if not lost:
        return None
    learned = {pair: found for pair in lost if learned_on and (found := compared(pair, learned_on)) is not None}
    one = next(iter(learned.values()), None)
    return Forgetting(
        arms=tuple(
            ForgettingOfArm(arm, base, found.a_value, _interval(found), _interval_of(learned.get((base, arm))))
            for (base, arm), found in lost.items()
        ),
        domains=tuple(row for pair in lost for row in _domains(*pair, evaluations)),
        learned_on=learned_on if one is not None else "",
        learned_metric=one.metric if one is not None else "",
        learned_unit=one.unit if one is not None else "",
        learned_higher_is_better=one is not None and one.higher_is_better,
    )


def _comparison(
    pair: tuple[str, str],
    benchmark: str,
    metric: str | None,
    evaluations: Evaluations,
    comparisons: Sequence[Comparison],
) -> Comparison | None:
    """The comparison by the metric (None = the headline metric); None if one side is missing or they are unlike."""
    made = [one for one in comparisons if (one.a_name, one.b_name, one.benchmark) == (*pair, benchmark)]
    for one in made:
        if metric in (None, one.metric):
            return one
    base, arm = pair
    first, second = Side(base, evaluations(base, benchmark)), Side(arm, evaluations(arm, benchmark), is_tuned=True)
    if not first.seeds or not second.seeds:
        return None
    try:
        return compare_sides(first, second, metric, allow_diff=("template",))
    except TunelabError:
        return None  # the report's caveats name the comparisons that were refused


def _interval(one: Comparison) -> Interval:
    return one.difference, one.low, one.high


def _interval_of(one: Comparison | None) -> Interval | None:
    return None if one is None else _interval(one)


def _domains(base: str, arm: str, evaluations: Evaluations) -> Iterator[ForgettingOfDomain]:
    """The mean change of every domain, in alphabetical order."""
    before, after = (_mean_over_seeds(evaluations(name, FORGETTING), name) for name in (base, arm))
    clusters = evaluations(base, FORGETTING)[0].graded(base).clusters
    texts: dict[str, list[str]] = {}
    for item in before:
        if item in after:
            texts.setdefault(clusters.get(item) or item, []).append(item)
    for domain, items in sorted(texts.items()):
        of_base, of_arm = (math.fsum(values[item] for item in items) / len(items) for values in (before, after))
        yield ForgettingOfDomain(arm, domain, len(items), of_base, of_arm - of_base)


def _mean_over_seeds(seeds: Sequence[Evaluated], name: str) -> Mapping[str, float]:
    values = [one.graded(name).values for one in seeds]
    return {item: math.fsum(one[item] for one in values) / len(values) for item in values[0]}
