"""Training rows that share text with the items that a study evaluates on, looked for before its first training.

What was found is kept in the study's directory, with what it follows from, so that a study that resumes does not look
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunelab import plugins
from tunelab.answering.benchmark_items import LoadedBenchmark, load_benchmarks, texts_of
from tunelab.config import Recipe
from tunelab.config.questions import HELD_OUT
from tunelab.config.study import Study
from tunelab.errors import RunError, TunelabError
from tunelab.files import read_json, write_json_atomically
from tunelab.linting import benchmark_overlap
from tunelab.linting.finding import Finding
from tunelab.progress import Progress, silent
from tunelab.report.records import record_from_json, record_to_json
from tunelab.units import format_names

#: In the study's directory.
OVERLAPS_FILE = "overlaps.json"


@dataclass(frozen=True)
class ArmsFinding:
    """An overlap of the rows that these arms are trained on."""

    arms: tuple[str, ...]
    finding: Finding


@dataclass(frozen=True)
class Overlaps:
    """What the comparison of rows and items found.

    Attributes:
        identity: hash of what it follows from.
        compared: the benchmarks, in words ("mmlu (12 of its 114 items are too short to be found)").
        findings: one per benchmark and set of rows.
        notes: what could not be compared, in sentences.
    """

    identity: str
    compared: tuple[str, ...]
    findings: tuple[ArmsFinding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """What was found and what could not be compared, for whoever starts the study."""
        return [*(_said(one) for one in self.findings), *self.notes]


def study_overlaps(study: Study, folder: Path, progress: Progress = silent, *, keep: bool = True) -> Overlaps | None:
    """Training rows of a study's arms that have 13 words in a row of an item that it evaluates on.

    Args:
        folder: the study's directory; what it has is returned if rows and items are the same.
        keep: write what was found there, unless rows could not be read.

    Returns:
        None if the study trains nothing, or has no benchmark but held-out rows.
    """
    from tunelab.preparation.lint import overlaps  # imports torch; a report, which reads what is kept, does not

    arms = _arms_by_rows(study)
    names = [name for name in study.benchmarks if name != HELD_OUT]
    if not arms or not names:
        return None
    loaded, notes = _loaded(study, names)
    identity = _identity(list(arms), loaded, notes)
    stored = stored_overlaps(folder)
    if stored is not None and stored.identity == identity:
        return stored
    items = {one.label: texts_of(one.items) for one in loaded}
    findings: list[ArmsFinding] = []
    unread: list[str] = []
    for of_arms in arms.values():
        recipe = study.arm_recipe(of_arms[0], study.seeds[0])
        try:
            findings += [ArmsFinding(of_arms, one) for one in overlaps(recipe, items, progress)]
        except TunelabError as error:  # its trainings will say so too, and are recorded as failed
            unread.append(f"the rows of {format_names(of_arms)} were not compared with benchmarks: {error.message}")
    found = Overlaps(identity, tuple(_compared(items)), tuple(findings), (*notes, *unread))
    if keep and not unread:
        write_json_atomically(folder / OVERLAPS_FILE, record_to_json(found))
    return found


def stored_overlaps(folder: Path) -> Overlaps | None:
    """What a study's directory has; None if nothing was looked for, or the file is damaged: it is written anew."""
    try:
        return record_from_json(Overlaps, read_json(folder / OVERLAPS_FILE))
    except (OSError, RunError):
        return None


def _said(one: ArmsFinding) -> str:
    found = one.finding
    example = "".join(f" First: {shown.row}: {shown.shown[:120]}" for shown in found.examples[:1])
    return f"warning: {format_names(one.arms)}: {found.check}: {found.what}; {found.why}.{example}"


def _arms_by_rows(study: Study) -> dict[str, tuple[str, ...]]:
    """The tuned arms by what decides which rows they are trained on."""
    found: dict[str, tuple[str, ...]] = {}
    for arm, one in study.arms.items():
        if one.tuned:
            rows = _rows_of(study.arm_recipe(arm, study.seeds[0]))
            found[rows] = (*found.get(rows, ()), arm)
    return found


def _rows_of(recipe: Recipe) -> str:
    from tunelab.models.planned_size import file_state  # imports transformers

    data = recipe.data.model_dump(mode="json", exclude={"allow", "loss_on", "max_length", "on_overflow", "date"})
    if recipe.data.thoughts != "each":  # else the template says which answers are rows of their own
        del data["template"], data["chat_template"]
    places = [Path(one.path) for one in recipe.data.sources if one.path]
    states = [file_state(place) for place in places if place.is_file()]
    tokenizer = recipe.model.tokenizer or recipe.model.name if recipe.data.thoughts == "each" else None
    return json.dumps([data, states, tokenizer], default=str)


def _loaded(study: Study, names: Sequence[str]) -> tuple[list[LoadedBenchmark], list[str]]:
    """The benchmarks with the items that the study evaluates on; and those whose items cannot be read, in sentences."""
    loaded, notes = [], []
    for name in names:
        options = {plugins.label(name): study.own_options(name)}
        try:
            loaded += load_benchmarks([name], options, study.benchmarks[name].get("limit"))
        except TunelabError as error:
            notes.append(f"rows were not compared with {plugins.label(name)}: {error.message}")
    return loaded, notes


def _identity(rows: Sequence[str], loaded: Sequence[LoadedBenchmark], notes: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps([rows, [one.header for one in loaded], notes], default=str).encode())
    for file in sorted(Path(benchmark_overlap.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _compared(items: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[str]:
    for name, its in items.items():
        short = benchmark_overlap.too_short(its)
        yield f"{name} ({short:,} of its {len(its):,} items are too short to be found)" if short else name
