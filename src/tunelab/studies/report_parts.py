"""Parts of a report shared by studies and by comparisons of two runs; all take plain arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tunelab.comparison.align import OF_THE_MODEL
from tunelab.comparison.evaluated import Evaluated
from tunelab.comparison.paired_comparison import Comparison
from tunelab.comparison.verdict import outcome, verdict
from tunelab.config.shareable import shareable_yaml
from tunelab.evaluation.metrics.unseen import not_seen
from tunelab.records.runs import HELD_OUT, VALIDATION, Run
from tunelab.report.content import ArmScore, Curve, Flip, PairedComparison, Question
from tunelab.report.model_card import CARD
from tunelab.statistics.standard_errors import mean_with_error
from tunelab.studies.arm_settings import setting_text

MOST_FLIPS = 500  # per comparison

TRAINED_ONCE = (
    "Every tuned arm was trained once: the answers are about these models, not about the methods, and another training "
    "may answer otherwise."
)

#: Between the machines of one training's sessions.
AND_THEN = " and then "


def disk_bytes(run: Run) -> int:
    """Size in bytes of what training wrote: the adapter, or the whole model; without its card, which tells of times."""
    made = run.adapter if run.adapter.exists() else run.model
    return sum(file.stat().st_size for file in made.rglob("*") if file.is_file() and file.name != CARD)


def trainable_parameters(run: Run) -> int:
    """Number of trainable parameters of a started run."""
    trainable: int = run.manifest["model"]["digest"]["trainable"]
    return trainable


def arm_scores(
    arm: str, benchmark: str, seeds: Sequence[Evaluated], *, in_table: Collection[str] = ()
) -> Iterator[ArmScore]:
    """All scores of an arm on a benchmark: means over seeds, with the SE over items and the SE across seeds.

    Args:
        benchmark: its name in the report.
        seeds: the arm's evaluations, one per seed; empty = no scores.
        in_table: metrics that have a column besides the headline metric.
    """
    if not seeds:
        return
    by_seed = [one.content["scores"] for one in seeds]
    main = "completion_perplexity" if seeds[0].is_held_out else by_seed[0][0]["name"]
    for score in by_seed[0]:
        same = [one for scores in by_seed for one in scores if one["name"] == score["name"]]
        values = tuple(float(one["value"]) for one in same)
        known = [one["error"] for one in same if one["error"] is not None]
        spread = mean_with_error(values)
        yield ArmScore(
            arm=arm,
            benchmark=benchmark,
            name=score["name"],
            value=spread.value,
            # All seeds share the same items, so the SE over items does not shrink with more seeds.
            error=sum(known) / len(known) if known else None,
            seed_error=spread.error,
            n=score["n"],
            seeds=len(same),
            unit=score["unit"],
            higher_is_better=score["higher_is_better"],
            is_main=score["name"] == main,
            in_table=score["name"] in in_table and score["name"] not in seeds[0].blind_metrics,
            by_seed=values,
            is_blind=score["name"] in seeds[0].blind_metrics,
        )


def paired(one: Comparison) -> PairedComparison:
    """A comparison in the form that reports store."""
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
        seeds=one.seeds,
        seed_error=one.seed_error,
        exploratory=one.exploratory,
        degrees=tuple(degrees for _, degrees in one.parts),
        item_error=one.parts[0][0] if one.parts else None,
        by_seed=one.by_seed,
        outcome=outcome(one),
        unit=one.unit,
        higher_is_better=one.higher_is_better,
        test=one.test,
        p_is_bound=one.p_is_bound,
        could_be_shown=one.could_be_shown,
    )


def answered(ask: str, one: Comparison) -> Question:
    """The question whether b is better than a, and its answer."""
    said = as_sentence(verdict(one), (one.a_name, one.b_name))
    return Question(ask, said, outcome(one), (one.a_name, one.b_name, one.benchmark, one.metric))


def as_sentence(words: str, names: tuple[str, str]) -> str:
    """A verdict as a sentence; an arm's name is not capitalized."""
    return f"{words if words.startswith(names) else words[0].upper() + words[1:]}."


