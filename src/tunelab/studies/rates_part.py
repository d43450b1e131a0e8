"""The learning rates of a study's report: what was tried, what was chosen, and what other rates would have said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunelab.config.study import Study
from tunelab.records.cells import Cell
from tunelab.records.choices import DIGITS, Choice, own_rate
from tunelab.records.runs import Run
from tunelab.report.rates_content import SearchedRate
from tunelab.units import format_duration, format_loss, format_significant


def searched_rates(chosen: Mapping[str, Choice]) -> tuple[SearchedRate, ...]:
    """The choices in the form that reports store."""
    return tuple(
        SearchedRate(
            arm=arm,
            own=choice.own,
            chosen=choice.lr,
            source=choice.source,
            tried=tuple((lr, loss if math.isfinite(loss) else None) for lr, loss in choice.tried.items()),
            edge=choice.edge,
        )
        for arm, choice in chosen.items()
    )


def rates_in_use(study: Study, chosen: Mapping[str, Choice]) -> str:
    """The sentence that says at which learning rates the results hold; "" if nothing is tuned.

    Args:
        study: as it is trained.
        chosen: empty = nothing was searched.
    """
    arms = [arm for arm, one in study.arms.items() if one.tuned and (not chosen or chosen[arm].lr is not None)]
    rates = {arm: shown_rate(own_rate(study, arm)) for arm in arms}
    if not rates:
        return ""
    listed = ", ".join(f"{arm} {rate}" for arm, rate in rates.items())
    if chosen:
        return f"Each tuned arm has the learning rate that its validation rows chose: {listed}."
    return f"These results hold at the learning rates given, which were not searched: {listed}."


def rates_sentences(study: Study, chosen: Mapping[str, Choice], cells: Sequence[Cell], folder: Path) -> Iterator[str]:
    """What the trials say, in sentences.

    Args:
        study: as it was asked for.
        cells: all of the study's.
    """
    tries = [cell for cell in cells if cell.lr is not None and cell.status == "done"]
    if study.search is None or not tries:
        return
    yield _how(study, tries, folder)
    for arm, choice in chosen.items():
        if choice.source == arm and choice.lr is not None:
            yield from _of_arm(arm, choice)
    for a, b in study.pairs:
        if a in chosen and b in chosen and chosen[a].source != chosen[b].source:
            yield from _at_equal_rates(a, chosen[a], b, chosen[b])


def shown_rate(lr: float) -> str:
    """A learning rate for people: "0.0002", "6.32e-05"."""
    return format_significant(lr, DIGITS)


def _how(study: Study, tries: Sequence[Cell], folder: Path) -> str:
    counted = {Run(folder / cell.folder).manifest.get("data", {}).get("validation", {}).get("kept") for cell in tries}
    rows = ", ".join(f"{count:,}" for count in sorted(counted - {None}))
    diverged = sum(cell.validation_loss is None for cell in tries)
    also = f", {diverged} of which diverged" if diverged else ""
    took = format_duration(math.fsum(cell.seconds for cell in tries))
    return (
        f"{len(tries)} trials{also}: one training each with seed {tries[0].seed}, measured by the completion loss on "
        f"{rows} validation rows, in {took}. Held-out rows and benchmarks took no part."
    )


def _of_arm(arm: str, choice: Choice) -> Iterator[str]:
    """What an arm's own rate would have given, and whether its best rate may lie further out."""
    assert choice.lr is not None, "asked for arms with a rate"
    own, best = choice.tried.get(choice.own), choice.tried[choice.lr]
    if choice.lr == choice.own:
        yield f"{arm} keeps its own learning rate, {shown_rate(choice.own)}, the best of {len(choice.tried)}."
    elif own is not None and math.isfinite(own):
        more = format_loss(own - best)
        yield f"At its own learning rate, {shown_rate(choice.own)}, {arm} would be worse by {more} nats per token."
    elif own is not None:
        yield f"At its own learning rate, {shown_rate(choice.own)}, training of {arm} diverges."
    if choice.edge:
        beyond = "lower" if choice.edge == "lowest" else "higher"
        yield (
            f"The best learning rate of {arm}, {shown_rate(choice.lr)}, is the {choice.edge} that was tried: "
            f"a {beyond} one may be better."
        )


def _at_equal_rates(a: str, first: Choice, b: str, second: Choice) -> Iterator[str]:
    """What two arms' trials at equal learning rates say beside each at its best."""
    if first.lr is None or second.lr is None:
        return
    common = sorted(set(first.tried) & set(second.tried))
    if not common:
        yield f"{a} and {b} tried no equal learning rate: what an equal one would say is not known."
        return
    pairs = {lr: (first.tried[lr], second.tried[lr]) for lr in common}
    best = first.tried[first.lr], second.tried[second.lr]
    listed = "; ".join(f"at {shown_rate(lr)} {_losses(a, b, pair)}" for lr, pair in pairs.items())
    other = [shown_rate(lr) for lr, pair in pairs.items() if _order(pair) == -_order(best) != 0]
    said = f"the order is the same at {'both' if len(common) == 2 else 'all'} of them" if len(common) > 1 else ""
    if other:
        said = f"at {', '.join(other)} the order is reversed"
    end = f": {said}" if said else ""
    yield f"At equal learning rates, {listed}; each at its best, {_losses(a, b, best)}{end}."


def _losses(a: str, b: str, pair: tuple[float, float]) -> str:
    return ", ".join(
        f"{arm} {format_loss(loss) if math.isfinite(loss) else 'diverges'}"
        for arm, loss in zip((a, b), pair, strict=True)
    )


def _order(pair: tuple[float, float]) -> int:
    return (pair[0] > pair[1]) - (pair[0] < pair[1])
