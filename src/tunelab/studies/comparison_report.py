"""The report of two finished runs, like a study's: scores, costs, comparisons, flips, and caveats.

    report = compare_report("runs/full", "runs/lora")
    print(report.questions[0].answer)

Costs come from the runs' manifests; they are unknown for evaluation folders. No model is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tunelab import plugins
from tunelab.comparison.compare_runs import Compared, compared
from tunelab.comparison.evaluated import Evaluated
from tunelab.comparison.paired_comparison import Comparison
from tunelab.config import Recipe
from tunelab.config.shareable import shareable_tree
from tunelab.errors import UsageError
from tunelab.records.cells import STUDY_FILE
from tunelab.records.runs import Run, now
from tunelab.report.content import Arm, ArmScore, Curve, SettingDifference, StudyReport
from tunelab.report.forgetting_content import Forgetting
from tunelab.studies.arm_settings import method_name, model_name, setting_differences, settings_in_use, source_name
from tunelab.studies.data_checks import data_checks_caveat, data_checks_part
from tunelab.studies.forgetting_report import forgetting_part
from tunelab.studies.guessing import guessing
from tunelab.studies.report_parts import (
    TRAINED_ONCE,
    answered,
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


@dataclass(frozen=True)
class _Side:
    """One of the two: a run's tuned arm, its base, or evaluations without a run.

    Args:
        name: differs from the other's.
        path: as given.
        evaluated: the evaluations to compare, one per benchmark.
    """

    name: str
    path: Path
    evaluated: Sequence[Evaluated]

    @cached_property
    def run(self) -> Run | None:
        """The run that was evaluated; None if only evaluations were given."""
        run = Run(self.path)
        return run if run.recipe_file.exists() else None

    @property
    def is_tuned(self) -> bool:
        """Whether the tuned arm was evaluated (else the base)."""
        return all(one.arm == "tuned" for one in self.evaluated)

    @cached_property
    def training(self) -> Run | None:
        """The finished training run that was evaluated; None for a base, or if unknown."""
        return self.run if self.run is not None and self.run.is_done and self.is_tuned else None

    @cached_property
    def recipe(self) -> Recipe | None:
        return self.run.recipe if self.run is not None else None

    @property
    def header(self) -> dict[str, Any]:
        """The header of the first evaluation's responses."""
        header: dict[str, Any] = self.evaluated[0].content["header"]
        return header


def compare_report(
    a: Run | Path | str,
    b: Run | Path | str | None = None,
    *,
    benchmarks: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    allow_diff: str | Collection[str] = (),
    common_items_only: bool = False,
) -> StudyReport:
    """The report of two runs, or of a run and its base; arguments and errors as in compare_runs().

    Raises:
        ConfigError: a run's recipe is invalid.
    """
    found = compared(
        a, b, benchmarks=benchmarks, metrics=metrics, allow_diff=allow_diff, common_items_only=common_items_only
    )
    return report_of(found)


def report_of(found: Compared) -> StudyReport:
    """The report of a comparison."""
    names = found.names if found.with_base else _short_names(*found.paths)
    sides = [
        _Side(name, path, [pair[place] for pair in found.pairs])
        for place, (name, path) in enumerate(zip(names, found.paths, strict=True))
    ]
    comparisons = [dataclasses.replace(one, a_name=names[0], b_name=names[1]) for one in found.comparisons]
    evaluated = {(side.name, one.benchmark): one for side in sides for one in side.evaluated}
    flips, left_out = flips_of(comparisons, lambda arm, benchmark: evaluated[arm, benchmark])
    checks = data_checks_part({(side.name, ""): side.training for side in sides if side.training is not None})
    return StudyReport(
        title=f"{names[1]} against {names[0]}"
        + (f" ({os.path.basename(os.path.abspath(found.paths[0]))})" if found.with_base else ""),
        created=now(),
        questions=tuple(
            answered(f"Is {one.b_name} better than {one.a_name} on {one.benchmark}?", one)
            for one in headline_comparisons(comparisons)
        ),
        arms=tuple(_arm(side) for side in sides),
        scores=tuple(score for side in sides for score in _scores(side, comparisons)),
        comparisons=tuple(paired(one) for one in comparisons),
        flips=tuple(flips),
        flips_left_out=left_out,
        curves=tuple(_curves(sides)),
        not_proved=(
            *_caveats(sides, comparisons, found.only_in, found.with_base),
            *(f"{said}." for said in found.left_out),
            *data_checks_caveat(checks),
        ),
        differences=tuple(_differences(sides)),
        provenance=_provenance(sides),
        forgetting=_forgetting(found, sides, comparisons),
        data_checks=checks,
    )


