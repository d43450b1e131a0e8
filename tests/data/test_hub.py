"""Data sets from the hub: what is asked for, how it is named, and what is said where it cannot be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunelab.data.reader import load_examples
from tunelab.errors import DataError

ROWS = [
    {"instruction": "Say None.", "input": "", "output": "None"},
    {"instruction": "Sort.", "input": "b, a", "output": "a, b"},
    {"instruction": "1", "input": "null", "output": "2.0"},
]


class TestHub:
    """The hub itself is never asked: `datasets.load_dataset` is stood in for."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        import datasets

        calls: list[tuple[Any, ...]] = []

        def load_dataset(repository: str, subset: str | None, *, revision: str | None, split: str) -> Any:
            calls.append((repository, subset, revision, split))
            assert not datasets.is_progress_bar_enabled()
            return datasets.Dataset.from_list(ROWS)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    def fail(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> DataError:
        import datasets

        def load_dataset(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        with pytest.raises(DataError) as caught:
            load_examples("alpaca")
        return caught.value

    def test_pinned_revision_and_split(self, asked: list[tuple[Any, ...]]) -> None:
        import datasets

        shown = datasets.is_progress_bar_enabled()
        loaded = load_examples("alpaca")
        commit = "dce01c9b08f87459cf36a430d809084718273017"
        assert asked == [("tatsu-lab/alpaca", None, commit, "train")]
        assert loaded.origin == f"tatsu-lab/alpaca@{commit} train"
        assert loaded.examples[1].origin == "tatsu-lab/alpaca@dce01c9b train row 2"
        assert loaded.licence == "CC BY-NC 4.0" and loaded.rows_read == 3
        assert datasets.is_progress_bar_enabled() == shown

    def test_hub_rows_are_read_as_those_of_a_file(self, asked: list[tuple[Any, ...]], tmp_path: Path) -> None:
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(ROWS), encoding="utf-8")
        from_hub, from_file = load_examples("alpaca").examples, load_examples("alpaca", path=path).examples
        assert [made.messages for made in from_hub] == [made.messages for made in from_file]  # type: ignore[union-attr]

    def test_another_revision_split_and_repository(self, asked: list[tuple[Any, ...]]) -> None:
        first = load_examples("alpaca", revision="main", split="test")
        mapping = {"prompt": "instruction", "completion": "output"}
        second = load_examples("columns", repository="me/mine", subset="small", options=mapping)
        third = load_examples("auto", repository="me/mine", revision="v1")
        assert asked == [
            ("tatsu-lab/alpaca", None, "main", "test"),
            ("me/mine", "small", None, "train"),
            ("me/mine", None, "v1", "train"),
        ]
        assert first.origin == "tatsu-lab/alpaca@main test"
        assert second.origin == "me/mine:small@main train" and second.licence == "unknown (data of your own)"
        assert third.name == "alpaca" and third.origin == "me/mine@v1 train"
        assert len({first.fingerprint, second.fingerprint, third.fingerprint, load_examples("alpaca").fingerprint}) == 4

    def test_no_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list([]))
        with pytest.raises(DataError, match=r"tatsu-lab/alpaca@\w+ train: the split has no rows"):
            load_examples("alpaca")
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict())
        with pytest.raises(DataError, match="gave DatasetDict, expected the rows of one split"):
            load_examples("alpaca")

    def test_offline(self) -> None:
        """For real: the tests run with HF_HUB_OFFLINE=1, and nothing is in the cache."""
        with pytest.raises(DataError, match="the hub cannot be reached, and the data is not in the cache") as caught:
            load_examples("alpaca-gpt4")
        assert "unset HF_HUB_OFFLINE" in caught.value.hint and "give a local copy with `path`" in caught.value.hint
        assert "vicgalle/alpaca-gpt4@main split train" in caught.value.message

    def test_gated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from datasets.exceptions import DatasetNotFoundError

        error = self.fail(monkeypatch, DatasetNotFoundError("Dataset 'x' is a gated dataset on the Hub. Visit ..."))
        assert "is gated" in error.message and "hf auth login" in error.hint

    def test_missing_or_private(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from datasets.exceptions import DatasetNotFoundError

        error = self.fail(monkeypatch, DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub\nmore"))
        assert error.message.endswith("not found: Dataset 'x' doesn't exist on the Hub")
        assert "if it is private, log in with `hf auth login`" in error.hint

    def test_unknown_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        error = self.fail(monkeypatch, ValueError('Unknown split "x". Should be one of ["train"].'))
        assert 'cannot be loaded: Unknown split "x"' in error.message and "check split and revision" in error.hint

    def test_a_folder_of_the_repositorys_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "tatsu-lab" / "alpaca").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match="a local folder has the same name"):
            load_examples("alpaca")
