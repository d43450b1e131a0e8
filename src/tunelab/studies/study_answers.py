"""What a study's evaluations say: its comparisons, corrected in two families, and an answer to each question.

The questions are one family of Holm's correction: each has the p of what it claims (better, or as good within the
margin). Comparisons that no question asks for are exploratory, a family of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tunelab.comparison.as_good import Judged, judge_difference, judge_share
from tunelab.comparison.as_good_verdict import judged_verdict
from tunelab.comparison.evaluated import Evaluated
from tunelab.comparison.paired_comparison import Comparison, correct
from tunelab.comparison.paired_evaluations import Side, compare_sides
from tunelab.config.held_out_metrics import HELD_OUT_SUBSTITUTES
from tunelab.config.questions import DEFAULT_MARGINS, HELD_OUT, margin_problem
from tunelab.config.questions import Question as Asked
from tunelab.config.study import Study
from tunelab.errors import DataError, TunelabError
from tunelab.report.content import Question
from tunelab.statistics.paired_tests import holm
from tunelab.studies.budget_curves import NO_CURVES, Curves, Matched, at_equal
from tunelab.studies.report_parts import answered, as_sentence

#: Two arms, a benchmark, the metric, and what is equal ("" = the budget).
_Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class StudyAnswers:
    """A study's comparisons and answers.

    Attributes:
        comparisons: in the order of the study.
        questions: each with its answer.
        refused: a sentence for each comparison that could not be made.
        matched: those at equal tokens, time or cost, which questions ask for, and where they were read.
    """

    comparisons: list[Comparison]
    questions: list[Question]
    refused: list[str]
    matched: list[tuple[Matched, Comparison]]


@dataclass(frozen=True)
class _Measured:
    """A study and how its arms were evaluated."""

    study: Study
    evaluated: Callable[[str, str], list[Evaluated]]
    curves: Curves
    made: dict[_Key, Comparison] = field(default_factory=dict)
    matched: dict[_Key, Matched] = field(default_factory=dict)
    not_matched: dict[_Key, TunelabError] = field(default_factory=dict)

    def side(self, arm: str, benchmark: str) -> Side:
        return Side(arm, self.evaluated(arm, benchmark), self.study.arms[arm].tuned)

    def sides(self, question: Asked) -> tuple[Side, Side]:
        """The two arms of a question, at the largest budget or where their curves are read."""
        if question.match is not None:
            return self.matched[self.key(question)].sides
        return self.side(question.against, question.on), self.side(question.arm, question.on)

    def key(self, question: Asked) -> _Key:
        """The comparison that a question is about; "" as the metric = not known, as nothing was measured."""
        first = self.evaluated(question.against, question.on)
        metric = question.decided_by or (first[0].metric().name if first else "")
        return question.against, question.arm, question.on, metric, question.match or ""


def study_answers(
    study: Study,
    evaluated: Callable[[str, str], list[Evaluated]],
    late: Sequence[Asked] = (),
    curves: Curves = NO_CURVES,
) -> StudyAnswers:
    """Compare and answer.

    Args:
        evaluated: gives the evaluations of an arm on a benchmark, one per finished seed.
        late: questions that were asked, or changed, after results were there.
        curves: the arms at all budgets.
    """
    measured = _Measured(study, evaluated, curves)
    refused = list(_compare(measured))
    _compare_matched(measured)
    judged = {question: _judged(measured, question) for question in study.questions if not question.is_better}
    comparisons, judged = _corrected(measured, judged)
    answers = {question: _answer(measured, question, comparisons, judged) for question in study.questions}
    questions = [_marked(answers[question]) if question in late else answers[question] for question in study.questions]
    plain = [one for key, one in comparisons.items() if key not in measured.matched]
    matched = [(one, comparisons[key]) for key, one in measured.matched.items()]
    return StudyAnswers(plain, questions, refused, matched)


def _compare(measured: _Measured) -> Iterator[str]:
    """Make all comparisons; yields a sentence for each that could not be made."""
    refused: dict[tuple[str, str, str, str], list[str]] = {}
    for a, b, benchmark, metric in _wanted_comparisons(measured):
        first, second = measured.side(a, benchmark), measured.side(b, benchmark)
        if not first.seeds or not second.seeds or metric in first.seeds[0].blind_metrics:
            continue
        try:
            # A question may name the headline metric, which must be compared only once.
            name = first.seeds[0].metric(metric).name
            if (a, b, benchmark, name, "") not in measured.made:
                one = compare_sides(first, second, name, allow_diff=("template",))
                measured.made[a, b, benchmark, name, ""] = dataclasses.replace(one, benchmark=benchmark)
        except TunelabError as error:
            refused.setdefault((a, b, benchmark, error.message), []).append(metric or "its headline metric")
    for (a, b, benchmark, message), metrics in refused.items():
        yield f"{a} and {b} were not compared on {benchmark} by {', '.join(metrics)}: {message}"


def _compare_matched(measured: _Measured) -> None:
    """Make the comparisons at equal tokens, time or cost."""
    for question in measured.study.questions:
        if question.match is None:
            continue
        key = measured.key(question)
        try:
            found = at_equal(measured.curves, question.against, question.arm, question.on, question.match)
            one = compare_sides(*found.sides, question.decided_by, allow_diff=("template",))
            measured.made[key] = dataclasses.replace(one, benchmark=question.on)
            measured.matched[key] = found
        except TunelabError as error:
            measured.not_matched[key] = error


def _wanted_comparisons(measured: _Measured) -> list[tuple[str, str, str, str | None]]:
    """The study's comparisons, and by chrF and exact match where a metric cannot see the held-out references."""
    wanted = dict.fromkeys(measured.study.comparisons)
    for a, b, benchmark, _ in measured.study.comparisons:
        if benchmark == HELD_OUT and any(one.blind_metrics for one in measured.evaluated(a, benchmark)):
            wanted |= dict.fromkeys((a, b, benchmark, metric) for metric in HELD_OUT_SUBSTITUTES)
    return list(wanted)


