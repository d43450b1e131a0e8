"""Transfer files between a study's directory and a node that does not see it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tunelab.errors import RunError
from tunelab.files import directory_written_atomically


@dataclass(frozen=True)
class Parcel:
    """Files of a study's directory, in memory.

    Args:
        place: the folder they belong to, relative to the study's directory; "" = single files of the directory.
        files: name relative to `place`, always with "/" -> content.
    """

    place: str
    files: Mapping[str, bytes]


def packed_folder(study: Path, place: str, without: Collection[str] = ()) -> Parcel:
    """A folder of a study's directory, without hidden files (locks) and the folders named in `without`."""
    root = study / place
    files = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not name.name.startswith(".") and not set(name.parts[:-1]) & set(without):
            files[name.as_posix()] = path.read_bytes()
    return Parcel(place, files)


def packed_files(study: Path, names: Collection[str]) -> Parcel:
    """Single files of a study's directory; missing ones are skipped."""
    return Parcel("", {name: (study / name).read_bytes() for name in names if (study / name).is_file()})


def lay_out(parcel: Parcel, study: Path) -> None:
    """Write a parcel to a study's directory; a folder is replaced atomically.

    Raises:
        RunError: a name points outside the directory.
    """
    for name in (parcel.place, *parcel.files):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise RunError(f"{study}: a node sent a file outside the study: {name}", "check the cluster")
    if parcel.place:
        with directory_written_atomically(study / parcel.place) as folder:
            for name, content in parcel.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        return
    for name, content in parcel.files.items():
        path = study / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
