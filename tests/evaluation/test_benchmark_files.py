"""Where a benchmark's files come from: a given folder, or the hub at a pinned commit; never a silent substitute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from tunelab.allowed_code import allow_code
from tunelab.errors import DataError, UsageError
from tunelab.evaluation.benchmark import Benchmark, HubFiles
from tunelab.evaluation.benchmark_files import benchmark_files, load_benchmark
from tunelab.models.precision import weight_format

HUB = Benchmark(
    "generate", "right", None, None, "a paper", "MIT", HubFiles("owner/items", "c0ffee", ("test/*.jsonl", "dev.csv"))
)


def test_a_folder_that_is_given_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("the hub was asked"))
    assert benchmark_files(HUB, str(tmp_path), name="own") == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert benchmark_files(HUB, f"~/{tmp_path.name}") == tmp_path
    with pytest.raises(DataError, match=r"^own\.data=nowhere: no such folder"):
        benchmark_files(HUB, "nowhere", name="own")


def test_files_are_fetched_at_the_pinned_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def fetched(repository: str, **given: Any) -> str:
        assert are_progress_bars_disabled()
        calls.append((repository, given))
        return str(tmp_path)

    before = are_progress_bars_disabled()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert benchmark_files(HUB, None, name="own") == tmp_path
    given = {"repo_type": "dataset", "revision": "c0ffee", "allow_patterns": ["test/*.jsonl", "dev.csv"]}
    assert calls == [("owner/items", given)]
    assert are_progress_bars_disabled() == before


def test_offline_the_error_says_how_to_give_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        DataError, match="own: owner/items@c0ffee: cannot be fetched, and is not in the cache"
    ) as caught:
        benchmark_files(HUB, None, name="own")
    assert "own.data=FOLDER" in caught.value.hint and "HF_HUB_OFFLINE" in caught.value.hint


def test_a_gated_repository_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(*given: Any, **more: Any) -> str:
        raise errors.GatedRepoError.__new__(errors.GatedRepoError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(DataError, match="own: owner/items@c0ffee: is gated") as caught:
        benchmark_files(HUB, None, name="own")
    assert "hf auth login" in caught.value.hint


def test_without_the_hub_a_folder_must_be_given() -> None:
    alone = Benchmark("generate", "right", None, None, "a paper", "MIT", None)
    with pytest.raises(DataError, match="own: its files are not on the hub") as caught:
        benchmark_files(alone, None, name="own")
    assert "own.data=FOLDER" in caught.value.hint


def test_a_module_that_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n", encoding="utf-8")
    allow_code(tmp_path / "mine.py")
    with pytest.raises(UsageError, match=r"mine\.py' lacks BENCHMARK, Options"):
        load_benchmark(str(tmp_path / "mine.py"))


@pytest.mark.parametrize("name", ["held-out.jsonl", "held-out.py"])
def test_a_file_with_the_name_of_held_out_rows(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"held-out\.\w+: a benchmark cannot be called held-out"):
        load_benchmark(str(tmp_path / name))


@pytest.mark.parametrize("code", ["x = 1\n", "Format = 5\n"])
def test_a_module_that_is_no_weight_format_is_refused(tmp_path: Path, code: str) -> None:
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    allow_code(tmp_path / "mine.py")
    with pytest.raises(UsageError, match=r"mine\.py' has no dataclass Format"):
        weight_format(str(tmp_path / "mine.py"))
