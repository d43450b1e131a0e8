"""What a study found, put together from its directory: no model is loaded, nothing is computed anew but statistics."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab.compare.verdict import Comparison, correct, verdict
from tunelab.config import SourceSettings
from tunelab.config.study import HELD_OUT, Study
from tunelab.errors import TunelabError
from tunelab.report.content import (
    Arm,
    ArmScore,
    Curve,
    Flip,
    PairedComparison,
    Published,
    Question,
    SettingDifference,
    StudyReport,
)
from tunelab.responses import read_responses
from tunelab.runs import Run
from tunelab.statistics import mean_with_error
from tunelab.workflows.cells import Cell, evaluation_key, read_study, seeds_of, training_key
from tunelab.workflows.evaluated import Evaluated, evaluated_in
from tunelab.workflows.paired_evaluations import Side, compare_sides

MOST_FLIPS = 500  # of each comparison, that a report shows

#: Keys of a recipe in which arms and seeds differ by being arms and seeds.
_NOT_SETTINGS = ("out", "train.seed")


@dataclass(frozen=True)
class _Found:
    """A study's directory, as it was read."""

    study: Study
    folder: Path
    cells: dict[str, Cell]

    def folders(self, arm: str, benchmark: str) -> list[Path]:
        """What was scored of an arm on a benchmark, one folder a seed that is done."""
        keys = [evaluation_key(self.study, arm, seed, benchmark) for seed in seeds_of(self.study, arm)]
        return [self.folder / self.cells[key].folder for key in keys if self.cells[key].status == "done"]

    def evaluated(self, arm: str, benchmark: str) -> list[Evaluated]:
        """The same, read: one evaluation a seed that is done."""
        return [evaluated_in(folder)[0] for folder in self.folders(arm, benchmark)]

    def runs(self, arm: str) -> list[tuple[int, Run]]:
        """The finished trainings of an arm, with their seeds."""
        if not self.study.arms[arm].tuned:
            return []
        runs = [(seed, Run(self.folder / "runs" / training_key(self.study, arm, seed))) for seed in self.study.seeds]
        return [(seed, run) for seed, run in runs if run.is_done]


def study_report(folder: Path | str) -> StudyReport:
    """The report of a study's directory, as far as its cells are done.

    Raises:
        RunError: there is no study.
    """
    study, cells = read_study(folder)
    found = _Found(study, Path(folder), {cell.key: cell for cell in cells})
    comparisons, refused = _comparisons(found)
    scores = [score for arm in study.arms for score in _scores(found, arm)]
    differences = list(_differences(study))
    shown: list[Flip] = []
    left_out = 0
    # An item is gained or lost by the figure to quote, which is compared first.
    quoted: dict[tuple[str, str, str], Comparison] = {}
    for one in comparisons:
        quoted.setdefault((one.a_name, one.b_name, one.benchmark), one)
    for one in quoted.values():
        flips = list(_flips(found, one))
        shown += flips[:MOST_FLIPS]
        left_out += max(0, len(flips) - MOST_FLIPS)
    created = json.loads((Path(folder) / "created.json").read_text(encoding="utf-8"))["created"]
    return StudyReport(
        title=study.title,
        created=created,
        questions=tuple(_answers(found, comparisons)),
        arms=tuple(_arm(found, name) for name in study.arms),
        scores=tuple(scores),
        published=tuple(Published(one.arm, one.what, one.value, one.source) for one in study.published),
        comparisons=tuple(_paired(one) for one in comparisons),
        flips=tuple(shown),
        flips_left_out=left_out,
        curves=tuple(_curves(found)),
        not_proved=tuple([*_not_proved(found, comparisons), *refused]),
        differences=tuple(differences),
        provenance=_provenance(found),
    )


def _arm(found: _Found, name: str) -> Arm:
    study, settings = found.study, found.study.arms[name]
    recipe = study.arm_recipe(name, study.seeds[0])
    runs = [run.manifest for _, run in found.runs(name)]
    cells = list(_cells_of_arm(found, name))
    failed = [cell for cell in cells if cell.status == "failed"]
    causes = [cell for cell in failed if not cell.benchmark] or failed  # what needs a failed training fails with it
    done = all(cell.status == "done" for cell in cells)
    adapter = recipe.adapter
    trained = f"LoRA r {adapter.rank}" if adapter.kind == "lora" else "every weight"
    training = _mean([run["trained"]["training_seconds"] for run in runs])
    evaluating = sum(cell.seconds for cell in cells if cell.benchmark and cell.status == "done")
    hours = sum(cell.seconds for cell in cells if cell.status == "done") / 3600
    peaks = [cell.memory_bytes for cell in cells if cell.memory_bytes is not None]
    return Arm(
        name=name,
        model=Path(recipe.model.name).name if Path(recipe.model.name).is_dir() else recipe.model.name,
        precision=recipe.precision.name,
        adapter=trained if settings.tuned else "none",
        data=", ".join(_source_name(one) for one in recipe.data.sources) if settings.tuned else "",
        status="failed" if failed else "done" if done else "missing",
        error="; ".join(dict.fromkeys(f"{cell.title}: {cell.error}" for cell in causes)),
        peak_memory_bytes=max(peaks, default=None),
        training_seconds=training if settings.tuned else 0.0,
        evaluation_seconds=evaluating or None,
        tokens_per_second=_mean([run["trained"]["tokens_per_second"] for run in runs]),
        trainable_parameters=runs[0]["model"]["digest"]["trainable"] if runs else (None if settings.tuned else 0),
        disk_bytes=_size(found.runs(name)[0][1]) if runs else None,
        cost=hours * study.price_per_hour if study.price_per_hour is not None else None,
    )


