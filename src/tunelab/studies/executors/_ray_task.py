"""One cell as a Ray task: in the study's directory if the node sees it, else in a scratch folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tunelab.allowed_code import Allowed
from tunelab.errors import Interrupted
from tunelab.records.cells import RECORDS, Cell, asked_study, read_cell
from tunelab.studies.executors._executor import job_log
from tunelab.studies.executors._ray_files import Parcel, lay_out, packed_files, packed_folder
from tunelab.studies.run_cell import RESOLVED, run_cell
from tunelab.training.tracked_run import TRACKERS
from tunelab.version import __version__

CHECKPOINTS, MANIFEST = "checkpoints", "manifest.json"


@dataclass(frozen=True)
class Order:
    """The input of a task.

    Args:
        folder: the study's directory on the driver (the process that runs the study); absolute.
        key: the cell's key.
        marker, token: a file in that directory and its random content, by which a node recognizes the directory.
        study: identifies the study among all that use a node's scratch folders.
        directory: the driver's working directory, which relative paths in the study refer to.
        paths: models, data and benchmarks that are local files of the driver; absolute.
        gpus: GPUs assigned to the task.
        allowed: the code that the study was started with (allowed_code.py).
        cell: the cell as the study has it, so that the study's others need not be looked through; None = by its key.
        version: the driver's tunelab version.
    """

    folder: str
    key: str
    marker: str
    token: str
    study: str
    directory: str
    paths: tuple[str, ...]
    gpus: float
    allowed: dict[str, str] = field(default_factory=dict)
    cell: Cell | None = None
    version: str = __version__


@dataclass(frozen=True)
class Outcome:
    """The result of a task.

    Args:
        how: "ran" (the cell is done or failed), "stopped" (on request, after saving), "elsewhere" (the node does not
            see the study's directory, and the order had no files), "refused" (the node cannot run it).
        error: why the node refused it.
        parcels: files to write to the study's directory; none if the cell ran in it.
    """

    how: Literal["ran", "stopped", "elsewhere", "refused"]
    error: str = ""
    parcels: tuple[Parcel, ...] = ()


def work(order: Order, *parcels: Parcel) -> Outcome:
    """Run a task. `parcels`: the files that the cell needs, for a node that does not see the study's directory."""
    if order.gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported: do not use GPUs that other tasks have
    if threads := os.environ.get("OMP_NUM_THREADS", "").split(",")[0]:  # Ray's: the cores of the task
        os.environ.setdefault("RAYON_NUM_THREADS", threads)  # of tokenizers
    node = socket.gethostname()
    if order.version != __version__:
        return Outcome("refused", f"node {node} has tunelab {__version__}, the driver has {order.version}")
    sees = sees_study(order)
    if not sees and not parcels:
        return Outcome("elsewhere")
    missing = [path for path in order.paths if not Path(path).exists()]
    if missing:
        return Outcome(
            "refused", f"node {node} does not see {', '.join(missing)}; models and data must be on every node"
        )
    if Path(order.directory).is_dir():
        os.chdir(order.directory)
    if sees:
        return _run(Path(order.folder), order.cell or order.key, order.allowed)[0]
    place = scratch_folder(order)
    _lay_out_what_is_missing(parcels, place, order.key)
    outcome, cell = _run(place, order.cell or order.key, order.allowed)
    results = _results(place, order.key, outcome, cell)
    if cell is not None and cell.status == "done":
        shutil.rmtree(place, ignore_errors=True)  # the job is done, whatever the node cannot remove
        with suppress(OSError):  # other cells of the study are still in it
            place.parent.rmdir()
    return Outcome(outcome.how, parcels=results)


def sees_study(order: Order) -> bool:
    """Whether this node sees the same study directory."""
    marker = Path(order.folder) / order.marker
    return marker.is_file() and marker.read_text(encoding="utf-8") == order.token


def scratch_folder(order: Order) -> Path:
    """Where a cell runs on a node that does not see its study: the same for each try, so that a retry resumes."""
    name = hashlib.sha256(order.study.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"tunelab-{os.getuid()}" / name / order.key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(folder: Path, job: Cell | str, allowed: Allowed) -> tuple[Outcome, Cell | None]:
    try:
        return Outcome("ran"), run_cell(folder, job, allowed=allowed, progress=job_log())
    except (Interrupted, KeyboardInterrupt):
        return Outcome("stopped"), read_cell(folder, job if isinstance(job, str) else job.key)


def _lay_out_what_is_missing(parcels: Sequence[Parcel], place: Path, key: str) -> None:
    """Keep what an earlier try left of the cell's own training; keep a training that it needs if it is the same."""
    for parcel in parcels:
        manifest = place / parcel.place / MANIFEST
        stays = bool(parcel.place) and manifest.exists()
        if stays and Path(parcel.place).name != key:
            stays = manifest.read_bytes() == parcel.files.get(MANIFEST)
        if not stays:
            lay_out(parcel, place)


def _results(place: Path, key: str, outcome: Outcome, cell: Cell | None) -> tuple[Parcel, ...]:
    """The files that a cell wrote, its record last, which marks it as complete; also a stopped training's state."""
    found = []
    if cell is not None and cell.status == "done":
        removed = (CHECKPOINTS,) if asked_study(place).remove_checkpoints else ()
        found.append(packed_folder(place, cell.folder, without=removed))
    elif outcome.how == "stopped" and (place / "runs" / key).is_dir():
        found.append(packed_folder(place, f"runs/{key}"))
    # File by file: other cells write to the same folder.
    logged = [path.relative_to(place).as_posix() for path in (place / TRACKERS).rglob("*") if path.is_file()]
    return (*found, packed_files(place, (*logged, RESOLVED, f"{RECORDS}/{key}.txt", f"{RECORDS}/{key}.json")))
