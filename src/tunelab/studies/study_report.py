"""Build a study's report from its directory: no model is loaded, only statistics are computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tunelab import plugins
from tunelab.comparison.evaluated import Evaluated, evaluated_in
from tunelab.comparison.paired_comparison import Comparison
from tunelab.config import Recipe
from tunelab.config.budgets import Budget
from tunelab.config.shareable import is_place, without_places
from tunelab.config.study import Study
from tunelab.cpu import collecting_rarely
from tunelab.records.asked import asked_late
from tunelab.records.cells import (
    Cell,
    asked_study,
    began_at,
    budgets_of_arm,
    evaluation_key,
    known_choices,
    read_study,
    seeds_of,
    training_key,
)
from tunelab.records.runs import Run
from tunelab.report.content import Arm, ArmScore, SettingDifference, StudyReport
from tunelab.report.data_checks_content import DataChecks
from tunelab.studies.arm_settings import method_name, model_name, setting_differences, settings_in_use, source_name
from tunelab.studies.benchmark_overlaps import stored_overlaps
from tunelab.studies.budgets_part import budget_curves, budgets_part
from tunelab.studies.data_checks import data_checks_caveat, data_checks_part
from tunelab.studies.forgetting_report import forgetting_part
from tunelab.studies.guessing import guessing
from tunelab.studies.published import Costs, published_figures, with_published
from tunelab.studies.rates_part import rates_in_use, rates_sentences, searched_rates
from tunelab.studies.report_parts import (
    TRAINED_ONCE,
    arm_scores,
    chosen_by_measured_rows,
    disk_bytes,
    evaluated_part,
    flips_of,
    headline_comparisons,
    held_out_rows,
    machine_and_versions,
    paired,
    run_provenance,
    trainable_parameters,
    training_curve,
    unlike_machines,
    unlike_protocols,
    unlike_training,
    unseen_references,
)
from tunelab.studies.setting_warnings import setting_warnings
from tunelab.studies.study_answers import study_answers

#: Recipe keys that always differ between arms and seeds.
_NOT_SETTINGS = ("out", "train.seed")


class _ReadOnce(Run):
    """A run whose manifest and recipe are read once: the parts of a report all ask for them."""

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return super().manifest

    @cached_property
    def recipe(self) -> Recipe:
        return super().recipe


@dataclass(frozen=True)
class _Found:
    """The contents of a study's directory."""

    study: Study
    folder: Path
    cells: dict[str, Cell]
    read: dict[str, Evaluated] = field(default_factory=dict)  # by the cell's key
    of_arms: dict[tuple[str, str, Budget | None], dict[int, Evaluated]] = field(default_factory=dict)
    opened: dict[tuple[str, Budget | None], list[tuple[int, Run]]] = field(default_factory=dict)

    def evaluated(self, arm: str, benchmark: str) -> list[Evaluated]:
        """Evaluations of an arm on a benchmark, at the largest budget, one per finished seed."""
        return list(self.evaluated_by_seed(arm, benchmark).values())

    def evaluated_by_seed(self, arm: str, benchmark: str, budget: Budget | None = None) -> dict[int, Evaluated]:
        """Evaluations of an arm on a benchmark, at a budget, by finished seed."""
        if (arm, benchmark, budget) not in self.of_arms:
            study = self.study.at(budget)
            keys = {seed: evaluation_key(study, arm, seed, benchmark) for seed in seeds_of(study, arm)}
            done = {seed: key for seed, key in keys.items() if self.cells[key].status == "done"}
            for key in done.values():
                if key not in self.read:
                    self.read[key] = evaluated_in(self.folder / self.cells[key].folder)[0]
            self.of_arms[arm, benchmark, budget] = {seed: self.read[key] for seed, key in done.items()}
        return self.of_arms[arm, benchmark, budget]

    def runs(self, arm: str, budget: Budget | None = None) -> list[tuple[int, Run]]:
        """The finished training runs of an arm, at the largest budget or another, with their seeds."""
        if not self.study.arms[arm].tuned:
            return []
        if (arm, budget) not in self.opened:
            study = self.study.at(budget)
            runs = [(seed, _ReadOnce(self.folder / "runs" / training_key(study, arm, seed))) for seed in study.seeds]
            self.opened[arm, budget] = [(seed, run) for seed, run in runs if run.is_done]
        return self.opened[arm, budget]

    def all_runs(self) -> Iterator[tuple[str, str, Run]]:
        """Every finished training: its arm, its budget and seed in words, its run."""
        for arm in self.study.arms:
            for budget in budgets_of_arm(self.study, arm):
                at = "" if budget is None else f"{budget.words}, "
                for seed, run in self.runs(arm, budget):
                    yield arm, f"{at}seed {seed}", run


