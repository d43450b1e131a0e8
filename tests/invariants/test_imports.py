"""The house holds: imports run strictly downward by floor, no circles, light rooms stay light, limits on size are kept.

Every import is read from the source, also under TYPE_CHECKING and inside functions: an arrow that only types or only a
late call needs is an arrow all the same. The decisions:

- A room is a module or folder directly in the package. Rooms from floor 2 up never import a room of their own floor.
- Floor 1 is the ground: its modules may import each other as long as no circle arises (none does so today).
- Modules inside one room import each other freely, without circles.
- `tunelab/__init__.py` is the door: it may reach every floor below `cli` from inside functions or under
  TYPE_CHECKING, so that `import tunelab` stays light. No room imports the door: that would be an arrow up.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "tunelab"

ARCHITECTURE = Path(__file__).resolve().parents[2] / "ARCHITECTURE.md"


def floors_of(table: str) -> dict[str, int]:
    """Room -> floor, from lines such as "| 6 | `training/` | ..." and "| 1 | `errors`, `files` | ..."."""
    found = {"__main__": 99}  # `python -m tunelab` calls the command and nothing else
    for floor, rooms in re.findall(r"^\| (\d+) \| ([^|]+) \|", table, flags=re.MULTILINE):
        found |= {name: int(floor) for name in re.findall(r"`(\w+)/?`", rooms)}
    return found


FLOORS = floors_of(ARCHITECTURE.read_text(encoding="utf-8"))
DOOR = "tunelab"

# Modules that must answer without torch; listed where they exist.
LIGHT = (
    "tunelab",
    "tunelab.cli.main",
    "tunelab.config",
    "tunelab.plugins",
    "tunelab.report",
    "tunelab.records.responses",
)
LIGHT += ("tunelab.records.runs", "tunelab.statistics.standard_errors")
# What `tunelab report`, `study status` and `compare` need.
LIGHT += ("tunelab.studies.study_report", "tunelab.report.html_page", "tunelab.comparison.compare_runs")


HEAVY = ("torch", "transformers", "datasets", "peft")


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["tunelab", *path.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports(name: str) -> list[tuple[str, int]]:
    """Every module of the package that one of its modules imports anywhere, with the line."""
    source = MODULES[name].read_text(encoding="utf-8")
    return list(imported(name, MODULES[name], source, known=set(MODULES)))


def imported(name: str, path: Path, source: str, known: set[str]) -> Iterator[tuple[str, int]]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "tunelab":
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            if base.split(".")[0] == "tunelab":
                for alias in node.names:
                    # `from tunelab.data import packing` imports a module, `from tunelab.errors import BadRow` a name.
                    whole = f"{base}.{alias.name}"
                    yield (whole if whole in known else base), node.lineno


def room(name: str) -> str:
    """The room of a module: "tunelab.data.packing" -> "data"; the package itself is the door."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else DOOR


def is_allowed(importer: str, imported: str) -> bool:
    source, target = room(importer), room(imported)
    if source == target:
        return True
    if target == DOOR:
        return source in ("cli", "__main__")  # the command line says what the library's face says
    if source == DOOR:
        return FLOORS[target] < FLOORS["cli"]
    if FLOORS[source] == FLOORS[target] == 1:
        return True
    return FLOORS[source] > FLOORS[target]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every circle that a depth-first walk meets."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(graph.get(name, ())):
                walk(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        walk(name, [])
    return found


def module_graph() -> dict[str, set[str]]:
    """Imports among modules. The door is left out, since it imports late; a package's __init__ counts as itself."""
    return {name: {target for target, _ in imports(name) if target != DOOR} for name in MODULES if name != DOOR}


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name in MODULES} - {DOOR}
    assert rooms <= set(FLOORS), f"give these rooms a floor in ARCHITECTURE.md: {sorted(rooms - set(FLOORS))}"


def test_imports_run_downward() -> None:
    wrong = [
        f"{name}:{line} {room(name)} imports {target}"
        for name in MODULES
        for target, line in imports(name)
        if not is_allowed(name, target)
    ]
    assert not wrong


def test_every_floor_has_a_room() -> None:
    rooms = {room(name) for name in MODULES}
    assert set(FLOORS) <= rooms, f"ARCHITECTURE.md names what is not there: {sorted(set(FLOORS) - rooms)}"


