"""A study report's tables as text, shared by the page, Markdown and the console."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from tunelab.report.content import Arm, ArmScore, PairedComparison, Published, StudyReport
from tunelab.report.rates_content import SearchedRate
from tunelab.report.table import BLIND, EQUAL_VALUES, has_equal_values, score_text, score_texts
from tunelab.units import (
    UNKNOWN,
    format_bytes,
    format_count,
    format_duration,
    format_error,
    format_interval,
    format_loss,
    format_number,
    format_probability,
    format_rate,
    format_significant,
    format_with_error,
    interval_decimals,
)

#: Prefix of the note with a published value.
PUBLISHED = "published "

#: With more score columns than this, scores and costs do not fit side by side on a page.
MOST_SCORES_BESIDE_COSTS = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, a second line for unit and direction, and its group ("" = none)."""

    title: str
    unit: str = ""
    group: str = ""
    is_number: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's text and the smaller lines below it."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyTable:
    """A table: title, caption, and rows with one cell per column."""

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


_Maker = tuple[Column, Callable[[Arm], Cell]]
_Key = tuple[str, str, str]  # arm, benchmark, metric


def arms_tables(report: StudyReport) -> list[StudyTable]:
    """Scores with errors and published values, and costs per arm: one table, or two if it would be too wide."""
    if len(report.table_scores()) <= MOST_SCORES_BESIDE_COSTS:
        return [arms_table(report, "Quality", "Cost")]
    return [arms_table(report, "Quality"), arms_table(report, "Cost")]


def arms_table(report: StudyReport, *groups: str) -> StudyTable:
    """One row per arm, with the columns of these groups: "Quality" (main scores and others in the table), "Cost"
    (memory, time, money).
    """
    makers = _score_columns(report) if "Quality" in groups else []
    makers += _cost_columns(report) if "Cost" in groups else []
    columns = (Column("Arm", is_number=False), *(column for column, _ in makers))
    rows = tuple((_name_cell(arm), *(of(arm) for _, of in makers)) for arm in report.arms)
    caption = f"Value ± standard error over items. ↑ higher is better, ↓ lower is better. {UNKNOWN} not known."
    caption += f" {_exceptions(one for one in report.scores if one.is_main or one.in_table)}".rstrip()
    if "Cost" in groups:
        caption += f" Times are per run, mean over seeds. {memory_words(report)}".rstrip()
    if "Quality" not in groups:
        caption = f"Per run, mean over seeds; evaluation: all benchmarks. {memory_words(report)}{UNKNOWN} not known."
    return StudyTable(" and ".join(groups).capitalize(), caption, columns, rows)


def all_scores_table(report: StudyReport) -> StudyTable:
    """All scores of all arms, including the main ones."""
    shown = shown_scores(report)
    columns = (
        *(Column(name, is_number=False) for name in ("Benchmark", "Metric", "Arm")),
        *(Column(name) for name in ("Value", "SE across seeds", "Items", "Seeds")),
        Column("Unit", is_number=False),
        Column("Better", is_number=False),
    )
    rows = tuple(
        tuple(
            Cell(text)
            for text in (
                score.benchmark,
                _words(score.name),
                score.arm,
                shown[score.arm, score.benchmark, score.name],
                UNKNOWN if score.seed_error is None else format_error(score.seed_error, score.unit),
                f"{score.n:,}",
                str(score.seeds),
                score.unit,
                "higher" if score.higher_is_better else "lower",
            )
        )
        for score in report.scores
    )
    caption = f"Value ± standard error over items. {_exceptions(report.scores)}".rstrip()
    return StudyTable("All scores", caption, columns, rows)


def notes(report: StudyReport) -> list[str]:
    """What the numbers of the tables of arms leave out, in sentences; for renderers without captions."""
    costs = f"Times and costs are per run, mean over seeds. {memory_words(report)}".strip() if report.arms else ""
    return [one for one in (costs, _exceptions(one for one in report.scores if one.is_main or one.in_table)) if one]