def _judged(measured: _Measured, question: Asked) -> Judged | DataError | None:
    """Whether an arm is as good as another; the reason why it cannot be said; None if the two were not compared."""
    one = measured.made.get(measured.key(question))
    if one is None:
        return None
    a, b = measured.sides(question)
    both_ways = question.is_like is not None
    base = measured.study.base_of(question.against) if question.within is None else None
    try:
        if base is not None:
            measured_base = measured.side(base, question.on)
            if not measured_base.seeds:
                untuned = f"{base}, which the gain of {a.name} is measured from, was not evaluated on {question.on}"
                raise DataError(untuned, "run the study again")
            return judge_share(a, b, measured_base, one, question.keeps, both_ways=both_ways)
        margin = question.within or DEFAULT_MARGINS.get(one.unit)
        if margin is None:
            no_margin = f"{one.metric} is in {one.unit}, which has no default margin"
            raise DataError(no_margin, "write `within` in the study")
        if problem := margin_problem(margin, one.unit):
            raise DataError(f"within: {problem[0]}", problem[1])
        return judge_difference(a, b, one, margin, both_ways=both_ways)
    except DataError as error:
        return error


_Judgements = dict[Asked, Judged | DataError | None]


def _corrected(measured: _Measured, judged: _Judgements) -> tuple[dict[_Key, Comparison], _Judgements]:
    """Comparisons and judgements with Holm's correction over the questions, and over the exploratory comparisons.

    Whether an arm is worse within its margin is asked by the difference's own p, in the place of the margin's.
    """
    made = measured.made
    better = dict.fromkeys(
        key for one in measured.study.questions if one.is_better and (key := measured.key(one)) in made
    )
    compared = {question: one for question, one in judged.items() if one is not None}
    margins = [one.decisive_p if isinstance(one, Judged) else 1.0 for one in compared.values()]
    others = dict.fromkeys(key for question in compared if (key := measured.key(question)) not in better)
    rest = [key for key in made if key not in better and key not in others]
    of_better = correct([made[key] for key in better], margins)
    of_margins = correct([made[key] for key in others], [made[key].p for key in better])
    exploratory = correct([dataclasses.replace(made[key], exploratory=True) for key in rest])
    by_key = dict(zip((*better, *others, *rest), (*of_better, *of_margins, *exploratory), strict=True))
    family = len(better) + len(margins)
    ps = holm([*(made[key].p for key in better), *margins])[len(better) :]
    found: _Judgements = dict(judged)
    for (question, one), p in zip(compared.items(), ps, strict=True):
        if isinstance(one, Judged):
            comparison = by_key[measured.key(question)]
            found[question] = dataclasses.replace(one, comparison=comparison, p_holm=p, family=family)
    return {key: by_key[key] for key in made}, found


def _marked(made: Question) -> Question:
    return dataclasses.replace(made, answer=f"{made.answer} {LATE}")


def _answer(measured: _Measured, question: Asked, comparisons: dict[_Key, Comparison], judged: _Judgements) -> Question:
    arms = question.against, question.arm
    key = measured.key(question)
    if key in measured.not_matched:
        error = measured.not_matched[key]
        return Question(question.ask, f"Not measured: {error.message}; {error.hint}.", "not known")
    if key not in comparisons:
        seen = [measured.evaluated(arm, question.on) for arm in arms]
        why = f"could not be compared by {key[3]}" if all(seen) else "were not both measured"
        if all(seen) and key[3] in seen[0][0].blind_metrics:
            why += ", which cannot see the references"
        return Question(question.ask, f"Unknown: the two arms {why}.", "unknown")
    found = judged.get(question)
    if isinstance(found, DataError):
        made = Question(question.ask, f"Not known: {found.message}; {found.hint}.", "not known", key[:4])
    elif isinstance(found, Judged):
        made = Question(question.ask, as_sentence(judged_verdict(found), arms), found.answer, key[:4])
    else:
        made = answered(question.ask, comparisons[key])
    return _with_budget(measured, question, made)


def _with_budget(measured: _Measured, question: Asked, made: Question) -> Question:
    """The answer with the budget that it holds at; one at equal cost is of no comparison in the report's table."""
    arms, budgets = measured.study.arms, measured.study.trained_at
    if question.match is not None:
        where = measured.matched[measured.key(question)].words
        begins_with_arm = made.answer.startswith((question.arm, question.against))
        said = made.answer if begins_with_arm else f"{made.answer[0].lower()}{made.answer[1:]}"
        return dataclasses.replace(made, answer=f"{where}: {said}", about=())
    if budgets and (arms[question.arm].tuned or arms[question.against].tuned):
        return dataclasses.replace(made, answer=f"{made.answer} At {budgets[-1].words}, the largest budget.")
    return made


#: What an answer ends with if its question, or margin, was not there before there were results.
LATE = "Asked, or its margin changed, after results were there: exploratory."