def _source_name(source: SourceSettings) -> str:
    """As a reader knows it: a file by its own name, which a source's layout is read from."""
    return Path(source.path).name if source.path else source.name


def _cells_of_arm(found: _Found, name: str) -> Iterator[Cell]:
    for seed in seeds_of(found.study, name):
        if found.study.arms[name].tuned:
            yield found.cells[training_key(found.study, name, seed)]
        for benchmark in found.study.benchmarks:
            yield found.cells[evaluation_key(found.study, name, seed, benchmark)]


def _size(run: Run) -> int:
    made = run.adapter if run.adapter.exists() else run.model
    return sum(file.stat().st_size for file in made.rglob("*") if file.is_file())


def _scores(found: _Found, arm: str) -> Iterator[ArmScore]:
    """Every figure of an arm: the mean over its seeds, with the error between items, and that between seeds."""
    for benchmark in found.study.benchmarks:
        by_seed = [_stored_scores(folder) for folder in found.folders(arm, benchmark)]
        if not by_seed:
            continue
        main = "response_perplexity" if benchmark == HELD_OUT else by_seed[0][0]["name"]
        for score in by_seed[0]:
            values = [one["value"] for scores in by_seed for one in scores if one["name"] == score["name"]]
            errors = [one["error"] for scores in by_seed for one in scores if one["name"] == score["name"]]
            known = [error for error in errors if error is not None]
            spread = mean_with_error(values)
            yield ArmScore(
                arm=arm,
                benchmark=benchmark,
                name=score["name"],
                value=spread.value,
                # Items are the same for all seeds: their error does not shrink with the number of seeds.
                error=sum(known) / len(known) if known else None,
                seed_error=spread.error,
                n=score["n"],
                seeds=len(values),
                unit=score["unit"],
                higher_is_better=score["higher_is_better"],
                is_main=score["name"] == main,
            )


def _stored_scores(folder: Path) -> list[dict[str, Any]]:
    scores: list[dict[str, Any]] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["scores"]
    return scores


def _comparisons(found: _Found) -> tuple[list[Comparison], list[str]]:
    """All that the study compares, corrected together; and what could not be compared, in sentences."""
    made: dict[tuple[str, str, str, str], Comparison] = {}
    refused: dict[tuple[str, str, str, str], list[str]] = {}
    for a, b, benchmark, metric in found.study.comparisons:
        first, second = Side(a, found.evaluated(a, benchmark)), Side(b, found.evaluated(b, benchmark))
        if not first.seeds or not second.seeds:
            continue
        try:
            # A question may name the figure to quote, which is compared once.
            name = first.seeds[0].metric(metric).name
            if (a, b, benchmark, name) not in made:
                one = compare_sides(first, second, name, but_for=("template",))
                made[a, b, benchmark, name] = dataclasses.replace(one, benchmark=benchmark)
        except TunelabError as error:
            refused.setdefault((a, b, benchmark, error.message), []).append(metric or "its figure to quote")
    sentences = []
    for (a, b, benchmark, message), metrics in refused.items():
        sentences.append(f"{a} and {b} were not compared on {benchmark} by {', '.join(metrics)}: {message}")
    return correct(list(made.values())), sentences


def _paired(one: Comparison) -> PairedComparison:
    return PairedComparison(
        a=one.a_name,
        b=one.b_name,
        benchmark=one.benchmark,
        metric=one.metric,
        difference=one.difference,
        low=one.low,
        high=one.high,
        p=one.p,
        p_holm=one.p_holm,
        n=one.n,
        gained=None if one.gained is None else len(one.gained),
        lost=None if one.lost is None else len(one.lost),
        detectable=one.detectable,
        verdict=verdict(one),
    )


def _answers(found: _Found, comparisons: Sequence[Comparison]) -> Iterator[Question]:
    for question in found.study.questions:
        arms = (question.than, question.is_better)
        measured = [found.evaluated(arm, question.on) for arm in arms]
        metric = question.decided_by or (measured[0][0].metric().name if measured[0] else "")
        asked = (*arms, question.on, metric)
        chosen = [one for one in comparisons if (one.a_name, one.b_name, one.benchmark, one.metric) == asked]
        if not chosen:
            why = f"could not be compared by {metric}" if all(measured) else "were not both measured"
            yield Question(question.ask, f"Unknown: the two arms {why}.", "unknown")
            continue
        one = chosen[0]
        better = (one.difference > 0) == one.higher_is_better
        words = verdict(one)
        said = words if words.startswith(arms) else words[0].upper() + words[1:]  # an arm's name stays as it is
        yield Question(question.ask, f"{said}.", ("better" if better else "worse") if one.shown else "no difference")


