"""The results of a study as plain data: the input of every renderer, so that a report can be rendered again without
a model.

None means "not known" and is shown as "–", never as zero. Renderers escape all texts. Values of a benchmark are in the
unit of its score ("0-1", "0-100", "per token").
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunelab.errors import DataError, RunError
from tunelab.files import write_json_atomically
from tunelab.records.old_format import read_report_tree, stamped
from tunelab.report.budgets_content import Budgets
from tunelab.report.data_checks_content import DataChecks
from tunelab.report.forgetting_content import Forgetting
from tunelab.report.rates_content import SearchedRate
from tunelab.report.records import LATER, record_from_json, record_to_json
from tunelab.statistics.proportions import BOUNDS, interval_of_equal_values

#: Half-width of a 95 % interval in standard errors.
INTERVAL = 1.96

Verdict = Literal[
    "better",
    "worse",
    "no difference shown",
    "as good",
    "alike",
    "worse within margin",
    "better within margin",
    "worse beyond margin",
    "better beyond margin",
    "not known",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the study, with its answer in one sentence.

    Attributes:
        about: the comparison that answers it (a, b, benchmark, metric); () = none, or not known (older reports).
    """

    question: str
    answer: str
    verdict: Verdict
    about: tuple[str, ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True, slots=True)
class Arm:
    """A model that was evaluated, trained or not.

    Attributes:
        name: unique in the study; other parts refer to it.
        model, precision, adapter, data: its parts ("none" = no adapter).
        status: "done", "failed" (see `error`) or "missing" (never ran).
        error: the error message; "" = none.
        peak_memory_bytes: peak memory of the accelerator (on a CPU, of the process) in training and evaluation.
        start_memory_bytes: how much of it the process had before a model was loaded (Python and its libraries); None
            = memory of an accelerator, or unknown.
        training_seconds: of one run, mean over seeds; 0.0 = not trained.
        evaluation_seconds: of one run on all benchmarks, mean over seeds.
        tokens_per_second: in training; target and prompt tokens.
        trainable_parameters: 0 = not trained.
        disk_bytes: size of the adapter or weights that training wrote.
        cost: of one run in the report's currency, mean over seeds; None without a price per hour.
    """

    name: str
    model: str
    precision: str
    adapter: str
    data: str
    status: Literal["done", "failed", "missing"] = "done"
    error: str = ""
    peak_memory_bytes: float | None = None
    training_seconds: float | None = None
    evaluation_seconds: float | None = None
    tokens_per_second: float | None = None
    trainable_parameters: int | None = None
    disk_bytes: float | None = None
    cost: float | None = None
    start_memory_bytes: float | None = field(default=None, metadata=LATER)

    @property
    def parts(self) -> str:
        """Model, precision, adapter and data in one line; absent parts are omitted."""
        adapter = self.adapter if self.adapter != "none" else "full fine-tuning" if self.data else ""
        precision = "" if self.precision == "none" else self.precision
        return " · ".join(part for part in (self.model, precision, adapter, self.data) if part)


