"""Promise: every key of a recipe, a study and a benchmark is read by the code that it should change.

A key counts as read where the code outside config/ takes it from its section: `recipe.train.lr`, `settings.lr`.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import tunelab
from tunelab import plugins
from tunelab.config.reference import recipe_keys
from tunelab.config.study_reference import study_keys
from tunelab.evaluation.benchmark_files import FOLDER, load_benchmark

SOURCE = Path(tunelab.__file__).parent

#: What the code calls one entry of a list or mapping, or a section that is passed alone.
OWNERS = {
    "N": {"source", "settings", "one", "question"},
    "NAME": {"arm", "one"},
    "": {"recipe", "study", "self", "found"},
}

#: Read as plain YAML, by the scale's name, before there is a typed study.
SCALES = {"tiny", "small"}


@pytest.fixture(scope="module")
def reads() -> dict[str, set[str]]:
    """Attribute -> the names that it is read from."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        if path.is_relative_to(SOURCE / "config") and path.name != "study.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                found[node.attr].add(getattr(owner, "attr", getattr(owner, "id", "")))
                if isinstance(owner, ast.Subscript) and isinstance(owner.value, ast.Attribute):
                    found[node.attr].add(owner.value.attr.removesuffix("s"))
    return found


def nothing_reads(path: str, reads: dict[str, set[str]]) -> str:
    """Why a key counts as unread, or ""."""
    above, _, key = path.rpartition(".")
    section = above.rpartition(".")[2]
    owners = OWNERS.get(section, {section, "settings", "self"})
    if key in SCALES:
        text = (SOURCE / "config" / "scales.py").read_text(encoding="utf-8")
        return "" if f'"{key}"' in text and ".get(scale)" in text else path
    # A word of Python's own has an underscore there: as_.
    read = (reads[key] | reads[f"{key}_"]) & owners
    return "" if read else f"{path}: nothing reads {key} from any of {sorted(owners)}"


def test_every_key_is_read(reads: dict[str, set[str]]) -> None:
    paths = [key.path for key in (*recipe_keys(), *study_keys())]
    assert len(paths) > 100
    assert [said for path in paths if (said := nothing_reads(path, reads))] == []
    assert nothing_reads("train.never_read", reads).startswith("train.never_read: nothing reads never_read from")


@pytest.mark.parametrize("name", plugins.names(FOLDER))
def test_an_option_of_a_benchmark_is_read(name: str) -> None:
    module = load_benchmark(name)
    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    for option in module.Options.model_fields:
        assert option == "data" or f"options.{option}" in text, f"{name}.{option} is read by nothing"
