"""Arms that answer a choice benchmark with one letter, or no better than chance: a report's caveats about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tunelab.comparison.evaluated import Evaluated
from tunelab.evaluation.multiple_choice import LETTER_SHARE, near_chance
from tunelab.units import format_names, format_number, format_share


def guessing(evaluated: Iterable[tuple[str, Evaluated]]) -> Iterator[str]:
    """Sentences about arms whose answers do not depend on the questions, or need not.

    Such arms can lose nothing, so "no difference" between them is not "as good as". An arm counts if every one of its
    evaluations (one per seed) does.

    Args:
        evaluated: each evaluation with its arm's name.
    """
    benchmarks: dict[str, dict[str, list[Evaluated]]] = {}
    for arm, one in evaluated:
        if "letters_chosen" in _facts(one):
            benchmarks.setdefault(one.benchmark, {}).setdefault(arm, []).append(one)
    for benchmark, arms in benchmarks.items():
        yield from (f"{benchmark}: {said}" for said in (*_by_letter(arms), *_by_chance(arms)))


def _by_letter(arms: Mapping[str, Sequence[Evaluated]]) -> Iterator[str]:
    shares = {arm: [_letter_share(one) for one in found] for arm, found in arms.items()}
    shown = {arm: found for arm, found in shares.items() if min(found)[0] > LETTER_SHARE}
    if not shown:
        return
    every = [share for found in shown.values() for share, _ in found]
    letters = sorted({letter for found in shown.values() for _, letter in found})
    low, high = format_share(min(every), 0), format_share(max(every), 0)
    span = high if low == high else f"{low.removesuffix(' %')} to {high}"
    yield (
        f"{format_names(list(shown))} chose one letter ({format_names(letters)}) for {span} of the items: they may "
        "choose by letter and not by content, so a difference between arms, or none, says little."
    )


def _by_chance(arms: Mapping[str, Sequence[Evaluated]]) -> Iterator[str]:
    shown = [arm for arm, found in arms.items() if all(_may_guess(one) for one in found)]
    if shown:
        chance = format_number(_facts(arms[shown[0]][0])["chance"], 2)
        yield (
            f"the accuracy of {format_names(shown)} cannot be told from chance ({chance}): arms that guess are as "
            "good as each other whatever they know."
        )


def _facts(one: Evaluated) -> Mapping[str, Any]:
    facts = one.content.get("facts")
    return facts if isinstance(facts, Mapping) else {}


def _letter_share(one: Evaluated) -> tuple[float, str]:
    chosen: Mapping[str, int] = _facts(one)["letters_chosen"]
    letter = max(chosen, key=lambda name: chosen[name])
    return chosen[letter] / max(1, sum(chosen.values())), letter


def _may_guess(one: Evaluated) -> bool:
    chance = _facts(one).get("chance")  # evaluations of before it was stored lack it
    known = [score for score in one.scores if score.name.startswith("accuracy") and score.error is not None]
    if chance is None or not known:
        return False
    widest = max(known, key=lambda score: score.error or 0.0)
    return bool(near_chance(widest, round(widest.value * widest.n), chance))
