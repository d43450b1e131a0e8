"""The disk usage of a study's directory, by kind, and what of it can be freed."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunelab.data.prepared import cache_directory
from tunelab.errors import RunError
from tunelab.records.cells import RECORDS, Cell
from tunelab.records.runs import Run, remove_checkpoints

FINISHED, UNFINISHED = "checkpoints of finished trainings", "checkpoints of unfinished trainings"
WEIGHTS, RESPONSES = "trained weights and tokenizers", "responses and scores"
UNUSED, OTHERS = "jobs that the study no longer has", "reports, records and logs"
PREPARED = "prepared rows, in the cache"

#: In the order in which they are shown.
KINDS = (FINISHED, UNFINISHED, WEIGHTS, RESPONSES, UNUSED, OTHERS)

#: Parts of a run's directory.
_OF_A_RUN = {
    "adapter": WEIGHTS,
    "start": WEIGHTS,
    "model": WEIGHTS,
    "tokenizer": WEIGHTS,
    "compared_rows.safetensors": WEIGHTS,
    "evaluations": RESPONSES,
}


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Of one kind of files.

    Args:
        kind: in words.
        bytes: size of its files.
        freed_by: the command that frees it; "" = none does, since it is needed.
    """

    kind: str
    bytes: int
    freed_by: str = ""


def disk_usage(folder: Path, cells: Sequence[Cell]) -> list[DiskUsage]:
    """The size of a study's directory, and of the rows in the cache that its trainings were prepared from.

    Args:
        cells: the study's, with their status.

    Returns:
        A kind each, without those that have no files.
    """
    clean = shlex.join(["tunelab", "study", "clean", str(folder)])
    done = {cell.key: cell.status == "done" for cell in cells}
    sizes = dict.fromkeys(KINDS, 0)
    for file, size in _files(folder):
        sizes[_kind(file.relative_to(folder).parts, done)] += size
    found = [DiskUsage(kind, size, clean if kind == FINISHED else "") for kind, size in sizes.items()]
    return [one for one in (*found, _prepared(folder, cells)) if one.bytes]


def _prepared(folder: Path, cells: Sequence[Cell]) -> DiskUsage:
    """The rows of this study in the cache, which other studies use too, and the command that frees these alone."""
    keys = {_prepared_key(folder, cell) for cell in cells if not cell.benchmark}
    # A key comes from a file, which could name any directory.
    places = [cache_directory() / key for key in sorted(keys) if key.isalnum()]
    places = [place for place in places if place.is_dir()]
    size = sum(size for place in places for _, size in _files(place))
    return DiskUsage(PREPARED, size, shlex.join(["rm", "-r", *map(str, places)]))


def free_checkpoints(folder: Path, cells: Sequence[Cell], *, dry_run: bool = False) -> int:
    """Remove the checkpoints of a study's finished trainings; returns the bytes that it frees.

    Args:
        dry_run: remove nothing.

    Raises:
        RunError: a record names another directory than its training's; nothing is removed.
    """
    done = [cell for cell in cells if cell.status == "done" and not cell.benchmark]
    runs = [_own_run(folder, cell) for cell in done]
    freed = sum(size for run in runs if not run.checkpoints.is_symlink() for _, size in _files(run.checkpoints))
    for run in runs if not dry_run else ():
        remove_checkpoints(run)
    return freed


def _own_run(folder: Path, cell: Cell) -> Run:
    """The run of a training, whose record is a file that could name any directory. Raises RunError."""
    place = folder / cell.folder
    if place.resolve() != (folder / "runs").resolve() / cell.key:
        raise RunError(
            f"{folder / RECORDS / f'{cell.key}.json'}: folder is {cell.folder!r}, which is not runs/{cell.key} of this "
            "study; nothing was removed",
            "restore the record, and the directory if it is a link now; or remove the record: the job then runs again",
        )
    return Run(place)


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """The files and links below a folder with their sizes in bytes; without those that a running job removes now."""
    for place, folders, names in os.walk(folder):
        for path in (Path(place) / name for name in (*folders, *names)):
            with suppress(FileNotFoundError):
                status = path.lstat()
                if not stat.S_ISDIR(status.st_mode):
                    yield path, status.st_size


def _kind(parts: Sequence[str], done: dict[str, bool]) -> str:
    """The kind of a file by its path in the study's directory; `done`: job -> whether it is."""
    if parts[0] == "evaluations":
        return RESPONSES
    if parts[0] != "runs" or len(parts) < 3:
        return OTHERS
    if parts[1] not in done:
        return UNUSED
    if parts[2] == "checkpoints":
        return FINISHED if done[parts[1]] else UNFINISHED
    return _OF_A_RUN.get(parts[2], OTHERS)


def _prepared_key(folder: Path, cell: Cell) -> str:
    """The key of the rows that a training was given; "" = it has not begun."""
    return str(Run(folder / "runs" / cell.key).manifest.get("data", {}).get("key", ""))
