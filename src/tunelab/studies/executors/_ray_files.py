"""Files that travel between a study's directory and a node that does not see it: packed, and laid out again."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tunelab.errors import RunError
from tunelab.files import directory_written_atomically


@dataclass(frozen=True)
class Parcel:
    """Files of a study's directory, held in memory.

    Args:
        place: the folder that they make up, relative to the study's directory; "" = single files of the directory.
        files: name relative to `place`, with "/" on every system -> content.
    """

    place: str
    files: Mapping[str, bytes]


def packed_folder(study: Path, place: str, without: Collection[str] = ()) -> Parcel:
    """A whole folder of a study's directory, less the files that are hidden (locks) and the folders named `without`."""
    root = study / place
    files = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not name.name.startswith(".") and not set(name.parts[:-1]) & set(without):
            files[name.as_posix()] = path.read_bytes()
    return Parcel(place, files)


def packed_files(study: Path, names: Collection[str]) -> Parcel:
    """Single files of a study's directory; those that are not there are left out."""
    return Parcel("", {name: (study / name).read_bytes() for name in names if (study / name).is_file()})


def lay_out(parcel: Parcel, study: Path) -> None:
    """Write a parcel into a study's directory: a folder as a whole or not at all, in place of one that is there.

    Raises:
        RunError: a name leads out of the directory.
    """
    for name in (parcel.place, *parcel.files):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise RunError(f"{study}: a node sent a file that does not lie in the study: {name}", "check the cluster")
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
