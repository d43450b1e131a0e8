"""Print every room of the package: floor, files, lines, and how deep its files import each other.

Usage: python scripts/rooms.py

Depth is the number of layers inside a room: 1 = no file of the room imports another; 3 = some file imports a second
one that imports a third. `__init__.py` files without code do not count. Floors come from ARCHITECTURE.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "tunelab"


def floors(table: str) -> dict[str, int]:
    """Room -> floor, from the lines of ARCHITECTURE.md's table."""
    found: dict[str, int] = {}
    for floor, rooms in re.findall(r"^\| (\d+) \| ([^|]+) \|", table, flags=re.MULTILINE):
        found |= {name: int(floor) for name in re.findall(r"`(\w+)/?`", rooms)}
    return found


def modules(room: Path) -> dict[str, Path]:
    """Dotted name -> file of every module with code in a room (a package or a single module)."""
    files = [room] if room.is_file() else sorted(room.rglob("*.py"))
    named = {}
    for path in files:
        parts = ["tunelab", *path.relative_to(PACKAGE).with_suffix("").parts]
        if path.read_text(encoding="utf-8").strip():
            named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def imported(name: str, path: Path, known: Mapping[str, Path]) -> set[str]:
    """The modules among `known` that a file imports anywhere, also in functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {one for one in found if one in known and one != name}


def depth(files: Mapping[str, Path]) -> int:
    """Length of the longest chain of imports among these modules, counted in modules."""
    graph = {name: imported(name, path, files) for name, path in files.items()}

    @cache
    def below(name: str) -> int:
        return 1 + max((below(target) for target in graph[name]), default=0)

    return max((below(name) for name in files), default=0)


def main() -> None:
    """One line per room, top floor first."""
    table = floors((REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    print(f"{'floor':>5}  {'room':<12}  {'files':>5}  {'lines':>6}  {'depth':>5}")
    for room, floor in sorted(table.items(), key=lambda pair: (-pair[1], pair[0])):
        place = PACKAGE / room
        files = modules(place if place.is_dir() else place.with_suffix(".py"))
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files.values())
        print(f"{floor:>5}  {room:<12}  {len(files):>5}  {lines:>6,}  {depth(files):>5}")


if __name__ == "__main__":
    main()