def _flips(found: _Found, one: Comparison) -> Iterator[Flip]:
    if one.gained is None or one.lost is None:
        return
    sides = []
    for arm in (one.a_name, one.b_name):
        _, records = read_responses(found.folders(arm, one.benchmark)[0] / "responses.jsonl")
        sides.append({record["item"]: record for record in records})
    kinds: tuple[tuple[Any, Sequence[str]], ...] = (("gained", one.gained), ("lost", one.lost))
    for kind, items in kinds:
        for item in items:
            a, b = sides[0][item], sides[1][item]
            texts = (_answer(a), _answer(b))
            target = a["target"] if isinstance(a["target"], str) else json.dumps(a["target"], ensure_ascii=False)
            if a["choices"] and isinstance(a["target"], int):
                target = a["choices"][a["target"]].strip()
            yield Flip(one.a_name, one.b_name, one.benchmark, item, kind, a["question"], *texts, target)


def _answer(record: Mapping[str, Any]) -> str:
    if not record["choices"]:
        return str(record["text"])
    likeliest = max(range(len(record["choices"])), key=lambda place: record["log_probabilities"][place])
    return str(record["choices"][likeliest]).strip()


def _curves(found: _Found) -> Iterator[Curve]:
    for arm in found.study.arms:
        for seed, run in found.runs(arm):
            points = tuple((int(one["step"]), float(one["loss"])) for one in run.metrics("train"))
            if points:
                yield Curve(arm, seed, points)


def _differences(study: Study) -> Iterator[SettingDifference]:
    """Keys of the recipes that are not the same in all arms."""
    flat = {arm: dict(_flat(study.arm_recipe(arm, study.seeds[0]).model_dump(mode="json"))) for arm in study.arms}
    for arm, settings in study.arms.items():
        flat[arm]["tuned"] = settings.tuned
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    for key in keys:
        if key in _NOT_SETTINGS:
            continue
        values = {arm: json.dumps(one.get(key), ensure_ascii=False) for arm, one in flat.items()}
        if len(set(values.values())) > 1:
            yield SettingDifference(key, values)


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _not_proved(found: _Found, comparisons: Sequence[Comparison]) -> Iterator[str]:
    study = found.study
    if len(study.seeds) == 1 and any(arm.tuned for arm in study.arms.values()):
        yield "Every tuned arm was trained once: how much a result changes from seed to seed is not known."
    yield from _unlike_training(found)
    for one in comparisons:
        if not one.shown and one.detectable:
            yield (
                f"{one.b_name} and {one.a_name} on {one.benchmark}: {one.n:,} items show only differences of about "
                f"{one.detectable:.3g} ({one.metric}, {one.unit}) or more; a smaller one may be there."
            )
    for benchmark, options in study.benchmarks.items():
        if "limit" in options:
            yield f"{benchmark} was asked {options['limit']} of its items: the rest may come out differently."
    yield "Holm's correction covers the comparisons of this report, not those that were tried before it."


def _unlike_training(found: _Found) -> Iterator[str]:
    """Arms that with the same seed did not see the same rows, or as many target tokens."""
    rows: dict[int, dict[str, str]] = {}
    targets: dict[int, dict[str, str]] = {}
    for arm in found.study.arms:
        for seed, run in found.runs(arm):
            manifest = run.manifest
            rows.setdefault(seed, {})[arm] = manifest["data"]["train"]["sha256"].removeprefix("sha256:")[:8]
            targets.setdefault(seed, {})[arm] = f"{manifest['trained']['targets']:,}"
    for what, by_seed in (("training rows (their hash)", rows), ("numbers of target tokens", targets)):
        unlike = [
            f"with seed {seed} {', '.join(f'{arm} {value}' for arm, value in values.items())}"
            for seed, values in by_seed.items()
            if len(set(values.values())) > 1
        ]
        if unlike:
            listed = "; ".join(unlike)
            yield f"Arms were trained on unlike {what}: {listed}. What differs between them may come of that."


def _provenance(found: _Found) -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    for arm in found.study.arms:
        for seed, run in found.runs(arm):
            manifest = run.manifest
            session = manifest["sessions"][-1]["environment"]
            sections.setdefault(
                "machine and versions",
                {
                    "processor": f"{session['processor']}, {session['cores']} cores",
                    "platform": str(session["platform"]),
                    "python": str(session["python"]),
                    "tunelab": str(session["tunelab"]),
                    **{name: str(version) for name, version in session["libraries"].items() if version},
                },
            )
            sections[f"{arm}, seed {seed}"] = {
                "run": str(run.path.relative_to(found.folder)),
                "model": manifest["model"]["fingerprint"],
                "modules": manifest["model"]["digest"]["sha256"],
                "training rows": manifest["data"]["train"]["sha256"],
                "held-out rows": manifest["data"]["held_out"]["sha256"],
                "weights after": str(manifest["weights_after"]),
                "target tokens": f"{manifest['trained']['targets']:,}",
                "recipe": run.recipe_file.read_text(encoding="utf-8"),
            }
    return sections


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
