"""A file's name is its registration: found without importing, loaded by name, path or entry point."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tunelab import plugins
from tunelab.allowed_code import allow_code
from tunelab.errors import UsageError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder of the test's own with two modules, one of them named with an underscore inside."""
    folder = tmp_path / "things"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "_shared.py").write_text("", encoding="utf-8")
    (folder / "two_words.py").write_text('"""Two words.\n\nMore."""\n', encoding="utf-8")
    (folder / "broken.py").write_text('"""Must not be run."""\nraise RuntimeError("imported")\n', encoding="utf-8")
    (folder / "bare.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(plugins, "PACKAGE", tmp_path)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    return tmp_path


def test_names_are_file_names_without_those_of_the_house(package: Path) -> None:
    assert plugins.names("things") == ["bare", "broken", "two-words"]


def test_names_of_a_folder_that_does_not_exist(package: Path) -> None:
    assert plugins.names("nothing") == []


def test_summary_is_read_without_importing(package: Path) -> None:
    assert plugins.summary("things", "two-words") == "Two words."
    assert plugins.summary("things", "broken") == "Must not be run."
    assert plugins.summary("things", "bare") == ""
    assert plugins.summary("things", "absent") == ""


def test_a_module_of_the_package_is_loaded_by_name() -> None:
    module = plugins.load("cli", "schema")
    assert module is sys.modules["tunelab.cli.schema"]


def test_an_unknown_name_gets_the_nearest_and_all_known(package: Path) -> None:
    with pytest.raises(UsageError, match=r"^no thing named 'two-word'; did you mean 'two-words'[?]$") as caught:
        plugins.load("things", "two-word")
    assert caught.value.hint == "known: bare, broken, two-words; or give the path of your own .py file"


def test_an_unknown_name_near_nothing(package: Path) -> None:
    with pytest.raises(UsageError, match=r"^no thing named 'zzz'$"):
        plugins.load("things", "zzz")


def test_a_file_of_the_user_s_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("answer = 42\n", encoding="utf-8")
    allow_code(tmp_path / "mine.py")
    assert plugins.load("things", str(tmp_path / "mine.py")).answer == 42


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.py: no such file") as caught:
        plugins.load("things", str(tmp_path / "none.py"))
    assert caught.value.hint == "give the path of an existing .py file, or a known name"


def test_a_file_that_python_cannot_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("", encoding="utf-8")
    allow_code(tmp_path / "mine.py")
    monkeypatch.setattr("importlib.util.spec_from_file_location", lambda name, path: None)
    with pytest.raises(UsageError, match=r"mine\.py: cannot be imported as a Python module"):
        plugins.load("things", str(tmp_path / "mine.py"))


def test_entry_points_stand_beside_files(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def installed(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("outside", "tunelab.units", group), EntryPoint("wrong", "tunelab.units:GIB", group)]

    monkeypatch.setattr(plugins, "entry_points", installed)
    assert plugins.names("data/things") == ["outside", "wrong"]
    assert plugins.load("data/things", "outside").__name__ == "tunelab.units"
    with pytest.raises(UsageError, match=r"entry point 'wrong' of tunelab\.things is int, not a module"):
        plugins.load("data/things", "wrong")
    assert set(asked) == {"tunelab.things"}


def test_installed_packages_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.entry_points.cache_clear()
    asked: list[str] = []
    read = plugins.metadata.entry_points
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: asked.append(group) or read(group=group))
    assert plugins.names("cli") == plugins.names("cli")
    assert asked == ["tunelab.cli"]
