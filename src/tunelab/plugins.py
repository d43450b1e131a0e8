"""Find modules by name in a folder of the package, without importing them. The file name is the registration.

`alpaca_cleaned.py` in a folder is available as `alpaca-cleaned`. A user's own file (`path/to/file.py`) or an installed
entry point (group `tunelab.sources`, `tunelab.benchmarks`, ...) can be used in place of a name.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import traceback
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

from tunelab.allowed_code import check_code_is_allowed
from tunelab.errors import UsageError

PACKAGE = Path(__file__).parent

#: Folders whose names keep their underscores (others have hyphens): lm-evaluation-harness says arc_easy.
UNDERSCORED = ("evaluation/benchmarks",)

#: Files that a user gives in place of a name: a module, or a benchmark's items.
OWN_FILES = (".py", ".jsonl")


@cache
def entry_points(group: str) -> metadata.EntryPoints:
    """Entry points of a group; looked up once, since files of every installed package are read for them."""
    return metadata.entry_points(group=group)


def names(folder: str) -> list[str]:
    """Names of all modules in a folder of the package ("data/sources") and its group's entry points, sorted."""
    stems = [path.stem for path in (PACKAGE / folder).glob("*.py") if not path.stem.startswith("_")]
    own = stems if folder in UNDERSCORED else [stem.replace("_", "-") for stem in stems]
    return sorted({*own, *(point.name for point in entry_points(group=_group(folder)))})


def summary(folder: str, name: str) -> str:
    """First line of a module's docstring, read from its source without importing it; "" if there is none."""
    path = _own_file(folder, name)
    if not path.exists():
        return ""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def load(folder: str, name: str) -> ModuleType:
    """Load the module of this name from a folder; `name` may also be the path of a user's own .py file.

    Raises:
        UsageError: no module, entry point or file of that name (lists the known names and the closest one); a file
            that this call does not allow to run (allowed_code.py), or that raises when it is imported.
    """
    if name.endswith(".py"):
        return _load_file(Path(name))
    misspelled = folder in UNDERSCORED and "-" in name  # one benchmark must not have two names
    if _is_plain(name) and _own_file(folder, name).exists() and not misspelled:
        package = ".".join(("tunelab", *Path(folder).parts))
        return importlib.import_module(f"{package}.{name.replace('-', '_')}")
    for point in entry_points(group=_group(folder)):
        if point.name == name:
            loaded = point.load()
            if not isinstance(loaded, ModuleType):
                raise UsageError(f"entry point {name!r} of {_group(folder)} is {type(loaded).__name__}, not a module")
            return loaded
    known = names(folder)
    near = difflib.get_close_matches(name, known, n=1)
    kind = Path(folder).name.rstrip("s")
    raise UsageError(
        f"no {kind} named {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        f"known: {', '.join(known)}; or give the path of your own .py file",
    )


def label(name: str) -> str:
    """The short name of a module or benchmark: the name itself, or the stem of a user's own file."""
    return Path(name).stem if name.endswith(OWN_FILES) else name


def _group(folder: str) -> str:
    return f"tunelab.{Path(folder).name}"


def _is_plain(name: str) -> bool:
    """Whether a name can be that of a module: no path, no dots."""
    return name.replace("-", "_").isidentifier()


def _own_file(folder: str, name: str) -> Path:
    return PACKAGE / folder / f"{name.replace('-', '_')}.py"


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"{path}: no such file", "give the path of an existing .py file, or a known name")
    check_code_is_allowed(str(path))
    spec = importlib.util.spec_from_file_location(f"tunelab_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: cannot be imported as a Python module")
    module = importlib.util.module_from_spec(spec)
    try:
        # The text itself, not a compiled copy that may lie beside it: only the text was read and allowed.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        raise UsageError(
            f"{path}: {_place_of(error, path)}{type(error).__name__}: {error}, when it is imported", "correct the file"
        ) from error
    return module


def _place_of(error: Exception, path: Path) -> str:
    """The line of a user's file in which an error was raised, as "line 3: "; "" if it was raised elsewhere."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"line {lines[-1]}: " if lines else ""
