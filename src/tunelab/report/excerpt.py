"""What the page of a large report shows: its first arms and trainings, and in a sentence where the others are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from tunelab.report.content import SettingDifference, StudyReport
from tunelab.units import format_names

T = TypeVar("T")

#: Seeds that a plot draws one by one.
MOST_SEEDS = 50


def excerpt(report: StudyReport, arms: int, trainings: int) -> tuple[StudyReport, str]:
    """A part of a report, and a sentence on what is left out; the report itself, and "", if nothing is.

    Args:
        arms: how many at most: those that the questions are about, then the others in the study's order. All that is
            said about them alone is kept.
        trainings: how many loss curves and recipes at most: the first seed of each arm, then the second.
    """
    names = [arm.name for arm in report.arms]
    part = report if len(names) <= arms else _of_arms(report, _first_arms(report, arms))
    part = _with_few_seeds(part)
    groups = _arms_of(part.provenance, names)
    sections = _in_turns(list(groups), lambda name: groups[name], trainings)
    curves = _in_turns(part.curves, lambda curve: curve.arm, trainings)
    if len(sections) < len(part.provenance) or len(curves) < len(part.curves):
        provenance = {name: values for name, values in part.provenance.items() if name in set(sections)}
        part = replace(part, curves=tuple(curves), provenance=provenance)
    return part, _left_out(report, part)


def _left_out(report: StudyReport, part: StudyReport) -> str:
    counts = [
        (len(part.arms), len(report.arms), "arms"),
        (len(part.provenance), len(report.provenance), "recipes of trainings"),
        (len(part.curves), len(report.curves), "loss curves"),
    ]
    said = [f"{shown:,} of {total:,} {what}" for shown, total, what in counts if shown < total]
    if max(_seed_counts(report), default=0) > MOST_SEEDS:
        said.append(f"no points of single seeds where there are more than {MOST_SEEDS}")
    if not said:
        return ""
    shown = {arm.name for arm in part.arms}
    failed = sum(arm.status == "failed" for arm in report.arms if arm.name not in shown)
    of_failed = f" {failed:,} of the arms left out failed." if failed else ""
    whole = "report.json and report.md, next to it, have everything."
    return f"To stay small, this page shows {format_names(said)}.{of_failed} {whole}"


def _first_arms(report: StudyReport, most: int) -> frozenset[str]:
    names = [arm.name for arm in report.arms]
    asked = [name for one in report.questions for name in one.about[:2]]
    return frozenset(list(dict.fromkeys((*(name for name in asked if name in set(names)), *names)))[:most])


def _of_arms(report: StudyReport, kept: Collection[str]) -> StudyReport:
    """The report without what concerns other arms."""
    flips = _about(report.flips, kept, "a", "b")
    left_out = len(report.flips) - len(flips)
    forgetting, budgets = report.forgetting, report.budgets
    if forgetting is not None:
        domains = _about(forgetting.domains, kept, "arm")
        forgetting = replace(forgetting, arms=_about(forgetting.arms, kept, "arm"), domains=domains)
    if budgets is not None:
        points, equal = _about(budgets.points, kept, "arm"), _about(budgets.equal, kept, "a", "b")
        budgets = replace(budgets, points=points, scores=_about(budgets.scores, kept, "arm"), equal=equal)
    groups = _arms_of(report.provenance, [arm.name for arm in report.arms])
    return replace(
        report,
        arms=_about(report.arms, kept, "name"),
        scores=_about(report.scores, kept, "arm"),
        published=_about(report.published, kept, "arm"),
        comparisons=_about(report.comparisons, kept, "a", "b"),
        flips=flips,
        flips_left_out=report.flips_left_out + left_out,
        curves=_about(report.curves, kept, "arm"),
        differences=tuple(_difference(one, kept) for one in report.differences),
        provenance={name: of for name, of in report.provenance.items() if groups[name] in ("", *kept)},
        forgetting=forgetting,
        rates=_about(report.rates, kept, "arm"),
        budgets=budgets,
    )


def _about(parts: tuple[T, ...], kept: Collection[str], *names: str) -> tuple[T, ...]:
    """The parts whose fields of these names are all arms that are kept."""
    return tuple(one for one in parts if all(getattr(one, name) in kept for name in names))


def _difference(one: SettingDifference, kept: Collection[str]) -> SettingDifference:
    return replace(one, values={name: value for name, value in one.values.items() if name in kept})


def _with_few_seeds(report: StudyReport) -> StudyReport:
    """The report without the single values of very many seeds, which are one mark in a plot each."""

    def few(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(one, by_seed=()) if len(one.by_seed) > MOST_SEEDS else one for one in parts)

    if max(_seed_counts(report), default=0) <= MOST_SEEDS:
        return report
    return replace(report, scores=few(report.scores), comparisons=few(report.comparisons))


def _seed_counts(report: StudyReport) -> list[int]:
    return [len(one.by_seed) for one in report.scores] + [len(one.by_seed) for one in report.comparisons]


def _arms_of(sections: Iterable[str], arms: Iterable[str]) -> dict[str, str]:
    """The arm of each section on provenance ("lora, 2 epochs, seed 0"); "" = it is of none."""
    known, found = set(arms), {}
    for section in sections:
        words = section.split(", ")
        named = (", ".join(words[:count]) for count in range(len(words), 0, -1))
        found[section] = next((name for name in named if name in known), "")
    return found


def _in_turns(parts: Iterable[T], group: Callable[[T], str], most: int) -> list[T]:
    """At most so many parts, in their order: the first of each group, then the second; all of those in no group."""
    turns: dict[str, int] = {}
    placed = []
    for place, one in enumerate(parts):
        name = group(one)
        turns[name] = turns.get(name, -1) + 1
        placed.append((turns[name] if name else -1, place, one))
    alone = sum(turn < 0 for turn, _, _ in placed)
    kept = sorted(placed, key=lambda entry: entry[:2])[: most + alone]
    return [one for _, _, one in sorted(kept, key=lambda entry: entry[1])]
