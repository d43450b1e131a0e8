"""A Ray cluster: each cell is a task with GPU requirements; if a worker dies, its cell resumes on another.

A node that sees the study's directory works in it. Otherwise the files that a cell needs are sent with the task, and
its results are sent back, so that all results are in one directory.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tunelab.allowed_code import allowed_code
from tunelab.config.study import Study
from tunelab.errors import Interrupted, UsageError
from tunelab.progress import Progress
from tunelab.records.cells import CREATED_FILE, RECORDS, STUDY_FILE, TRY, Cell, asked_study
from tunelab.records.runs import Run
from tunelab.studies.executors._executor import count_option, lost
from tunelab.studies.executors._ray_cluster import OWN, connected, fits
from tunelab.studies.executors._ray_files import lay_out, packed_files, packed_folder
from tunelab.studies.executors._ray_task import CHECKPOINTS, Order, Outcome, work
from tunelab.studies.run_cell import RESOLVED
from tunelab.training.interrupt import asked_to_stop
from tunelab.units import format_significant

OPTIONS = {
    "address": "cluster address, HOST:PORT or auto; local: a cluster on this machine; default: RAY_ADDRESS, or local",
    "gpus_per_cell": "GPUs per job, may be a fraction (0.5); default: 1 if the cluster has GPUs, else 0",
    "cpus_per_cell": "CPU cores per job; default: 1",
    "max_retries": "retries of a job after its worker died; default: 3",
}

_SECONDS_TO_STOP = 120.0  # for a training to finish its step and save
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Settings:
    """The parsed options; gpus None = 1 if the cluster has GPUs."""

    address: str | None
    gpus: float | None
    cpus: int
    retries: int


def run_cells(folder: Path, cells: Sequence[Cell], options: Mapping[str, str], progress: Progress) -> None:
    """Run the cells as Ray tasks.

    Raises:
        UsageError: an option is invalid, Ray is not installed, or no cluster can run a cell.
        Interrupted: Ctrl-C or SIGTERM; the tasks have stopped.
    """
    settings = read_settings(options)
    folder = Path(os.path.abspath(folder))
    study = asked_study(folder)
    with connected(settings.address) as ray, asked_to_stop() as should_stop, _marker(folder) as (marker, token):
        gpus = settings.gpus if settings.gpus is not None else float(ray.cluster_resources().get("GPU", 0) >= 1)
        needs = {"CPU": float(settings.cpus), "GPU": gpus}
        if (settings.address or os.environ.get("RAY_ADDRESS") or OWN) == OWN and not fits(ray, needs):
            raise UsageError(f"this machine does not have {_in_words(needs)}", "lower gpus_per_cell or cpus_per_cell")
        task = ray.remote(num_cpus=settings.cpus, num_gpus=gpus, max_retries=0, max_calls=1)(work)
        orders = {cell.key: _order(study, folder, cell, marker, token, gpus) for cell in cells}
        tasks = _Tasks(ray, task, folder, orders, settings.retries, list(cells), len(cells))
        tasks.run(needs, should_stop, progress)


def read_settings(options: Mapping[str, str]) -> Settings:
    """Parse the options.

    Raises:
        UsageError: one is not a number, or a number of GPUs that Ray cannot assign (1.5).
    """
    retries = 0 if options.get("max_retries") == "0" else count_option(options, "max_retries", 3)
    given = options.get("gpus_per_cell")
    gpus = None
    if given is not None:
        whole, _, part = given.partition(".")
        if not (whole + part).isdecimal() or (float(given) > 1 and not float(given).is_integer()):
            raise UsageError(
                f"option gpus_per_cell={given}: expected an integer, or a fraction of one GPU", "for example 1, or 0.5"
            )
        gpus = float(given)
    return Settings(options.get("address"), gpus, count_option(options, "cpus_per_cell", 1), retries)


def local_paths(study: Study, cell: Cell) -> tuple[str, ...]:
    """Models, tokenizers, data and benchmarks of a cell that are local files; absolute paths."""
    recipe = study.arm_recipe(cell.arm, study.seeds[0] if cell.seed is None else cell.seed)
    data = recipe.data
    named = [recipe.model.name, recipe.model.tokenizer, cell.benchmark, data.chat_template]
    named += [text for source in data.sources for text in (source.name, source.path)]
    return tuple(sorted({os.path.abspath(name) for name in named if name and Path(name).exists()}))


def _order(study: Study, folder: Path, cell: Cell, marker: str, token: str, gpus: float) -> Order:
    identity = f"{folder}\n{(folder / CREATED_FILE).read_text(encoding='utf-8')}"
    paths = local_paths(study, cell)
    return Order(str(folder), cell.key, marker, token, identity, os.getcwd(), paths, gpus, allowed_code(), cell)


@contextmanager
def _marker(folder: Path) -> Iterator[tuple[str, str]]:
    """A file with random content by which a node recognizes this directory: its name and content."""
    name, token = f".ray-{secrets.token_hex(8)}", secrets.token_hex(16)
    (folder / name).write_text(token, encoding="utf-8")
    try:
        yield name, token
    finally:
        (folder / name).unlink(missing_ok=True)


@dataclass
class _Tasks:
    """State of the cells: which wait, which run in Ray, and how often their workers died.

    Retries are counted here because Ray does not count workers that its memory monitor killed.
    """

    ray: ModuleType
    task: Any
    folder: Path
    orders: Mapping[str, Order]
    retries: int
    waiting: list[Cell]
    total: int
    running: dict[Any, Cell] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    far: set[str] = field(default_factory=set)  # keys of cells that ran on a node that does not see the directory
    unlike: set[str] = field(default_factory=set)  # keys of cells that started again, with the first job's settings
    trainings: dict[str, Any] = field(default_factory=dict)  # finished runs in Ray's object store, each stored once
    last: str = ""

    def run(self, needs: Mapping[str, float], should_stop: Callable[[], bool], progress: Progress) -> None:
        """Run until every cell has ended."""
        stage = f"{self.total} jobs"
        try:
            while self.waiting or self.running:
                self._submit_what_can_run()
                news = self.last if fits(self.ray, needs) else f"waiting for a node with {_in_words(needs)}"
                progress(stage, self.total - len(self.waiting) - len(self.running), self.total, news)
                ended, _ = self.ray.wait(list(self.running), timeout=_POLL_SECONDS)
                for reference in ended:
                    self._take(reference)
                if should_stop():
                    raise Interrupted("the study was stopped; finished work is kept", "run the same command to resume")
        finally:
            if self.running:
                self._stop(progress)
        progress(stage, self.total, self.total, self.last)

    def _submit_what_can_run(self) -> None:
        open_keys = {cell.key for cell in (*self.waiting, *self.running.values())}
        for cell in [cell for cell in self.waiting if cell.needs not in open_keys]:
            self.waiting.remove(cell)
            parcels = self._parcels(cell) if cell.key in self.far else []
            reference = self.task.options(name=cell.title).remote(self.orders[cell.key], *parcels)
            self.running[reference] = cell

    def _parcels(self, cell: Cell) -> list[Any]:
        """The files that a cell needs from the study's directory, in Ray's object store."""
        records = [f"{RECORDS}/{key}.json" for key in (cell.key, cell.needs)]
        # Those of trials, from which the node knows the rates that they chose.
        records += sorted(f"{RECORDS}/{path.name}" for path in (self.folder / RECORDS).glob(f"{TRY}*.json"))
        found = [self.ray.put(packed_files(self.folder, [STUDY_FILE, CREATED_FILE, RESOLVED, *records]))]
        own = Run(self.folder / "runs" / cell.key)
        if own.recipe_file.exists():
            found.append(self.ray.put(packed_folder(self.folder, f"runs/{cell.key}")))
        if cell.needs and Run(self.folder / "runs" / cell.needs).recipe_file.exists():
            if cell.needs not in self.trainings:
                parcel = packed_folder(self.folder, f"runs/{cell.needs}", without=(CHECKPOINTS,))
                self.trainings[cell.needs] = self.ray.put(parcel)
            found.append(self.trainings[cell.needs])
        return found

    def _take(self, reference: Any) -> None:
        """Record the outcome of a task, or retry its cell."""
        cell = self.running.pop(reference)
        try:
            outcome: Outcome = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # the cell did not start: a retry would not help
            self._lose(cell, f"Ray could not run it: {str(error).strip().splitlines()[-1]}")
            return
        except self.ray.exceptions.RayError as error:
            self._try_again(cell, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
            return
        if unlike := self._unlike(outcome):
            self._start_anew(cell, unlike)
            return
        for parcel in outcome.parcels:
            lay_out(parcel, self.folder)
        if outcome.how == "refused":
            self._lose(cell, outcome.error)
        elif outcome.how == "stopped":
            self._try_again(cell, "it was stopped")
        elif outcome.how == "elsewhere":
            self.far.add(cell.key)
            self.waiting.insert(0, cell)
        else:
            self.last = f"{cell.title}: ended"

    def _unlike(self, outcome: Outcome) -> str:
        """Why what a node without the directory sent is not taken: another job ran at the same time, and resolved the
        study's settings otherwise (run_cell.RESOLVED); "" = it is taken."""
        known = packed_files(self.folder, [RESOLVED]).files.get(RESOLVED, b"")
        found = next((one.files[RESOLVED] for one in outcome.parcels if RESOLVED in one.files), known)
        first, own = known.decode().strip(), found.decode().strip()
        return f"ran with {own}, the study's first job with {first}" if first and own != first else ""

    def _start_anew(self, cell: Cell, why: str) -> None:
        """Run a cell once more, with what the first job resolved."""
        if cell.key in self.unlike:
            self._lose(cell, why)
        else:
            self.unlike.add(cell.key)
            self.waiting.insert(0, cell)
            self.last = f"{cell.title}: {why}; it starts again"

    def _try_again(self, cell: Cell, why: str) -> None:
        self.deaths[cell.key] += 1
        if self.deaths[cell.key] > self.retries:
            times = "once" if self.deaths[cell.key] == 1 else f"{self.deaths[cell.key]} times"
            self._lose(cell, f"its worker died {times}; last error: {why} (often out of memory)")
        else:
            self.waiting.insert(0, cell)
            self.last = f"{cell.title}: its worker died, retry {self.deaths[cell.key]} of {self.retries}"

    def _lose(self, cell: Cell, why: str) -> None:
        lost(self.folder, cell, why)
        self.last = f"{cell.title}: failed"

    def _stop(self, progress: Progress) -> None:
        """Ask all tasks to stop, collect what they saved, and kill those that do not stop."""
        for reference in self.running:
            self.ray.cancel(reference)
        deadline = time.monotonic() + _SECONDS_TO_STOP
        try:
            while self.running and time.monotonic() < deadline:
                progress("stopping, waiting for trainings to save", 0, None, f"{len(self.running)} jobs")
                for reference in self.ray.wait(list(self.running), timeout=_POLL_SECONDS)[0]:
                    self._take_last(reference)
        finally:
            for reference in self.running:
                self.ray.cancel(reference, force=True)

    def _take_last(self, reference: Any) -> None:
        del self.running[reference]
        try:
            outcome: Outcome = self.ray.get(reference)
        except self.ray.exceptions.RayError:  # cancelled before it started, or dead: its cell is unchanged
            return
        if self._unlike(outcome):
            return
        for parcel in outcome.parcels:
            lay_out(parcel, self.folder)


def _in_words(needs: Mapping[str, float]) -> str:
    return " and ".join(f"{format_significant(amount)} {name}" for name, amount in needs.items() if amount)
