"""Studies that ship with the package: each is known by its file's name without the ending."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "studies"

_NEEDS = re.compile(r"^# Needs: +(.*(?:\n#  +.*)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ShippedStudy:
    """A study of the package, and what its header says that it needs: models, data, licenses, hardware."""

    name: str
    path: Path

    @property
    def needs(self) -> str:
        found = _NEEDS.search(self.path.read_text(encoding="utf-8"))
        return " ".join(found[1].replace("\n#", " ").split()) if found else ""

    @property
    def has_small_scale(self) -> bool:
        """Whether `--scale small` runs it."""
        return "\nsmall:" in self.path.read_text(encoding="utf-8")


def shipped_studies() -> list[ShippedStudy]:
    """All studies that ship, by name."""
    return [ShippedStudy(path.stem, path) for path in sorted(FOLDER.glob("*.yaml"))]


def study_file(name: str | Path) -> Path:
    """The path of a study: an existing file, else the shipped study of this name, else `name` unchanged."""
    shipped = FOLDER / f"{name}.yaml"
    is_shipped = not Path(name).is_file() and Path(name).name == str(name) and shipped.is_file()
    return shipped if is_shipped else Path(name)
