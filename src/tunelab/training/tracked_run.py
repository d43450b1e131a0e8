"""A run's identity at the trackers: the name, group and id of a training or of a study's cell."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tunelab import plugins
from tunelab.config import Recipe
from tunelab.config.shareable import shareable_yaml
from tunelab.config.study import Study
from tunelab.files import file_stem, read_json
from tunelab.records.cells import CREATED_FILE, STUDY_FILE, Cell, asked_study, read_cell
from tunelab.records.runs import Run

#: Where a study stores the local files of its trackers.
TRACKERS = "trackers"

#: W&B's longest name of a group.
_LONGEST_GROUP = 128


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker knows it.

    Args:
        folder: where W&B stores its local files.
        events: TensorBoard's directory, used by no other run.
        group: None = no group.
        id: finds the run again when it resumes; "" = every session is a run of its own.
        config: logged with the metrics.
    """

    project: str
    name: str
    folder: Path
    events: Path
    group: str | None = None
    job_type: Literal["training", "evaluation", "report"] = "training"
    id: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unique_name(self) -> str:
        """For a tracker that finds a run by its name alone: two studies have cells with the same title."""
        return f"{self.name} ({self.id[:6]})" if self.id else self.name


def training_run(run: Run, recipe: Recipe) -> TrackedRun:
    """A training as the trackers know it; a study's cell is recognized by its directory."""
    study_folder = run.path.resolve().parent.parent
    if (
        recipe.train.tracker_group
        and (study_folder / STUDY_FILE).exists()
        and (study_folder / CREATED_FILE).exists()
        and (cell := read_cell(study_folder, run.path.resolve().name)) is not None  # the job that runs has a record
    ):
        return cell_run(asked_study(study_folder), cell, study_folder, recipe)
    settings, name = recipe.train, run.path.name
    group = settings.tracker_group
    events = run.path.parent / TRACKERS / file_stem(group) / name if group else run.trackers / settings.tracker_project
    config = {"recipe": shareable_yaml(recipe)}
    return TrackedRun(settings.tracker_project, name, run.trackers, events, group, config=config)


def cell_run(study: Study, cell: Cell, folder: Path, recipe: Recipe) -> TrackedRun:
    """A study's cell as the trackers know it."""
    cell = replace(cell, benchmark=plugins.label(cell.benchmark))
    about = {"arm": cell.arm, "seed": cell.seed, "benchmark": cell.benchmark, "cell": cell.key}
    job_type: Literal["training", "evaluation"] = "evaluation" if cell.benchmark else "training"
    return _of_study(study, folder, recipe, cell.key, cell.title, job_type, about)


def report_run(study: Study, folder: Path, recipe: Recipe) -> TrackedRun:
    """A study's report as the trackers know it."""
    return _of_study(study, folder, recipe, "report", "report", "report", {"study": study.title})


def in_group(study: Study, recipe: Recipe) -> Recipe:
    """The recipe with the study's title as its group, if it names trackers but no group."""
    if not recipe.train.trackers:
        return recipe
    group = recipe.train.tracker_group or file_stem(study.title)[:_LONGEST_GROUP]
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"tracker_group": group})})


def _of_study(
    study: Study,
    folder: Path,
    recipe: Recipe,
    key: str,
    name: str,
    job_type: Literal["training", "evaluation", "report"],
    about: Mapping[str, Any],
) -> TrackedRun:
    settings = in_group(study, recipe).train
    own_id = read_json(folder / CREATED_FILE)["id"]
    identity = hashlib.sha256(f"{own_id} {key}".encode()).hexdigest()[:16]
    own = folder / TRACKERS
    events = own / file_stem(settings.tracker_group or "") / file_stem(f"{name} {identity[:6]}")
    config = {"recipe": shareable_yaml(recipe), **about}
    return TrackedRun(settings.tracker_project, name, own, events, settings.tracker_group, job_type, identity, config)
