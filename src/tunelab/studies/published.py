"""Published results for a study's arms, each with the measured value, and beside the answers to questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tunelab.config.held_out_metrics import HELD_OUT_HEADLINE
from tunelab.config.published import EPOCH_MINUTES, FINAL_LOSS, PEAK_MEMORY, TRAINING_HOURS
from tunelab.config.published import Published as PublishedFigure
from tunelab.config.questions import COMPLETION_LOSS
from tunelab.config.questions import Question as Asked
from tunelab.config.study import Study
from tunelab.report.content import ArmScore, Published, Question
from tunelab.units import format_significant


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of an arm, the mean over its seeds; None = not known, or not trained.

    Attributes:
        peak_bytes: peak memory of the accelerator (on a CPU, of the process).
        training_seconds: of one training.
        epochs: passes over the rows in that time.
        final_training_loss: nats per target token at the end of training.
    """

    peak_bytes: float | None = None
    training_seconds: float | None = None
    epochs: float | None = None
    final_training_loss: float | None = None


@dataclass(frozen=True, slots=True)
class _Cost:
    """How a cost is shown: its name, unit, and value in this unit."""

    name: str
    unit: str
    of: Callable[[Costs], float | None]


def _epoch_minutes(costs: Costs) -> float | None:
    if costs.training_seconds is None or not costs.epochs:
        return None
    return costs.training_seconds / costs.epochs / 60


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


_COSTS = {
    # Publications seldom say whether GB means 10^9 bytes or GiB: here it is 10^9 bytes.
    PEAK_MEMORY: _Cost("peak memory", "GB", lambda costs: _scaled(costs.peak_bytes, 1e9)),
    EPOCH_MINUTES: _Cost("training time per epoch", "min", _epoch_minutes),
    TRAINING_HOURS: _Cost("training time", "h", lambda costs: _scaled(costs.training_seconds, 3600)),
    FINAL_LOSS: _Cost("final training loss", "nats per token", lambda costs: costs.final_training_loss),
}


def published_figures(
    study: Study, scores: Sequence[ArmScore], costs: Mapping[str, Costs] | None = None
) -> tuple[Published, ...]:
    """All published values of a study in order, each with the measured one.

    Args:
        scores: all known scores of all arms.
        costs: arm -> its costs; they are unknown for arms not listed.
    """
    known = costs or {}
    return tuple(figure for one in study.published for figure in _figures(study, one, scores, known))


def with_published(
    questions: Sequence[Question], study: Study, scores: Sequence[ArmScore] = ()
) -> tuple[Question, ...]:
    """The answers, each followed by what was published of its two arms by its metric, if both were.

    Args:
        questions: with the answers to the study's questions, in their order.
        scores: all known scores, which say what a benchmark's headline metric is.
    """
    headlines = {one.benchmark: one.name for one in scores if one.is_main}
    pairs = zip(questions, study.questions, strict=True)
    return tuple(replace(one, answer=" ".join([one.answer, *_said(study, asked, headlines)])) for one, asked in pairs)


def _said(study: Study, asked: Asked, headlines: Mapping[str, str]) -> Iterator[str]:
    """ "Published for gpt2: 0.44 (qlora), 0.45 (lora)." """
    headline = headlines.get(asked.on, "")
    metrics = {"", headline} if asked.decided_by in (None, headline) else {asked.decided_by or ""}
    if asked.decided_by == COMPLETION_LOSS:  # perplexity is published, loss compared
        metrics = {"", HELD_OUT_HEADLINE}
    known: dict[str, tuple[float, PublishedFigure]] = {}
    for one in study.published:
        if (scored := one.score(study.benchmarks)) and scored[0] == asked.on and scored[1] in metrics:
            known |= {arm: (value, one) for arm, value in one.values.items()}
    if asked.arm in known and asked.against in known:
        arms = asked.arm, asked.against
        models = " and ".join(dict.fromkeys(model for arm in arms if (model := known[arm][1].model)))
        metric = " perplexity" if asked.decided_by == COMPLETION_LOSS else ""
        values = ", ".join(f"{format_significant(known[arm][0], 6)} ({arm})" for arm in arms)
        yield f"Published{f' for {models}' if models else ''}:{metric} {values}."


def _figures(
    study: Study, one: PublishedFigure, scores: Sequence[ArmScore], costs: Mapping[str, Costs]
) -> Iterator[Published]:
    scored = one.score(study.benchmarks)
    for arm, value in one.values.items():
        if scored is None:
            cost = _COSTS[one.what]
            measured = cost.of(costs.get(arm, Costs()))
            figure = Published(arm, cost.name, value, one.source, cost.unit, measured=measured)
        else:
            figure = _score_figure(arm, value, one.source, *scored, scores)
        yield replace(figure, model=one.model or "", by_training=one.by_training.get(arm, ()))


def _score_figure(
    arm: str, value: float, source: str, benchmark: str, metric: str, scores: Sequence[ArmScore]
) -> Published:
    of_any = [one for one in scores if one.benchmark == benchmark and (one.name == metric if metric else one.is_main)]
    own = next((one for one in of_any if one.arm == arm), None)
    # For an arm that failed, the other arms give the unit.
    unit, name = (of_any[0].unit, of_any[0].name) if of_any else ("", metric)
    if own is None:
        return Published(arm, benchmark, value, source, unit, name)
    return Published(arm, benchmark, value, source, own.unit, own.name, own.value, own.error)
