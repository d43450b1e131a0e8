"""`--data OWNER/NAME`: a dataset on the hub is read by its columns, like a file, and the commit is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from tunelab.config import load_recipe, resolve
from tunelab.data.reader import load_examples
from tunelab.errors import DataError
from tunelab.studies.arm_settings import source_name

COMMIT = "0123456789" * 4
SPLITS = {
    "train": [{"instruction": "Sort.", "input": "b, a", "output": "a, b"}] * 3,
    "test": [{"instruction": "Count.", "input": "", "output": "1"}],
    "german": [{"frage": "a", "antwort": "b"}],
}


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In place of the hub: splits in a cache whose folders have the commit's name, as those of `datasets` have."""

    def load_dataset(repository: str, subset: str | None, *, revision: str | None, split: str) -> Any:
        assert (repository, subset) == ("me/mine", None)
        folder = tmp_path / split / COMMIT
        datasets.Dataset.from_list(SPLITS[split]).save_to_disk(str(folder))
        return datasets.load_from_disk(str(folder))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.usefixtures("stand")
def test_the_columns_are_seen_and_the_commit_recorded() -> None:
    loaded = load_examples("auto", repository="me/mine")
    assert (loaded.name, loaded.rows_read) == ("alpaca", 3)
    assert loaded.origin == f"me/mine@{COMMIT} train"
    other = load_examples("auto", repository="me/mine", split="test", revision="v1")
    assert (other.rows_read, other.origin) == (1, f"me/mine@{COMMIT} test")
    assert other.identity == "hub:me/mine@v1 test"  # what was asked for: the rows themselves are in the fingerprint


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("me/mine", {"name": "auto", "repository": "me/mine"}),
        ("me/my.rows-2", {"name": "auto", "repository": "me/my.rows-2"}),
        ("sources/own.py", {"name": "sources/own.py"}),
        ("./own.py", {"name": "./own.py"}),
        ("data/rows.jsonl", {"name": "auto", "path": "data/rows.jsonl"}),
        ("alpaca", {"name": "alpaca"}),
    ],
)
def test_what_a_short_source_means(value: str, expected: dict[str, str]) -> None:
    recipe = resolve(load_recipe(None, ["data.sources.0.split=test"], {"model": "m", "data.sources": [value]}))
    (source,) = recipe.data.sources
    assert source.split == "test"
    assert source.model_dump(include={"name", "path", "repository"}, exclude_none=True) == expected
    if "repository" in expected:
        assert source_name(source) == value


@pytest.mark.usefixtures("stand")
def test_columns_that_are_not_known_are_named_with_a_mapping_to_fill_in() -> None:
    with pytest.raises(DataError, match=rf"me/mine@{COMMIT} german: the columns frage, antwort fit no known") as caught:
        load_examples("auto", repository="me/mine", split="german")
    mapping = "{name: columns, repository: me/mine, options: {prompt: COLUMN, completion: COLUMN}}"
    assert mapping in caught.value.hint


@pytest.mark.usefixtures("stand")
def test_a_local_file_is_not_asked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.txt").write_text("{}")
    with pytest.raises(DataError, match=r"data/rows\.txt: is a local file of no kind") as caught:
        load_examples("auto", repository="data/rows.txt")
    assert "rename it to end with .json" in caught.value.hint
