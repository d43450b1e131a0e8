"""What the tests of the verbs share: paths to try them on, what a command said, and a recipe file of a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tiny
import yaml


@dataclass(frozen=True)
class Bench:
    """Paths of the session's base model, rows, recipe and runs."""

    model: Path
    rows: Path
    recipe: Path
    lora: Path
    full: Path


@dataclass(frozen=True)
class Said:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def cells(self) -> dict[str, list[str]]:
        """First cell -> the other cells, of each line of a table that was printed plain (two blanks between cells)."""
        lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in self.out.splitlines()]
        return {line[0]: line[1:] for line in lines if line}


def run_recipe(folder: Path, model: Path, rows: Path, **changes: object) -> Path:
    """A recipe file: a few steps on the tiny model."""
    settings = {"data__held_out": 6, "train__steps": 4, **changes}
    path = folder / "recipe.yaml"
    tree = tiny.recipe(model, rows, folder / "run", **settings)
    tree["evaluate"] = {"max_new_tokens": 4}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


Command = Callable[..., Said]