def headline_comparisons(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """For each pair of arms and benchmark, the comparison by the headline metric, which comes first."""
    found: dict[tuple[str, str, str], Comparison] = {}
    for one in comparisons:
        found.setdefault((one.a_name, one.b_name, one.benchmark), one)
    return list(found.values())


def flips_of(comparisons: Sequence[Comparison], evaluated: Callable[[str, str], Evaluated]) -> tuple[list[Flip], int]:
    """Items gained and lost by the headline metric, with both arms' answers; and how many more there are.

    Args:
        evaluated: gives the evaluation of an arm on a benchmark.
    """
    shown: list[Flip] = []
    left_out = 0
    for one in headline_comparisons(comparisons):
        flips = list(_flips(one, evaluated))
        shown += flips[:MOST_FLIPS]
        left_out += max(0, len(flips) - MOST_FLIPS)
    return shown, left_out


def _flips(one: Comparison, evaluated: Callable[[str, str], Evaluated]) -> Iterator[Flip]:
    if one.gained is None or one.lost is None:
        return
    sides = []
    for arm in (one.a_name, one.b_name):
        _, records = evaluated(arm, one.benchmark).responses
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


def training_curve(arm: str, seed: int, run: Run) -> Iterator[Curve]:
    """A run's loss in training, and on held-out and validation rows; nothing if no step was logged."""
    losses: dict[Any, dict[int, float]] = {}
    for one in run.metrics():
        losses.setdefault(one.get("kind"), {})[int(one["step"])] = float(one["loss"])
    points = losses.get("train")
    if points:
        measured = {
            split: _with_ends(losses.get(split, {}), split, run, max(points)) for split in (HELD_OUT, VALIDATION)
        }
        held_out, validation = (tuple(losses.items()) for losses in measured.values())
        yield Curve(arm, seed, tuple(points.items()), held_out, validation)


def _with_ends(losses: dict[int, float], split: str, run: Run, last: int) -> dict[int, float]:
    """Losses on a split by step, with those before the first step and after the last."""
    manifest = run.manifest
    before, after = (manifest.get(f"{split.replace('-', '_')}_loss_{when}") for when in ("before", "after"))
    if before is not None:
        losses = {0: float(before), **losses}
    if after is not None and not run.recipe.train.load_best_at_end:  # else it is that of an earlier step
        losses.setdefault(last, float(after))
    return losses


def unseen_references(evaluated: Iterable[Evaluated]) -> Iterator[str]:
    """Metrics that cannot see the references, one sentence per benchmark and reason."""
    yield from dict.fromkeys(f"{one.benchmark}: {said}." for one in evaluated for said in not_seen(one.scores))


def unlike_training(groups: Mapping[str, Mapping[str, Run]]) -> Iterator[str]:
    """Arms that were trained on different rows or numbers of target tokens.

    Args:
        groups: what the runs have in common ("with seed 0"; "" = nothing) -> arm -> its finished run.
    """
    rows: dict[str, dict[str, str]] = {}
    targets: dict[str, dict[str, str]] = {}
    for group, runs in groups.items():
        manifests = {arm: run.manifest for arm, run in runs.items()}
        rows[group] = {
            arm: one["data"]["train"]["sha256"].removeprefix("sha256:")[:8] for arm, one in manifests.items()
        }
        targets[group] = {arm: f"{one['trained']['targets']:,}" for arm, one in manifests.items()}
    for what, by_group in (("training rows (hashes)", rows), ("numbers of target tokens", targets)):
        unlike = [
            f"{group} {', '.join(f'{arm} {value}' for arm, value in values.items())}".lstrip()
            for group, values in by_group.items()
            if len(set(values.values())) > 1
        ]
        if unlike:
            listed = "; ".join(unlike)
            yield f"Arms were trained on different {what}: {listed}. This may explain differences between them."


def unlike_protocols(comparisons: Iterable[Comparison]) -> Iterator[str]:
    """Settings of evaluations that were allowed to differ and do, one sentence per benchmark and setting."""
    found: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for one in comparisons:
        for key, values in one.differing.items():
            if any(key == known or key.startswith(f"{known}.") for known in OF_THE_MODEL):
                continue
            arms_by_value = found.setdefault((one.benchmark, key), {})
            for arm, value in zip((one.a_name, one.b_name), values, strict=True):
                arms_by_value.setdefault(setting_text(value), {})[arm] = None
    for (benchmark, key), arms_by_value in found.items():
        listed = ", ".join(f"{value} ({', '.join(arms)})" for value, arms in arms_by_value.items())
        yield f"{benchmark}: {key} differs: {listed}."


def chosen_by_measured_rows(runs: Mapping[str, Run]) -> Iterator[str]:
    """A caveat if held-out rows, which the report measures, also chose weights or the step to stop at.

    Only trainings of before data.validation do.

    Args:
        runs: the displayed name of each training -> its finished run.
    """
    recipes = {name: run.recipe for name, run in runs.items()}
    names = [
        name
        for name, recipe in recipes.items()
        if recipe.data.validation == 0
        and (recipe.train.load_best_at_end or recipe.train.early_stopping_patience is not None)
    ]
    if names:
        yield (
            f"Held-out rows chose the weights, or the step to stop at, of {', '.join(names)}, and then measured them: "
            "their results on held-out rows look better than they are. data.validation gives rows to choose by."
        )


def unlike_machines(runs: Mapping[str, Run]) -> Iterator[str]:
    """A caveat if trainings, or the sessions of one, ran on unlike hardware or in unlike precision.

    Args:
        runs: the displayed name of each training ("lora, seed 0") -> its finished run.
    """
    by_machine: dict[str, list[str]] = {}
    for name, run in runs.items():
        if "compute" not in run.manifest:  # made by another tool, or before it was kept
            continue
        machines = dict.fromkeys(_machine(run.manifest["compute"], session) for session in run.manifest["sessions"])
        machine = AND_THEN.join(machines)
        by_machine.setdefault(f"{machine}, {run.recipe.train.dtype}", []).append(name)
    if len(by_machine) > 1 or any(AND_THEN in machine for machine in by_machine):
        listed = "; ".join(f"{'; '.join(names)} on {machine}" for machine, names in by_machine.items())
        yield f"Trainings ran on unlike hardware: {listed}. Their times and memory cannot be compared."


def _machine(compute: Mapping[str, Any], session: Mapping[str, Any]) -> str:
    """What a session of a training computed on; sessions of before do not say it, and had the last one's."""
    threads = session.get("threads", compute["threads"])
    return session.get("gpu", compute["gpu"]) or f"{session['environment']['processor']}, {threads} threads"


def machine_and_versions(run: Run) -> dict[str, str]:
    """Machine and library versions of a run's last session."""
    session = run.manifest["sessions"][-1]["environment"]
    return {
        "processor": f"{session['processor']}, {session['cores']} cores",
        "platform": str(session["platform"]),
        "python": str(session["python"]),
        "tunelab": str(session["tunelab"]),
        **{name: str(version) for name, version in session["libraries"].items() if version},
    }


def run_provenance(run: Run, place: str) -> dict[str, str]:
    """Hashes of a finished run's inputs and outputs, and its whole recipe.

    Args:
        place: its path, as shown in the report.
    """
    manifest = run.manifest
    return {
        "run": place,
        "model": manifest["model"]["fingerprint"],
        "modules": manifest["model"]["digest"]["sha256"],
        "training rows": manifest["data"]["train"]["sha256"],
        "held-out rows": manifest["data"]["held_out"]["sha256"],
        "weights after": str(manifest["weights_after"]),
        "target tokens": f"{manifest['trained']['targets']:,}",
        "recipe": shareable_yaml(run.recipe, has_local_base=bool(manifest["model"].get("path"))),
    }


def evaluated_part(one: Evaluated, held_out_rows: int | None) -> str | None:
    """How much of a benchmark an evaluation covers, such as "3 of 20 rows"; None if all of it, as far as is known.

    Args:
        held_out_rows: how many there are; None = unknown.
    """
    if one.is_held_out:
        rows = max(score["n"] for score in one.content["scores"])
        return f"{rows:,} of {held_out_rows:,} rows" if held_out_rows is not None and rows < held_out_rows else None
    header = one.content["header"]
    limit = header.get("limit")
    # With fewer items than the limit, all were evaluated.
    return f"{limit:,} of its items" if limit and header.get("items", limit) >= limit else None


def held_out_rows(run: Run | None) -> int | None:
    """The held-out rows of a run; None if there is no run, or if it does not tell."""
    kept: int | None = run.manifest.get("data", {}).get("held_out", {}).get("kept") if run is not None else None
    return kept