@collecting_rarely()
def study_report(folder: Path | str) -> StudyReport:
    """The report of a study's directory, from the cells that are done.

    Raises:
        RunError: there is no study.
    """
    study, cells = read_study(folder)
    asked = asked_study(folder)
    chosen = known_choices(asked, Path(folder))
    found = _Found(study, Path(folder), {cell.key: cell for cell in cells})
    curves = budget_curves(study, found.runs, found.evaluated_by_seed)
    answers = study_answers(study, found.evaluated, asked_late(study, Path(folder)), curves)
    comparisons, refused = answers.comparisons, answers.refused
    arms = tuple(_arm(found, name) for name in study.arms)
    scores = [score for arm in study.arms for score in _scores(found, arm)]
    differences = list(_differences(study))
    shown, left_out = flips_of(comparisons, lambda arm, benchmark: found.evaluated(arm, benchmark)[0])
    created = began_at(Path(folder))
    checks = data_checks_part({(arm, at): run for arm, at, run in found.all_runs()}, stored_overlaps(Path(folder)))
    report = StudyReport(
        title=study.title,
        created=created,
        note=study.note,
        questions=with_published(answers.questions, study, scores),
        arms=arms,
        scores=tuple(scores),
        published=published_figures(study, scores, {arm.name: _costs(found, arm) for arm in arms}),
        comparisons=tuple(paired(one) for one in comparisons),
        flips=tuple(shown),
        flips_left_out=left_out,
        curves=tuple(
            curve for arm in study.arms for seed, run in found.runs(arm) for curve in training_curve(arm, seed, run)
        ),
        not_proved=tuple([*setting_warnings(asked), *_caveats(found, comparisons, checks), *refused]),
        differences=tuple(differences),
        provenance=_provenance(found),
        forgetting=forgetting_part(study.forgetting_pairs, list(study.benchmarks), found.evaluated, comparisons),
        rates=searched_rates(chosen),
        rates_said=tuple(rates_sentences(asked, chosen, cells, Path(folder))),
        rates_in_use=rates_in_use(study, chosen),
        budgets=budgets_part(study, curves, answers.matched, cells, searched=asked.search is not None),
        data_checks=checks,
    )
    return _without_places(report, study)