@dataclass(frozen=True, slots=True)
class ArmScore:
    """One score of one arm on one benchmark.

    Attributes:
        name: the metric ("accuracy").
        value: mean over seeds.
        error: standard error over items; None = not known.
        seed_error: standard error across seeds; None = one seed, or not known. Never combined with `error`.
        n: items.
        seeds: number of seeds that `value` is the mean over.
        unit: "0-1", "0-100", "per token".
        is_main: the headline metric of this benchmark; at most one per arm and benchmark.
        in_table: has a column in the table of arms, like main scores. Plots show only main scores.
        by_seed: the value of each seed; () = not known (older reports).
        is_blind: the metric cannot see the references, so that its value means nothing.
    """

    arm: str
    benchmark: str
    name: str
    value: float
    error: float | None
    seed_error: float | None
    n: int
    seeds: int
    unit: str
    higher_is_better: bool
    is_main: bool
    in_table: bool = field(default=False, metadata=LATER)
    by_seed: tuple[float, ...] = field(default=(), metadata=LATER)
    is_blind: bool = field(default=False, metadata=LATER)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval over items; None if the error is not known."""
        if self.error is None:
            return None
        if self.error == 0 and self.unit in BOUNDS:
            return interval_of_equal_values(self.value, self.n, *BOUNDS[self.unit])
        return self.value - INTERVAL * self.error, self.value + INTERVAL * self.error


@dataclass(frozen=True, slots=True)
class Published:
    """A published value for an arm, and the measured one.

    Attributes:
        benchmark: of the study, or the name of a cost ("peak memory").
        value: the published value, in `unit`.
        source: paper, model card or URL.
        unit: of both values; "" = not known, for example if no arm was scored on the benchmark.
        metric: the score's name; "" = the headline metric, or a cost.
        measured: None = not known.
        error: the measured score's standard error over items; None = not known, or a cost.
        model: the model that the value was published for, if another than the arm's; "" = the arm's.
        by_training: the published value of each training, whose mean `value` is; () = not known.
    """

    arm: str
    benchmark: str
    value: float
    source: str
    unit: str = ""
    metric: str = field(default="", metadata=LATER)
    measured: float | None = field(default=None, metadata=LATER)
    error: float | None = field(default=None, metadata=LATER)
    model: str = field(default="", metadata=LATER)
    by_training: tuple[float, ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two arms on the same items of one benchmark: b against a.

    Attributes:
        difference: b - a in the metric's unit, with its 95 % interval `low` to `high`, before correction.
        p, p_holm: two-sided; uncorrected, and with Holm's correction over the questions' comparisons, or over the
            exploratory ones.
        n: items that both answered.
        gained, lost: items that only b, or only a, answered right; None if answers are not right or wrong.
        detectable: the minimum detectable difference: the smallest true one that is shown with a power of 0.8.
        verdict: the comparison in words; `outcome` in a word, of b ("unknown" in older reports).
        seeds: number of training runs that both are means over.
        seed_error: standard error of the difference across seeds; None = one seed, or not known.
        unit, higher_is_better: of the metric; "" and None = not known (older reports).
        test: the test that p is from, and by what items are clustered; "" = not known (older reports).
        p_is_bound: whether p and p_holm are only upper bounds.
        could_be_shown: whether any answers to so many items could be significant.
        exploratory: whether no question asked for it.
        degrees: degrees of freedom of items and of trainings, if interval and p are over both; () = items alone.
        item_error: standard error over items alone, where interval and p are over trainings too.
        by_seed: the difference of each seed; () = not known (older reports), or the seeds cannot be paired.
    """

    a: str
    b: str
    benchmark: str
    metric: str
    difference: float
    low: float
    high: float
    p: float | None
    p_holm: float | None
    n: int
    gained: int | None
    lost: int | None
    detectable: float | None
    verdict: str
    seeds: int = field(default=1, metadata=LATER)
    seed_error: float | None = field(default=None, metadata=LATER)
    outcome: Verdict = field(default="unknown", metadata=LATER)
    unit: str = field(default="", metadata=LATER)
    higher_is_better: bool | None = field(default=None, metadata=LATER)
    test: str = field(default="", metadata=LATER)
    p_is_bound: bool = field(default=False, metadata=LATER)
    could_be_shown: bool = field(default=True, metadata=LATER)
    exploratory: bool = field(default=False, metadata=LATER)
    degrees: tuple[float, ...] = field(default=(), metadata=LATER)
    item_error: float | None = field(default=None, metadata=LATER)
    by_seed: tuple[float, ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True, slots=True)
