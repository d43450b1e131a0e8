"""What a study's questions with a margin can be answered with, said before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tunelab.comparison.as_good import items_for, margin_shown
from tunelab.comparison.as_good_verdict import rounded_items
from tunelab.config.held_out_metrics import BLEU, CHRF, ROUGE_L
from tunelab.config.questions import COMPLETION_LOSS, DEFAULT_MARGINS, HELD_OUT, Question, margin_problem
from tunelab.config.study import FORGETTING, Study
from tunelab.errors import Problem
from tunelab.evaluation.probabilities import BRIER, LOG_PROBABILITY
from tunelab.statistics.crossed import Part
from tunelab.units import format_measured, format_number, format_share, format_significant


def foreseen_margins(study: Study, items: Mapping[str, int | None], discordance: float) -> Iterator[str]:
    """One sentence for each question with a margin: what it asks, and how many items show that with 80 % power if
    nothing differs (one-sided 5 %, without correction, and without what trainings add).

    Args:
        items: benchmark -> its number of items, None = not known yet.
        discordance: assumed share of items that only one of two arms answers right.
    """
    for question in study.questions:
        if not question.is_better:
            shown = _shown(study, question, items[question.on], discordance)
            yield f"{question.ask} {_asked(study, question)}; {shown}"


def wrong_margins(study: Study) -> Iterator[Problem]:
    """Margins of questions that cannot be meant in their metric's unit, where it is known beforehand."""
    for number, question in enumerate(study.questions):
        known = not question.on.endswith(".py")  # whose units are known once it has scored
        if known and question.within is not None and (found := margin_problem(question.within, _unit(question))):
            yield Problem(f"questions.{number}.within", *found)


def _asked(study: Study, question: Question) -> str:
    base = study.base_of(question.against) if question.within is None else None
    as_ = "is like" if question.is_like else "is as good as"
    if base is not None:
        most = f" to {format_share(2 - question.keeps, 0)}" if question.is_like else ""
        least = format_share(question.keeps, 0)
        kept = f"{least}{most}" if most else f"at least {least}"
        return f"{question.arm} {as_} {question.against} if it keeps {kept} of what that gains over {base}"
    return f"{question.arm} {as_} {question.against} within {_margin(question)}"


def _margin(question: Question) -> str:
    if question.within is not None:
        return f"{format_significant(question.within, 3)} (the metric's unit)"
    unit = _unit(question)
    points = {"0-1": "1 point", "0-100": "1 point", "0-2": "0.01 of 2"}
    return points.get(unit) or f"{DEFAULT_MARGINS[unit]} {unit}"


def _unit(question: Question) -> str:
    """The unit of what decides, where it is known beforehand that it is no share of right answers."""
    if question.on == FORGETTING:
        return "bits/byte"
    units = {COMPLETION_LOSS: "nats per token", LOG_PROBABILITY: "nats", BRIER: "0-2"}
    units |= dict.fromkeys((BLEU, ROUGE_L, CHRF), "0-100")
    return units.get(question.decided_by or "", "0-1")


def _shown(study: Study, question: Question, items: int | None, discordance: float) -> str:
    if items is None or items < 2:
        return "the number of items is not known yet"
    if _unit(question) != "0-1" or question.on == HELD_OUT:
        what = "rows" if question.on == HELD_OUT else "texts" if question.on == FORGETTING else "items"
        return f"whether {items:,} {what} can show that is known once both were evaluated, from how much {what} differ"
    part = Part(math.sqrt(discordance / items), items - 1.0)
    shown = margin_shown(items, part, [], items)
    assert shown is not None, "one part of finite error"
    can = f"{items:,} items can show a margin of {format_number(100 * shown, 1)} points"
    assumed = f"if {format_share(discordance, 0)} of items are right in only one arm"
    if question.within is None and (base := study.base_of(question.against)) is not None:
        gain = shown / (1 - question.keeps)
        needs = f"so {question.against} must gain {format_number(100 * gain, 0)} points over {base}"
        return f"{can} {assumed}, {needs if gain <= 1 else 'more than any gain leaves: ask `within`'}"
    margin = question.within if question.within is not None else DEFAULT_MARGINS["0-1"]
    needed = items_for(items, part, [], margin)
    more = "more than can be asked" if needed is None else f"about {rounded_items(needed)}"
    return f"{can} {assumed}; a margin of {format_measured(100 * margin, 'point', 3)} needs {more}"
