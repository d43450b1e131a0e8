"""Two finished runs as the report of a study: scores, costs, comparisons, flips, and what they do not prove.

    report = compare_report("runs/full", "runs/lora")
    print(report.questions[0].answer)

Costs are what the runs' manifests say; of folders of evaluations they are not known. No model is loaded.
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

from tunelab.comparison.align import OF_THE_MODEL
from tunelab.comparison.compare_runs import Compared, compared
from tunelab.comparison.evaluated import Evaluated
from tunelab.comparison.paired_comparison import Comparison
from tunelab.config import Recipe
from tunelab.errors import UsageError
from tunelab.records.cells import STUDY_FILE
from tunelab.records.runs import Run, now
from tunelab.report.content import Arm, ArmScore, Curve, SettingDifference, StudyReport
from tunelab.studies.report_parts import (
    TRAINED_ONCE,
    answered,
    arm_scores,
    disk_bytes,
    flips_of,
    headline_comparisons,
    machine_and_versions,
    method_name,
    model_name,
    not_seen,
    paired,
    run_provenance,
    setting_differences,
    source_name,
    trainable_parameters,
    training_curve,
    unlike_training,
)


@dataclass(frozen=True)
class _Side:
    """One of the two: a run's tuned arm, its base, or evaluations of which no more is known.

    Args:
        name: unlike the other's.
        path: as it was given.
        evaluated: what is compared, benchmark by benchmark.
    """

    name: str
    path: Path
    evaluated: Sequence[Evaluated]

    @cached_property
    def run(self) -> Run | None:
        """The run that the evaluations are of; None where only these were given."""
        run = Run(self.path)
        return run if run.recipe_file.exists() else None

    @property
    def is_tuned(self) -> bool:
        """Whether the run's tuned arm was evaluated, not its base."""
        return all(one.arm == "tuned" for one in self.evaluated)

    @cached_property
    def training(self) -> Run | None:
        """The finished training of what was evaluated; None for a base, and where it is not known."""
        return self.run if self.run is not None and self.run.is_done and self.is_tuned else None

    @cached_property
    def recipe(self) -> Recipe | None:
        return self.run.recipe if self.run is not None else None

    @property
    def header(self) -> dict[str, Any]:
        """What made the first evaluation's answers."""
        header: dict[str, Any] = self.evaluated[0].content["header"]
        return header


def compare_report(
    a: Path | str,
    b: Path | str | None = None,
    *,
    benchmarks: Sequence[str] = (),
    allow_diff: Collection[str] = (),
    common_items_only: bool = False,
) -> StudyReport:
    """The report of two runs, or of a run and its base; arguments and errors are those of compare_runs().

    Raises:
        ConfigError: a run's recipe is wrong.
    """
    return report_of(compared(a, b, benchmarks=benchmarks, allow_diff=allow_diff, common_items_only=common_items_only))


def report_of(found: Compared) -> StudyReport:
    """The report of a comparison that was made."""
    names = found.names if found.with_base else _short_names(*found.paths)
    sides = [
        _Side(name, path, [pair[place] for pair in found.pairs])
        for place, (name, path) in enumerate(zip(names, found.paths, strict=True))
    ]
    comparisons = [dataclasses.replace(one, a_name=names[0], b_name=names[1]) for one in found.comparisons]
    evaluated = {(side.name, one.benchmark): one for side in sides for one in side.evaluated}
    flips, left_out = flips_of(comparisons, lambda arm, benchmark: evaluated[arm, benchmark])
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
        not_proved=tuple(_not_proved(sides, comparisons, found.only_in, found.with_base)),
        differences=tuple(_differences(sides)),
        provenance=_provenance(sides),
    )


def report_folder(path: Path | str) -> Path:
    """A directory that a report of two runs may be written into.

    Raises:
        UsageError: it is a file, or holds a study, whose own report would be lost.
    """
    folder = Path(path)
    if folder.is_file():
        raise UsageError(f"{folder}: is a file, expected a directory", "choose another with --out")
    if (folder / STUDY_FILE).exists():
        raise UsageError(f"{folder}: holds a study with its own report", "choose another directory with --out")
    return folder


def _short_names(a: Path, b: Path) -> tuple[str, str]:
    """The folders' names (a link's own), with as many folders above them as make them unlike."""
    first, second = Path(os.path.abspath(a)), Path(os.path.abspath(b))
    if first == second:
        return f"{first.name} (1)", f"{second.name} (2)"
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
        precision=recipe.precision.name,
        adapter=method_name(recipe) if tuned else "none",
        data=", ".join(source_name(one) for one in recipe.data.sources) if tuned else "",
        training_seconds=None if tuned else 0.0,
        trainable_parameters=None if tuned else 0,
    )
    if side.training is None:
        return arm
    manifest = side.training.manifest
    return dataclasses.replace(
        arm,
        peak_memory_bytes=manifest["peak_gpu_bytes"] or manifest["peak_resident_bytes"],
        training_seconds=manifest["trained"]["training_seconds"],
        tokens_per_second=manifest["trained"]["tokens_per_second"],
        trainable_parameters=trainable_parameters(side.training),
        disk_bytes=disk_bytes(side.training),
    )