class Flip:
    """An item that only one of two arms answered right; `kind` refers to b."""

    a: str
    b: str
    benchmark: str
    item: str
    kind: Literal["gained", "lost"]
    question: str
    text_a: str
    text_b: str
    target: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Loss of one arm and seed, in training and on other rows: (optimizer step, nats per target token)."""

    arm: str
    seed: int
    points: tuple[tuple[int, float], ...]
    held_out: tuple[tuple[int, float], ...] = field(default=(), metadata=LATER)
    validation: tuple[tuple[int, float], ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """A setting that differs between arms: arm -> value."""

    key: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StudyReport:
    """The content of a report.

    Attributes:
        created: date and time as shown.
        scores: in the order in which they are shown.
        flips_left_out: number of flips that are not in `flips`.
        not_proved: caveats, in sentences.
        provenance: sections ("versions", "recipe of lora") of key -> value; values may be multi-line.
        currency: of the costs ("USD").
        note: opens the report, before its title; "" = none.
        forgetting: what tuning changed on general texts; None = not measured.
        rates: of the tuned arms, if they were searched.
        rates_said: what the trials say, in sentences.
        rates_in_use: the sentence below the answers that says at which learning rates they hold; "" = not known.
        budgets: the tuned arms at each budget; None = the study has none.
        data_checks: what they found in the rows; None = not known.
    """

    title: str
    created: str
    questions: tuple[Question, ...] = ()
    arms: tuple[Arm, ...] = ()
    scores: tuple[ArmScore, ...] = ()
    published: tuple[Published, ...] = ()
    comparisons: tuple[PairedComparison, ...] = ()
    flips: tuple[Flip, ...] = ()
    flips_left_out: int = 0
    curves: tuple[Curve, ...] = ()
    not_proved: tuple[str, ...] = ()
    differences: tuple[SettingDifference, ...] = ()
    provenance: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    currency: str = ""
    note: str = field(default="", metadata=LATER)
    forgetting: Forgetting | None = field(default=None, metadata=LATER)
    rates: tuple[SearchedRate, ...] = field(default=(), metadata=LATER)
    rates_said: tuple[str, ...] = field(default=(), metadata=LATER)
    rates_in_use: str = field(default="", metadata=LATER)
    budgets: Budgets | None = field(default=None, metadata=LATER)
    data_checks: DataChecks | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        """Raises DataError if a part names an unknown arm, or if parts are duplicated."""
        _check_unique("arm", (arm.name for arm in self.arms))
        _check_unique("score", (f"{one.arm}, {one.benchmark}, {one.name}" for one in self.scores))
        _check_unique("main score", (f"{one.arm}, {one.benchmark}" for one in self.scores if one.is_main))
        known = {arm.name for arm in self.arms}
        for part, names in self._named_arms().items():
            if strangers := sorted(set(names) - known):
                raise DataError(
                    f"{part} of the report name {', '.join(map(repr, strangers))}: expected arms of the report "
                    f"({', '.join(map(repr, sorted(known)))})",
                    "list every arm in `arms`, including failed ones",
                )

    def _named_arms(self) -> dict[str, list[str]]:
        """The arm names used in each part of the report."""
        return {
            "scores": [one.arm for one in self.scores],
            "published": [one.arm for one in self.published],
            "comparisons": [name for one in self.comparisons for name in (one.a, one.b)],
            "flips": [name for one in self.flips for name in (one.a, one.b)],
            "curves": [one.arm for one in self.curves],
            "learning rates": [one.arm for one in self.rates],
            "differences": [name for one in self.differences for name in one.values],
            "budgets": [] if self.budgets is None else self.budgets.arms,
            "forgetting": [] if self.forgetting is None else [one.arm for one in self.forgetting.arms],
        }

    @property
    def benchmarks(self) -> list[str]:
        """Benchmarks with a main score, in the order of the scores."""
        return list(dict.fromkeys(score.benchmark for score in self.scores if score.is_main))

    def main_score(self, arm: str, benchmark: str) -> ArmScore | None:
        """The headline score of an arm on a benchmark; None if there is none."""
        found = (one for one in self.scores if one.is_main and (one.arm, one.benchmark) == (arm, benchmark))
        return next(found, None)

    def table_scores(self) -> list[ArmScore]:
        """One score (of any arm) for each metric with a column, grouped by benchmark, the main one first."""
        places = {name: place for place, name in enumerate(dict.fromkeys(one.benchmark for one in self.scores))}
        shown: dict[tuple[str, str], ArmScore] = {}
        for score in self.scores:
            if score.is_main or score.in_table:
                shown.setdefault((score.benchmark, score.name), score)
        return sorted(shown.values(), key=lambda one: (places[one.benchmark], not one.is_main))

    def score(self, arm: str, benchmark: str, name: str) -> ArmScore | None:
        """A score of an arm on a benchmark; None if there is none."""
        found = (one for one in self.scores if (one.arm, one.benchmark, one.name) == (arm, benchmark, name))
        return next(found, None)

    def published_of(self, arm: str, benchmark: str, name: str = "") -> list[Published]:
        """Published values for an arm's metric on a benchmark, of the arm's own model; "" = the headline metric."""
        own = [one for one in self.published if not one.model and (one.arm, one.benchmark) == (arm, benchmark)]
        if not own:
            return []
        headline = {"", *(one.name for one in self.scores if one.is_main and one.benchmark == benchmark)}
        names = headline if name in headline else {name}
        return [one for one in own if one.metric in names]

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = record_to_json(self)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StudyReport:
        """Raises RunError as record_from_json does, and DataError if parts are inconsistent."""
        return record_from_json(cls, value)


def write_report(path: Path, report: StudyReport) -> None:
    """Write the report as one JSON file, atomically."""
    write_json_atomically(path, stamped(report.to_json()))


def read_report(path: Path) -> StudyReport:
    """Read a report written by write_report.

    Raises:
        RunError: the file does not exist, or is not JSON, or not a report; names the file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no report here", "run the study first: tunelab study run STUDY.yaml") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not JSON: {error}", "render the report again from its study") from error
    try:
        return StudyReport.from_json(read_report_tree(value, path) if isinstance(value, dict) else value)
    except (RunError, DataError) as error:
        raise RunError(f"{path}: {error.message}", error.hint) from error


def _check_unique(kind: str, names: Iterable[str]) -> None:
    counts = Counter(names)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"the report has {kind} {twice[0]!r} more than once", "give each its own name")