def _without_places(report: StudyReport, study: Study) -> StudyReport:
    """The report with a user's own benchmarks by their names: a study knows them by the places of their files."""
    names = {place: plugins.label(place) for place in study.benchmarks if is_place(place)}
    return StudyReport.from_json(_renamed(report.to_json(), names)) if names else report


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """JSON with each of these texts replaced wherever it is in a string."""
    if isinstance(value, dict):
        return {_renamed(key, names): _renamed(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    if isinstance(value, str):
        for place, name in names.items():
            value = value.replace(place, name)
    return value


def _arm(found: _Found, name: str) -> Arm:
    study, settings = found.study, found.study.arms[name]
    recipe = study.arm_recipe(name, study.seeds[0])
    runs = [run for _, run in found.runs(name)]
    trained = [run.manifest["trained"] for run in runs]
    cells = list(_cells_of_arm(found, name))
    failed = [cell for cell in cells if cell.status == "failed"]
    causes = [cell for cell in failed if not cell.benchmark] or failed  # cells that need a failed training fail with it
    done = all(cell.status == "done" for cell in cells)
    training = _mean([one["training_seconds"] for one in trained])
    seconds = _seconds_per_run(cells)
    evaluating = math.fsum(value for benchmark, value in seconds.items() if benchmark)
    hours = math.fsum(seconds.values()) / 3600
    peaks = [(cell.memory_bytes, cell.start_memory_bytes) for cell in cells if cell.memory_bytes is not None]
    peak, start = max(peaks, key=lambda one: one[0], default=(None, None))
    return Arm(
        name=name,
        model=model_name(recipe.model.name),
        precision=plugins.label(recipe.precision.name),
        adapter=method_name(recipe) if settings.tuned else "none",
        data=", ".join(source_name(one) for one in recipe.data.sources) if settings.tuned else "",
        status="failed" if failed else "done" if done else "missing",
        error="; ".join(dict.fromkeys(f"{cell.title}: {without_places(cell.error)}" for cell in causes)),
        peak_memory_bytes=peak,
        start_memory_bytes=start,
        training_seconds=training if settings.tuned else 0.0,
        evaluation_seconds=evaluating or None,
        tokens_per_second=_mean([one["tokens_per_second"] for one in trained]),
        trainable_parameters=trainable_parameters(runs[0]) if runs else (None if settings.tuned else 0),
        disk_bytes=disk_bytes(runs[0]) if runs else None,
        cost=hours * study.price_per_hour if study.price_per_hour is not None else None,
    )


def _seconds_per_run(cells: Sequence[Cell]) -> dict[str, float]:
    """Mean seconds of an arm's done jobs by benchmark ("" = training)."""
    done: dict[str, list[float]] = {}
    for cell in cells:
        if cell.status == "done":
            done.setdefault(cell.benchmark, []).append(cell.seconds)
    return {benchmark: math.fsum(seconds) / len(seconds) for benchmark, seconds in done.items()}


def _costs(found: _Found, arm: Arm) -> Costs:
    """Costs as publications report them: memory of training only."""
    runs = [run for _, run in found.runs(arm.name)]
    if not runs:
        return Costs(peak_bytes=arm.peak_memory_bytes)
    train = found.study.arm_recipe(arm.name, found.study.seeds[0]).train
    done = [run.manifest["trained"]["steps"] / run.manifest["steps"] for run in runs]  # below 1 after early stopping
    epochs = None if train.steps else train.epochs * math.fsum(done) / len(done)
    losses = [loss for run in runs if (loss := _final_loss(run)) is not None]
    peak = max(run.peak_memory[0] for run in runs)
    return Costs(peak, arm.training_seconds, epochs, _mean(losses))


def _final_loss(run: Run) -> float | None:
    """Mean training loss over the last tenth of the logged steps: a single step is mostly noise."""
    losses = [float(one["loss"]) for one in run.metrics("train")]
    return _mean(losses[-max(1, len(losses) // 10) :])


def _cells_of_arm(found: _Found, name: str) -> Iterator[Cell]:
    for seed in seeds_of(found.study, name):
        if found.study.arms[name].tuned:
            yield found.cells[training_key(found.study, name, seed)]
        for benchmark in found.study.benchmarks:
            yield found.cells[evaluation_key(found.study, name, seed, benchmark)]


def _scores(found: _Found, arm: str) -> Iterator[ArmScore]:
    study = found.study
    published = {one.score(study.benchmarks) for one in study.published}
    for benchmark in study.benchmarks:
        shown = {one[1] for one in published if one is not None and one[0] == benchmark}
        shown |= {metric for *_, on, metric in study.comparisons if on == benchmark and metric}
        yield from arm_scores(arm, benchmark, found.evaluated(arm, benchmark), in_table=shown)


def _differences(study: Study) -> Iterator[SettingDifference]:
    """Recipe keys that differ between arms."""
    settings = {
        arm: settings_in_use(study.arm_recipe(arm, study.seeds[0]), tuned=one.tuned) for arm, one in study.arms.items()
    }
    return setting_differences(settings, _NOT_SETTINGS)


def _caveats(found: _Found, comparisons: Sequence[Comparison], checks: DataChecks | None) -> Iterator[str]:
    study = found.study
    if len(study.seeds) == 1 and any(arm.tuned for arm in study.arms.values()):
        yield TRAINED_ONCE
    yield from _unlike_training(found)
    yield from unlike_protocols(headline_comparisons(comparisons))
    runs = {f"{arm}, {name}": run for arm, name, run in found.all_runs()}
    yield from chosen_by_measured_rows(runs)
    yield from unlike_machines(runs)
    yield from data_checks_caveat(checks)
    yield from unseen_references(
        one for benchmark in study.benchmarks for arm in study.arms for one in found.evaluated(arm, benchmark)
    )
    yield from guessing(
        (arm, one) for benchmark in study.benchmarks for arm in study.arms for one in found.evaluated(arm, benchmark)
    )
    yield from _limits(found)
    if any(one.exploratory for one in comparisons):
        yield "Comparisons that no question asks for are exploratory: they have a Holm correction of their own."
    yield "Holm's correction covers the comparisons of this report, not earlier ones."


def _limits(found: _Found) -> Iterator[str]:
    """Benchmarks that were evaluated on a subset of their items."""
    runs = [run for arm in found.study.arms for _, run in found.runs(arm)]
    rows = held_out_rows(runs[0]) if runs else None
    for benchmark in found.study.benchmarks:
        evaluated = [one for arm in found.study.arms for one in found.evaluated(arm, benchmark)]
        parts = dict.fromkeys(part for one in evaluated if (part := evaluated_part(one, rows)))
        if parts:
            yield f"{plugins.label(benchmark)} was evaluated on {' and '.join(parts)}: results on the rest may differ."


def _unlike_training(found: _Found) -> Iterator[str]:
    """Arms that, with the same seed, were trained on different rows or numbers of target tokens."""
    groups: dict[str, dict[str, Run]] = {}
    for arm, name, run in found.all_runs():
        groups.setdefault(f"with {name}", {})[arm] = run
    return unlike_training(groups)


def _provenance(found: _Found) -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    for arm, name, run in found.all_runs():
        sections.setdefault("machine and versions", machine_and_versions(run))
        sections[f"{arm}, {name}"] = run_provenance(run, str(run.path.relative_to(found.folder)))
    return sections


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