def _exceptions(scores: Iterable[ArmScore]) -> str:
    """What the cells without a standard error mean, where there are any."""
    scores = list(scores)
    said = [EQUAL_VALUES] if any(map(has_equal_values, scores)) else []
    said += (
        [f"{BLIND}: the metric cannot see the references (see the caveats)."]
        if any(one.is_blind for one in scores)
        else []
    )
    return " ".join(said)


def comparisons_table(report: StudyReport) -> StudyTable:
    """One row per comparison of two arms on the same items."""
    makers = _comparison_columns(report)
    rows = tuple(tuple(of(one) for _, of in makers) for one in report.comparisons)
    caption = (
        "Second arm minus first, on the same items. Interval: of one comparison, before Holm's correction. "
        "Detectable: the minimum detectable difference, the smallest true one that is shown with 80 % power."
    )
    if not all(one.could_be_shown for one in report.comparisons):
        caption += " None: no result could be significant with so few items, or random swaps of them."
    return StudyTable("Comparisons", caption, tuple(column for column, _ in makers), rows)


def published_table(report: StudyReport) -> StudyTable:
    """Published and measured scores and costs."""
    columns = (
        Column("Arm", is_number=False),
        Column("Metric", is_number=False),
        Column("Published"),
        Column("Measured"),
        Column("Unit", is_number=False),
        Column("Source", is_number=False),
    )
    caption = f"Measured: scores ± standard error over items. {UNKNOWN} not known."
    if any(one.unit == "GB" for one in report.published):
        caption += " GB: 10⁹ bytes."
    rows = tuple(_published_row(report, one) for one in report.published)
    return StudyTable("Published and measured", caption, columns, rows)


def _published_row(report: StudyReport, one: Published) -> tuple[Cell, ...]:
    measured, unit = UNKNOWN, one.unit
    if one.measured is not None:
        # Costs have no items and so no standard error.
        measured = format_with_error(one.measured, one.error) if one.metric else format_significant(one.measured)
        if scored := report.score(one.arm, one.benchmark, one.metric):
            measured = score_text(scored)
    elif not one.metric and (score := report.main_score(one.arm, one.benchmark)):
        # Older reports have no measured values next to the published ones.
        measured, unit = score_text(score), score.unit
    figure = Cell(one.benchmark, (_words(one.metric),) if one.metric else ())
    notes = [f"of {one.model}"] if one.model else []
    trainings = ", ".join(format_significant(value, 6) for value in one.by_training)
    notes += [f"mean of {trainings}"] if trainings else []
    value = Cell(format_significant(one.value, 6), tuple(notes))
    return (Cell(one.arm), figure, value, *map(Cell, (measured, unit, one.source)))


def differences_table(report: StudyReport) -> StudyTable:
    """Settings that differ between arms."""
    names = [arm.name for arm in report.arms]
    columns = tuple(Column(name, is_number=False) for name in ("Setting", *names))
    rows = tuple(
        (Cell(one.key), *(Cell(one.values.get(name, UNKNOWN)) for name in names)) for one in report.differences
    )
    caption = f"Settings that differ. {UNKNOWN} does not apply to this arm."
    return StudyTable("Differences between arms", caption, columns, rows)


def rates_table(report: StudyReport) -> StudyTable:
    """The learning rate of each searched arm."""
    columns = (
        Column("Arm", is_number=False),
        *(Column(name, "learning rate") for name in ("Chosen", "Own")),
        *(Column(name, "validation loss") for name in ("At chosen", "At own")),
        Column("Trials"),
        Column("Note", is_number=False),
    )
    rows = tuple(_rates_row(one) for one in report.rates)
    caption = f"Validation loss in nats per token, lower is better. {UNKNOWN} not known."
    return StudyTable("Learning rates", caption, columns, rows)


def _rates_row(one: SearchedRate) -> tuple[Cell, ...]:
    losses = dict(one.tried)
    notes = [f"trials of {one.source}"] if one.source != one.arm else []
    notes += [f"the {one.edge} that was tried"] if one.edge else []
    if diverged := [_rate(lr) for lr, loss in one.tried if loss is None]:
        notes.append(f"diverged at {', '.join(diverged)}")

    def loss(lr: float | None) -> str:
        found = None if lr is None else losses.get(lr)
        return "diverged" if found is None and lr in losses else UNKNOWN if found is None else format_loss(found)

    rates = (UNKNOWN if one.chosen is None else _rate(one.chosen), _rate(one.own))
    texts = (one.arm, *rates, loss(one.chosen), loss(one.own), str(len(one.tried)), "; ".join(notes))
    return tuple(Cell(text) for text in texts)