def _arm_of_evaluations(side: _Side) -> Arm:
    """What the answers' header says of the model; costs, and what it was trained with, are not known."""
    header = side.header
    precision = header.get("precision") or "none"
    if isinstance(precision, dict):
        precision = str(precision.get("name", "unknown"))
    fingerprint = str(header.get("weights") or header.get("model") or "unknown model")
    model = header.get("model_name") or fingerprint[: len("sha256:") + 8]
    return Arm(side.name, model, precision, "adapter" if header.get("adapter") else "none", "")


def _scores(side: _Side, comparisons: Sequence[Comparison]) -> Iterator[ArmScore]:
    for one in side.evaluated:
        figures = {comparison.metric for comparison in comparisons if comparison.benchmark == one.benchmark}
        yield from arm_scores(side.name, one.benchmark, [one], in_table=figures)


def _curves(sides: Sequence[_Side]) -> Iterator[Curve]:
    for side in sides:
        if side.training is not None and side.recipe is not None:
            yield from training_curve(side.name, side.recipe.train.seed, side.training)


def _differences(sides: Sequence[_Side]) -> Iterator[SettingDifference]:
    """Keys of the recipes that are not the same; none where a recipe is not known."""
    settings = {
        side.name: side.recipe.model_dump(mode="json") | {"tuned": side.is_tuned}
        for side in sides
        if side.recipe is not None
    }
    return setting_differences(settings, ("out",)) if len(settings) == len(sides) else iter(())


def _not_proved(
    sides: Sequence[_Side], comparisons: Sequence[Comparison], only_in: Sequence[Sequence[str]], with_base: bool
) -> Iterator[str]:
    trained = {side.name: side.training for side in sides if side.training is not None}
    if trained:
        yield TRAINED_ONCE
        yield "Peak memory is that of training: what evaluating took in memory and time was not kept."
    yield from unlike_training({"": trained})
    for side in sides:
        if side.run is not None and not side.is_tuned and not with_base:
            yield f"{side.name} was measured as its base is, before its training: what that changed was not measured."
        if side.run is None:
            yield f"{side.name} is known by its evaluations alone: not how it was trained, nor what that took."
    yield from not_seen(comparisons)
    for one in headline_comparisons(comparisons):
        yield from _unlike_questions(one)
    for pair in zip(*(side.evaluated for side in sides), strict=True):
        yield from _limits(sides, pair)
    for side, names in zip(sides, only_in, strict=True):
        if names:
            yield f"Only {side.name} was scored on {', '.join(names)}: nothing is compared there."
    count = len(comparisons)
    family = f"{count} comparisons" if count > 1 else "one comparison"
    yield f"Holm's correction covers the {family} of this report, not those that were made before it or beside it."


def _unlike_questions(one: Comparison) -> Iterator[str]:
    """What a comparison left out, and in what the two were not asked alike."""
    if one.left_out:
        yield (
            f"{one.benchmark}: {one.left_out:,} items that only one of the two answered were left out of the "
            "comparison; each score is of all items that its model answered."
        )
    for key, (a, b) in one.differing.items():
        if not any(key == known or key.startswith(f"{known}.") for known in OF_THE_MODEL):
            values = f"{_shown(a)} ({one.a_name}), {_shown(b)} ({one.b_name})"
            yield f"{one.benchmark}: the two are not alike in {key}: {values}."


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _limits(sides: Sequence[_Side], pair: Sequence[Evaluated]) -> Iterator[str]:
    """Benchmarks of which not all items were asked."""
    said = {}
    for side, one in zip(sides, pair, strict=True):
        if one.is_held_out:
            rows = next(score["n"] for score in one.content["scores"])
            known = side.run.manifest.get("data", {}).get("held_out", {}).get("kept") if side.run is not None else None
            if known is not None and rows < known:
                said[side.name] = f"{rows:,} of {known:,} rows"
        elif limit := one.content["header"].get("limit"):
            said[side.name] = f"{limit:,} of its items"
    if said:
        words = dict.fromkeys(said.values())
        listed = next(iter(words)) if len(words) == 1 else ", ".join(f"{name} {text}" for name, text in said.items())
        yield f"{pair[0].benchmark} was asked {listed}: the rest may come out differently."


def _provenance(sides: Sequence[_Side]) -> dict[str, dict[str, str]]:
    machines = {side.name: machine_and_versions(side.training) for side in sides if side.training is not None}
    sections: dict[str, dict[str, str]] = {}
    if len({json.dumps(one) for one in machines.values()}) == 1:
        sections["machine and versions"] = next(iter(machines.values()))
    else:
        sections |= {f"{name}: machine and versions": one for name, one in machines.items()}
    for side in sides:
        sections[side.name] = run_provenance(side.training, str(side.path)) if side.training is not None else {}
        for one in side.evaluated:
            header = json.dumps(one.content["header"], ensure_ascii=False, indent=2)
            sections[side.name] |= {f"evaluation: {one.benchmark}": f"{one.folder}\n{header}"}
    return sections
