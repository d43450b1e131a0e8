"""Which Python code may run: what this call names itself, and nothing that only a file names.

Asked for is code on the command line, in the recipe or study that is given to it, or in an argument of a Python call.
Code that a run's recipe.yaml, a response file's header, a model's configuration or a study's records name is data: it
runs only if `--allow-code PATH`, or allow_code() in Python, names that very file.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tunelab.errors import UsageError

#: Absolute path of a .py file or of a model's folder, or a model's name on the hub -> sha256 of its code.
Allowed = Mapping[str, str]

_allowed: dict[str, str] = {}
_is_closed = False  # in a job of a study: only the permissions that the study was started with count


def allow_code(*names: str | os.PathLike[str]) -> None:
    """Allow Python files, and the code of models (`trust_remote_code`), to run in this process.

    Args:
        names: paths of .py files; folders or hub names of models. Their present content is allowed, not a later one.
    """
    if not _is_closed:
        _allowed.update({key: _digest(key) for key in map(_key, names)})


def allow_python_files(names: Iterable[str]) -> None:
    """Allow those of these names that are Python files: where a plugin is named, a path may be."""
    allow_code(*(name for name in names if name.endswith(".py")))


def allow_copy(copy: Path, original: str, source: Path) -> None:
    """Allow the code in a model's folder that was saved from an allowed model: a study's own result.

    Args:
        copy: the folder; its Python files must be those of `source`, or it stays data.
        original: the model's name, as it was allowed.
        source: the folder with the original's code.
    """
    known = {file.read_bytes() for file in source.rglob("*.py")}
    if _key(original) in _allowed and all(file.read_bytes() in known for file in copy.rglob("*.py")):
        _allowed[_key(copy)] = _digest(_key(copy))


def check_code_is_allowed(name: str) -> None:
    """Check, right before a file or a model's code runs, that this call allows it.

    Raises:
        UsageError: it was not asked for, or has changed since.
    """
    key = _key(name)
    if key not in _allowed:
        raise UsageError(
            f"{name}: its Python code was not asked for: a run, a response file or a model names it",
            f"read the code; if you trust it, add --allow-code {shlex.quote(key)}",
        )
    if _digest(key) != _allowed[key]:
        raise UsageError(f"{name}: its Python code has changed since it was allowed", "read it, and start again")


def allowed_code() -> dict[str, str]:
    """All that is allowed, to be passed on to a job in another process."""
    return dict(_allowed)


def own_module_path() -> dict[str, str]:
    """Variables with which a new Python process imports what this one would, not what is in the working directory."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}


def code_hashes(*names: str) -> dict[str, str]:
    """sha256 of those of these files and models that are allowed code; what a record says of the code that ran."""
    return {name: _allowed[_key(name)] for name in names if _key(name) in _allowed}


@contextmanager
def only_allowed(permissions: Allowed, *, is_closed: bool = False) -> Iterator[None]:
    """In this block nothing is allowed but these permissions, and what the block allows itself unless `is_closed`."""
    global _allowed, _is_closed
    before = _allowed, _is_closed
    _allowed, _is_closed = dict(permissions), is_closed
    try:
        yield
    finally:
        _allowed, _is_closed = before


def _key(name: str | os.PathLike[str]) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.suffix == ".py" or path.is_dir() else str(name)


def _digest(key: str) -> str:
    """sha256 of a file, or of all Python files in a model's folder; "" for a model on the hub, whose commit says it."""
    path = Path(key)
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []
    content = hashlib.sha256()
    for file in files:
        content.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return content.hexdigest() if files else ""