def _rate(lr: float) -> str:
    return format_significant(lr, 3)


def tables(report: StudyReport) -> list[StudyTable]:
    """All tables with rows, in the order of the report."""
    made = (comparisons_table, rates_table, published_table, all_scores_table, differences_table)
    return [table for table in (*arms_tables(report), *(make(report) for make in made)) if table.rows]


def unfinished_arms(report: StudyReport) -> list[str]:
    """One sentence per arm without a result."""
    sentences = {"failed": "failed and has no result", "missing": "has not run"}
    return [
        f"{arm.name} {sentences[arm.status]}" + (f": {arm.error}" if arm.error else ".")
        for arm in report.arms
        if arm.status != "done"
    ]


def _name_cell(arm: Arm) -> Cell:
    status = {"done": (), "failed": (f"failed: {arm.error or 'reason unknown'}",), "missing": ("has not run",)}
    return Cell(arm.name, (arm.parts, *status[arm.status]))


def _score_columns(report: StudyReport) -> list[_Maker]:
    """One column per metric in the table."""
    shown, scores = shown_scores(report), {(one.arm, one.benchmark, one.name): one for one in report.scores}
    return [(_score_column(one), partial(_score_cell, report, scores, shown, one)) for one in report.table_scores()]


def shown_scores(report: StudyReport) -> dict[_Key, str]:
    """Every score as in score_texts(), by arm, benchmark and metric; a metric has the same decimals in all arms."""
    shown = {}
    for metric in dict.fromkeys((score.benchmark, score.name) for score in report.scores):
        scores = [score for score in report.scores if (score.benchmark, score.name) == metric]
        shown.update({(one.arm, *metric): text for one, text in zip(scores, score_texts(scores), strict=True)})
    return shown


def _score_column(score: ArmScore) -> Column:
    arrow = "↑" if score.higher_is_better else "↓"
    return Column(score.benchmark, f"{_words(score.name)}, {score.unit} {arrow}", "Quality")


def _score_cell(
    report: StudyReport, scores: Mapping[_Key, ArmScore], shown: Mapping[_Key, str], like: ArmScore, arm: Arm
) -> Cell:
    """An arm's score on the metric of `like`, which may be another arm's score."""
    key = (arm.name, like.benchmark, like.name)
    notes = _seed_notes(scores[key]) if key in scores else ()
    published = report.published_of(*key)
    notes += tuple(f"{PUBLISHED}{format_significant(one.value, 6)}" for one in published)
    return Cell(shown.get(key, UNKNOWN), notes)


def _seed_notes(score: ArmScore) -> tuple[str, ...]:
    if score.seeds < 2:
        return ()
    error = "?" if score.seed_error is None else format_error(score.seed_error, score.unit)
    return (f"SE across {score.seeds} seeds: {error}",)


def _cost_columns(report: StudyReport) -> list[_Maker]:
    """Costs of an arm; the money column only if a price is known."""
    columns = [
        _cost("Peak memory", lambda arm: arm.peak_memory_bytes, format_bytes),
        _cost("Training", lambda arm: arm.training_seconds, lambda value: format_duration(value) if value else "none"),
        _cost("Evaluation", lambda arm: arm.evaluation_seconds, format_duration),
        _cost("Tokens/s", lambda arm: arm.tokens_per_second, lambda value: format_rate(value).partition(" ")[0]),
        _cost("Trainable", lambda arm: arm.trainable_parameters, format_count, "parameters"),
        _cost("On disk", lambda arm: arm.disk_bytes, format_bytes),
    ]
    if any(arm.cost is not None for arm in report.arms):
        columns.append(_cost("Cost", lambda arm: arm.cost, lambda value: format_number(value, 2), report.currency))
    return columns


