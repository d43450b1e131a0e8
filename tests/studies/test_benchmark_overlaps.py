"""A study says which training rows share text with its benchmarks' items, by name and row, before it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import model_folder, rows_file

from tunelab.config.study import Study, parse_study
from tunelab.preparation import lint as lint_module
from tunelab.studies.benchmark_overlaps import OVERLAPS_FILE, Overlaps, stored_overlaps, study_overlaps

SHARED = "the old man who lived near the river walked every morning to the small market"
ITEMS = {"asked": f"Is it true that {SHARED}?", "short": "Why?"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    model_folder(folder / "model", "llama")
    rows_file(folder / "clean.jsonl", rows=8)
    row = json.dumps({"prompt": "Go on.", "completion": f"They say {SHARED.upper()}."})
    rows = (folder / "clean.jsonl").read_text(encoding="utf-8") + row + "\n"
    (folder / "leaking.jsonl").write_text(rows, encoding="utf-8")
    lines = [json.dumps({"id": name, "prompt": text, "answer": "yes"}) for name, text in ITEMS.items()]
    (folder / "mine.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def study(files: Path, **changes: Any) -> Study:
    recipe = {"model": str(files / "model"), "data": {"sources": [str(files / "leaking.jsonl")], "template": "plain"}}
    clean = {"recipe": {"data": {"sources": [str(files / "clean.jsonl")]}}}
    tree = {
        "title": "t",
        "recipe": recipe,
        "arms": {"base": {"tuned": False}, "a": {}, "b": {"recipe": {"train": {"lr": 1e-3}}}, "clean": clean},
        "benchmarks": {"held-out": {}, str(files / "mine.jsonl"): {}},
    }
    return parse_study(tree | changes)


def test_a_row_is_found_by_item_and_number_once_for_arms_with_the_same_rows(files: Path, tmp_path: Path) -> None:
    found = study_overlaps(study(files), tmp_path)
    assert found is not None and found.compared == ("mine (1 of its 2 items are too short to be found)",)
    (one,) = found.findings
    assert one.arms == ("a", "b") and one.finding.rows == ("leaking.jsonl row 9",)
    assert one.finding.examples[0].shown.startswith("mine asked: Go on.")
    (said,) = found.sentences
    assert said.startswith(
        "warning: a and b: benchmark-overlap: 1 training row with 13 words in a row of 1 item of mine"
    )
    assert said.endswith("First: leaking.jsonl row 9: mine asked: Go on.")


def test_it_is_looked_for_again_only_if_rows_or_items_have_changed(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = study_overlaps(study(files), tmp_path)
    assert found is not None and stored_overlaps(tmp_path) == found
    monkeypatch.setattr(lint_module, "overlaps", lambda *_: pytest.fail("looked for again"))
    assert study_overlaps(study(files), tmp_path) == found
    monkeypatch.setattr(lint_module, "overlaps", lambda *_: [])
    clean = study_overlaps(study(files, arms={"a": {"recipe": {"data": {"size": 5}}}}), tmp_path)
    assert clean is not None and clean.findings == () and stored_overlaps(tmp_path) == clean
    (tmp_path / OVERLAPS_FILE).write_text('{"identity": 3}', encoding="utf-8")
    assert stored_overlaps(tmp_path) is None
    unkept = study_overlaps(study(files), tmp_path, keep=False)
    assert isinstance(unkept, Overlaps) and stored_overlaps(tmp_path) is None


def test_what_cannot_be_read_blocks_nothing_and_is_said(files: Path, tmp_path: Path) -> None:
    gone = {"held-out": {}, "mmlu": {"data": str(tmp_path / "gone")}}
    found = study_overlaps(study(files, benchmarks=gone), tmp_path)
    assert found is not None and found.findings == () and found.compared == ()
    assert found.sentences[0].startswith("rows were not compared with mmlu: ")
    arms = {"a": {"recipe": {"data": {"sources": [str(tmp_path / "gone.jsonl")]}}}}
    found = study_overlaps(study(files, arms=arms), tmp_path / "other")
    assert found is not None and found.sentences[0].startswith("the rows of a were not compared with benchmarks: ")
    assert stored_overlaps(tmp_path / "other") is None


def test_without_trainings_or_benchmarks_there_is_nothing_to_compare(files: Path, tmp_path: Path) -> None:
    assert study_overlaps(study(files, benchmarks={"held-out": {}}), tmp_path) is None
    assert study_overlaps(study(files, arms={"base": {"tuned": False}}), tmp_path) is None
