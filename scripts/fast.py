"""Lint, types, and the tests of the rooms that differ from the last commit. Usage: python scripts/fast.py [COMMIT]

A file of `src/tunelab/ROOM` stands for `tests/ROOM`, a test file for itself; what every test uses (tests/*.py that are
no tests, `errors`, `files`, ...) stands for the invariants alone: `make test` runs all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ALWAYS = "tests/invariants/test_imports.py"


def changed_files(commit: str) -> list[str]:
    """Paths that differ from a commit, new files included."""
    commands = (["git", "diff", "--name-only", commit], ["git", "ls-files", "--others", "--exclude-standard"])
    found: list[str] = []
    for command in commands:
        found += subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    return found


def tests_of(paths: Iterable[str]) -> list[str]:
    """What pytest is given for these paths: folders and files, each once, a file inside a given folder left out."""
    wanted = {ALWAYS}
    for path in paths:
        parts = Path(path).parts
        name = parts[-1]
        if parts[0] == "tests" and name.startswith("test_") and name.endswith(".py"):
            wanted.add(path)
        elif parts[:2] == ("src", "tunelab") and len(parts) > 2:
            room = parts[2].removesuffix(".py")
            wanted |= {test for test in (f"tests/{room}", f"tests/test_{room}.py") if (REPOSITORY / test).exists()}
    folders = {one for one in wanted if not one.endswith(".py")}
    return sorted(
        one for one in wanted if (REPOSITORY / one).exists() and not folders & set(map(str, Path(one).parents))
    )


def main(commit: str = "HEAD") -> int:
    """Exit code of the first step that fails."""
    programs = Path(sys.executable).parent
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-n", "2", "--dist", "loadfile"]
    steps = (
        [programs / "ruff", "check", "."],
        [programs / "ruff", "format", "--check", "."],
        [programs / "mypy"],
        [*pytest, *tests_of(changed_files(commit))],
    )
    for step in steps:
        code = subprocess.run(step, cwd=REPOSITORY, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