def start_memory(report: StudyReport) -> float | None:
    """Bytes that every arm's process had before a model was loaded; None if one is not known."""
    known = [arm.start_memory_bytes for arm in report.arms if arm.peak_memory_bytes is not None]
    return min((one for one in known if one is not None), default=None) if None not in known else None


def memory_words(report: StudyReport) -> str:
    """What the peak memory of the costs counts, as a sentence; empty if it is not known."""
    if (start := start_memory(report)) is not None:
        return f"Peak memory is of the process and includes about {format_bytes(start)} of Python and libraries. "
    if any(arm.peak_memory_bytes is not None for arm in report.arms):
        return "Peak memory is of the accelerator; on a CPU, of the process with Python and libraries. "
    return ""


def _cost(title: str, of: Callable[[Arm], float | None], shown: Callable[[float], str], unit: str = "") -> _Maker:
    def cell(arm: Arm) -> Cell:
        value = of(arm)
        return Cell(UNKNOWN if value is None else shown(value))

    return Column(title, unit, "Cost"), cell


_ComparisonMaker = tuple[Column, Callable[[PairedComparison], Cell]]


def _comparison_columns(report: StudyReport) -> list[_ComparisonMaker]:
    """The columns of a comparison; gained and lost items only if any comparison has them."""
    columns: list[_ComparisonMaker] = [
        (Column("Benchmark", is_number=False), lambda one: Cell(one.benchmark, (_words(one.metric),))),
        (Column("Arms", is_number=False), lambda one: Cell(f"{one.a} → {one.b}")),
        (Column("Difference"), _difference_cell),
        (
            Column("95 % interval"),
            lambda one: Cell(format_interval(one.low, one.high, interval_decimals(one.low, one.high, one.unit))),
        ),
        (Column("p", "Holm"), _probability_cell),
        (Column("Items"), lambda one: Cell(f"{one.n:,}")),
        (Column("Test", is_number=False), _test_cell),
        (Column("Gained / lost"), _flips_cell),
        (
            Column("Detectable"),
            _detectable_cell,
        ),
        (Column("Result", is_number=False), _result_cell),
    ]
    if all(one.gained is None for one in report.comparisons):
        columns = [one for one in columns if one[1] is not _flips_cell]
    if not any(one.test for one in report.comparisons):
        columns = [one for one in columns if one[1] is not _test_cell]
    return columns


def _difference_cell(one: PairedComparison) -> Cell:
    of_seeds = (
        () if one.seed_error is None else (f"SE across {one.seeds} seeds: {format_error(one.seed_error, one.unit)}",)
    )
    if one.item_error is not None:
        of_seeds = (f"SE over items: {format_error(one.item_error, one.unit)}", *of_seeds)
    decimals = interval_decimals(one.low, one.high, one.unit)
    return Cell(format_number(one.difference, decimals, signed=True), of_seeds)


def _result_cell(one: PairedComparison) -> Cell:
    found = UNKNOWN if one.outcome == "unknown" else one.outcome
    return Cell(found, ("exploratory",) if one.exploratory else ())


def _probability_cell(one: PairedComparison) -> Cell:
    uncorrected = format_probability(one.p, is_bound=one.p_is_bound)
    if one.p_holm is None:
        return Cell(uncorrected, ("uncorrected",))
    return Cell(format_probability(one.p_holm, is_bound=one.p_is_bound), (f"{uncorrected} uncorrected",))


def _test_cell(one: PairedComparison) -> Cell:
    """The test; its degrees of freedom, and by what items are clustered, on lines of their own."""
    name, *more = one.test.split(", ")
    return Cell(name or UNKNOWN, tuple(more))


def _detectable_cell(one: PairedComparison) -> Cell:
    if not one.could_be_shown:
        return Cell("none")
    return Cell(UNKNOWN if one.detectable is None else format_error(one.detectable, one.unit))


def _flips_cell(one: PairedComparison) -> Cell:
    return Cell(UNKNOWN if one.gained is None or one.lost is None else f"{one.gained:,} / {one.lost:,}")


def _words(metric: str) -> str:
    """A metric's name with spaces."""
    return metric.replace("_", " ")
