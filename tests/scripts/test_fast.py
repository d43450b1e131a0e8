"""`make fast` runs the tests of what was changed, each once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("fast", REPOSITORY / "scripts" / "fast.py")
assert spec is not None and spec.loader is not None
fast = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fast)


def test_a_room_stands_for_its_tests() -> None:
    assert fast.tests_of(["src/tunelab/scoring/score.py", "src/tunelab/units.py", "README.md"]) == [
        "tests/invariants/test_imports.py",
        "tests/scoring",
        "tests/test_units.py",
    ]


def test_a_test_file_stands_for_itself_and_is_not_run_twice() -> None:
    files = ["tests/scoring/test_score.py", "tests/data/test_packing.py", "src/tunelab/scoring/grading.py"]
    assert fast.tests_of(files) == ["tests/data/test_packing.py", "tests/invariants/test_imports.py", "tests/scoring"]


def test_a_file_that_was_deleted_is_not_run() -> None:
    assert fast.tests_of(["tests/data/test_gone.py"]) == ["tests/invariants/test_imports.py"]