def test_every_import_names_a_module_that_exists() -> None:
    missing = [
        f"{name}:{line} imports {target}" for name in MODULES for target, line in imports(name) if target not in MODULES
    ]
    assert not missing


def test_there_are_no_circles() -> None:
    assert circles(module_graph()) == []


def test_the_door_imports_late() -> None:
    tree = ast.parse(MODULES[DOOR].read_text(encoding="utf-8"))
    top = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    heavy = [text for text in top if "tunelab" in text and "tunelab.version" not in text]
    assert not heavy, f"import these inside functions: {heavy}"


# The checks themselves are checked: each must be able to fail.


@pytest.mark.parametrize(
    ("importer", "source", "allowed"),
    [
        ("tunelab.training.loop", "from tunelab.data import packing", True),
        ("tunelab.training.loop", "from tunelab.evaluation import runner", False),  # same floor
        ("tunelab.data.loader", "def f():\n    from tunelab.config import Recipe", False),  # in a function
        ("tunelab.models.load", "if TYPE_CHECKING:\n    import tunelab.training.loop", False),  # for typing alone
        ("tunelab.data.loader", "from ..models import load", False),  # relative
        ("tunelab.data.loader", "from . import packing", True),
        ("tunelab.files", "from tunelab.errors import RunError", True),
        ("tunelab.plugins", "from tunelab.statistics.standard_errors import mean", False),
        ("tunelab.training.finetune", "import tunelab.cli.main", False),
        ("tunelab.cli.main", "import tunelab", True),
        ("tunelab.data.prepared", "from tunelab import __version__", False),  # up through the door
        ("tunelab", "def f():\n    from tunelab.training import finetune", True),
        ("tunelab", "def f():\n    from tunelab.cli import main", False),
    ],
)
def test_the_reader_of_imports(importer: str, source: str, allowed: bool) -> None:
    found = list(imported(importer, Path("x.py"), source, known=set()))
    assert found
    assert all(is_allowed(importer, target) for target, _ in found) is allowed


def test_the_finder_of_circles() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_light_modules_do_not_import_torch() -> None:
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module(name)
    print(*(f"{{name}} imports {{heavy}}" for heavy in {HEAVY} if heavy in sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n") == [""] * (len(LIGHT) + 1)


# House limits.


def beyond_limits(name: str, source: str) -> list[str]:
    """What is wrong with a module: too long, a function too long, loud outside of the command line, unfinished."""
    found, lines = [], len(source.splitlines())
    in_cli = room(name) == "cli"
    command = in_cli and not name.rpartition(".")[2].startswith("_") and name != "tunelab.cli.main"
    if lines >= (100 if command else 400):
        found.append(f"{name} has {lines} lines")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 59:
            found.append(f"{name}: {node.name} has {node.end_lineno - node.lineno + 1} lines")
        called = node.func if isinstance(node, ast.Call) else None
        if not in_cli and isinstance(called, ast.Name) and called.id in ("print", "exit", "quit"):
            found.append(f"{name}:{node.lineno} prints or exits")
    if any(word in source for word in ("TO" + "DO", "FIX" + "ME")):
        found.append(f"{name} leaves work behind")
    return found


def test_house_limits() -> None:
    found = [one for name, path in MODULES.items() for one in beyond_limits(name, path.read_text(encoding="utf-8"))]
    assert not found


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("tunelab.data.x", "pass\n" * 400, "tunelab.data.x has 400 lines"),
        ("tunelab.cli.x", "pass\n" * 100, "tunelab.cli.x has 100 lines"),
        ("tunelab.data.x", "def f():\n" + "    pass\n" * 59, "tunelab.data.x: f has 60 lines"),
        ("tunelab.data.x", "x = 1\nprint(x)\n", "tunelab.data.x:2 prints or exits"),
        ("tunelab.data.x", "# TO" + "DO\n", "tunelab.data.x leaves work behind"),
    ],
)
def test_the_reader_of_limits(name: str, source: str, said: str) -> None:
    assert beyond_limits(name, source) == [said]
    for fine in ("pass\n" * 99, "def f():\n" + "    pass\n" * 58):
        assert beyond_limits(name, fine) == []
    assert beyond_limits("tunelab.cli._x", "print(1)\n" * 100) == []