def _forgetting(found: Compared, sides: Sequence[_Side], comparisons: Sequence[Comparison]) -> Forgetting | None:
    """What a run lost against its base; None for two runs."""
    evaluations = {(side.name, one.benchmark): [one] for side in sides for one in side.evaluated}
    pairs = [(sides[0].name, sides[1].name)] if found.with_base else []
    benchmarks = [one.benchmark for one in sides[0].evaluated]
    return forgetting_part(pairs, benchmarks, lambda arm, name: evaluations.get((arm, name), []), comparisons)


def report_folder(path: Path | str) -> Path:
    """Check that the report of two runs can be written to a directory.

    Raises:
        UsageError: it is a file, or contains a study, whose report would be overwritten.
    """
    folder = Path(path)
    if folder.is_file():
        raise UsageError(f"{folder}: is a file, expected a directory", "choose another one with --out")
    if (folder / STUDY_FILE).exists():
        raise UsageError(f"{folder}: contains a study with its own report", "choose another directory with --out")
    return folder


def _short_names(a: Path, b: Path) -> tuple[str, str]:
    """The folders' names (symlinks not resolved), with as many parent folders as needed to make them distinct."""
    first, second = Path(os.path.abspath(a)), Path(os.path.abspath(b))
    for count in range(1, max(len(first.parts), len(second.parts))):
        names = ["/".join(path.parts[1:][-count:]) for path in (first, second)]
        if names[0] != names[1]:
            break
    return names[0], names[1]


def _arm(side: _Side) -> Arm:
    if side.recipe is None:
        return _arm_of_evaluations(side)
    recipe, tuned = side.recipe, side.is_tuned
    arm = Arm(
        name=side.name,
        model=model_name(recipe.model.name),
        precision=plugins.label(recipe.precision.name),
        adapter=method_name(recipe) if tuned else "none",
        data=", ".join(source_name(one) for one in recipe.data.sources) if tuned else "",
        training_seconds=None if tuned else 0.0,
        trainable_parameters=None if tuned else 0,
    )
    if side.training is None:
        return arm
    manifest = side.training.manifest
    peak, start = side.training.peak_memory
    return dataclasses.replace(
        arm,
        peak_memory_bytes=peak,
        start_memory_bytes=start,
        training_seconds=manifest["trained"]["training_seconds"],
        tokens_per_second=manifest["trained"]["tokens_per_second"],
        trainable_parameters=trainable_parameters(side.training),
        disk_bytes=disk_bytes(side.training),
    )


def _arm_of_evaluations(side: _Side) -> Arm:
    """The arm from the responses' header; costs and training data are unknown."""
    header = side.header
    precision = header.get("precision") or "none"
    if isinstance(precision, dict):
        precision = str(precision.get("name", "unknown"))
    fingerprint = str(header.get("weights") or header.get("model") or "unknown model")
    model = model_name(header["model_name"]) if header.get("model_name") else fingerprint[: len("sha256:") + 8]
    return Arm(side.name, model, plugins.label(precision), "adapter" if header.get("adapter") else "none", "")


def _scores(side: _Side, comparisons: Sequence[Comparison]) -> Iterator[ArmScore]:
    for one in side.evaluated:
        figures = {comparison.metric for comparison in comparisons if comparison.benchmark == one.benchmark}
        yield from arm_scores(side.name, one.benchmark, [one], in_table=figures)


