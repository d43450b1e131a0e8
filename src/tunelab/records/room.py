"""What takes room in a study's directory, by kind, and what of it can be freed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunelab.data.prepared import cache_directory
from tunelab.records.cells import Cell
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
    "model": WEIGHTS,
    "tokenizer": WEIGHTS,
    "compared_rows.safetensors": WEIGHTS,
    "evaluations": RESPONSES,
}


@dataclass(frozen=True, slots=True)
class Room:
    """One kind of what takes room.

    Args:
        kind: in words.
        bytes: size of its files.
        freed_by: the command that frees it; "" = none does, since it is needed.
    """

    kind: str
    bytes: int
    freed_by: str = ""


def room_of(folder: Path, cells: Sequence[Cell]) -> list[Room]:
    """What takes room in a study's directory, and the rows in the cache that its trainings were prepared from.

    Args:
        cells: the study's, with their status.

    Returns:
        A kind each, without those that take no room.
    """
    clean, cache = shlex.join(["tunelab", "study", "clean", str(folder)]), cache_directory()
    done = {cell.key: cell.status == "done" for cell in cells}
    sizes = dict.fromkeys(KINDS, 0)
    for file in _files(folder):
        sizes[_kind(file.relative_to(folder).parts, done)] += file.lstat().st_size
    found = [Room(kind, size, clean if kind == FINISHED else "") for kind, size in sizes.items()]
    keys = {key for cell in cells if not cell.benchmark and (key := _prepared_key(folder, cell))}
    prepared = sum(file.lstat().st_size for key in keys for file in _files(cache / key))
    return [one for one in (*found, Room(PREPARED, prepared, shlex.join(["rm", "-r", str(cache)]))) if one.bytes]


def free_checkpoints(folder: Path, cells: Sequence[Cell]) -> int:
    """Remove the checkpoints of a study's finished trainings; returns the bytes that it frees."""
    freed = 0
    for cell in cells:
        if cell.status == "done" and not cell.benchmark:
            run = Run(folder / cell.folder)
            freed += sum(file.lstat().st_size for file in _files(run.checkpoints))
            remove_checkpoints(run)
    return freed


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]


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
    data = Run(folder / "runs" / cell.key).manifest.get("data")
    return str(data["key"]) if isinstance(data, dict) and "key" in data else ""