def _curves(sides: Sequence[_Side]) -> Iterator[Curve]:
    for side in sides:
        if side.training is not None and side.recipe is not None:
            yield from training_curve(side.name, side.recipe.train.seed, side.training)


def _differences(sides: Sequence[_Side]) -> Iterator[SettingDifference]:
    """Recipe keys that differ; none if a recipe is unknown."""
    settings = {
        side.name: settings_in_use(side.recipe, tuned=side.is_tuned) for side in sides if side.recipe is not None
    }
    return setting_differences(settings, ("out",)) if len(settings) == len(sides) else iter(())


def _caveats(
    sides: Sequence[_Side], comparisons: Sequence[Comparison], only_in: Sequence[Sequence[str]], with_base: bool
) -> Iterator[str]:
    trained = {side.name: side.training for side in sides if side.training is not None}
    if trained:
        yield TRAINED_ONCE
        yield "Peak memory is that of training: memory and time of the evaluation were not recorded."
    yield from unlike_training({"": trained})
    yield from chosen_by_measured_rows(trained)
    yield from unlike_machines(trained)
    yield from unseen_references(one for side in sides for one in side.evaluated)
    yield from guessing((side.name, one) for side in sides for one in side.evaluated)
    for side in sides:
        if side.run is not None and not side.is_tuned and not with_base:
            yield f"{side.name} was evaluated as its base, before training: the effect of training was not measured."
        if side.run is None:
            yield f"{side.name} has only evaluations: how it was trained, and at what cost, is not known."
    headlines = headline_comparisons(comparisons)
    for one in headlines:
        yield from _left_out(one)
    yield from unlike_protocols(headlines)
    for pair in zip(*(side.evaluated for side in sides), strict=True):
        yield from _limits(sides, pair)
    for side, names in zip(sides, only_in, strict=True):
        if names:
            yield f"Only {side.name} was scored on {', '.join(names)}: no comparison."
    count = len(comparisons)
    family = f"{count} comparisons" if count > 1 else "one comparison"
    yield f"Holm's correction covers the {family} of this report, not comparisons made elsewhere."


def _left_out(one: Comparison) -> Iterator[str]:
    """Items that a comparison left out."""
    if one.left_out:
        yield (
            f"{one.benchmark}: {one.left_out:,} items that only one of the two answered were left out of the "
            "comparison; each score covers all items that its model answered."
        )


def _limits(sides: Sequence[_Side], pair: Sequence[Evaluated]) -> Iterator[str]:
    """Benchmarks that were evaluated on a subset of their items."""
    said = {}
    for side, one in zip(sides, pair, strict=True):
        if part := evaluated_part(one, held_out_rows(side.run)):
            said[side.name] = part
    if said:
        words = dict.fromkeys(said.values())
        listed = next(iter(words)) if len(words) == 1 else ", ".join(f"{name} {text}" for name, text in said.items())
        yield f"{pair[0].benchmark} was evaluated on {listed}: results on the rest may differ."


def _provenance(sides: Sequence[_Side]) -> dict[str, dict[str, str]]:
    machines = {side.name: machine_and_versions(side.training) for side in sides if side.training is not None}
    sections: dict[str, dict[str, str]] = {}
    if len({json.dumps(one) for one in machines.values()}) == 1:
        sections["machine and versions"] = next(iter(machines.values()))
    else:
        sections |= {f"{name}: machine and versions": one for name, one in machines.items()}
    for side in sides:
        sections[side.name] = (
            run_provenance(side.training, side.path.resolve().name) if side.training is not None else {}
        )
        for one in side.evaluated:
            header = json.dumps(shareable_tree(one.content["header"]), ensure_ascii=False, indent=2)
            sections[side.name] |= {f"evaluation: {one.benchmark}": f"{one.folder.name}\n{header}"}
    return sections
