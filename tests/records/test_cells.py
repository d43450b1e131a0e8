"""A study's jobs belong to what they measure, whatever their arms were called when their records were written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunelab.config.study import Study, parse_study
from tunelab.records.cells import RECORDS, cells_of, keep_cell, known_cells


def study_of(arms: dict[str, Any]) -> Study:
    recipe = {"model": "small", "data": {"sources": ["rows.jsonl"]}}
    return parse_study({"title": "names", "recipe": recipe, "arms": arms, "benchmarks": {"held-out": {}}})


def test_a_job_is_of_the_arm_that_the_study_names_now(tmp_path: Path) -> None:
    first, second = ({"tuned": False, "recipe": {"model": name}} for name in ("one", "two"))
    before = study_of({"base": first, "rank-8": {"recipe": {"adapter": {"rank": 8}}}})
    for cell in known_cells(before, tmp_path):
        keep_cell(tmp_path, replace(cell, status="failed", error="stopped", seconds=2.0))
    # The names are given to others; what they meant has new ones.
    now = study_of(
        {
            "base": second,
            "other": first,
            "rank-8": {"recipe": {"adapter": {"rank": 16}}},
            "lora": {"recipe": {"adapter": {"rank": 8}}},
        }
    )
    found = {cell.title: cell for cell in known_cells(now, tmp_path)}
    assert [title for title, cell in found.items() if cell.status == "failed"] == [
        "other: held-out",
        "lora, seed 0: training",
        "lora, seed 0: held-out",
    ]
    assert found["other: held-out"].seconds == 2.0
    assert now.arm_recipe(found["other: held-out"].arm, 0).model.name == "one"


def test_a_job_has_the_key_of_the_study_whatever_its_record_says(tmp_path: Path) -> None:
    study = study_of({"lora": {}})
    keys = [cell.key for cell in known_cells(study, tmp_path)]
    for cell in known_cells(study, tmp_path):
        keep_cell(tmp_path, replace(cell, status="done"))
        record = tmp_path / RECORDS / f"{cell.key}.json"
        record.write_text(
            record.read_text(encoding="utf-8").replace(f'"{cell.key}"', '"../../other"', 1), encoding="utf-8"
        )
    found = known_cells(study, tmp_path)
    assert [cell.key for cell in found] == keys and {cell.status for cell in found} == {"done"}


@pytest.mark.parametrize(("sizes", "is_marked"), [((10,), False), ((10, None), False), ((None, 10), True)])
def test_jobs_whose_rows_were_others_before_have_new_keys(
    sizes: tuple[int | None, ...], is_marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources after the first were sampled in the order of the first: an old study's trainings used other rows."""
    sources = [{"name": "alpaca", "size": size} for size in sizes]
    recipe = {"model": "small", "data": {"sources": sources}}
    arms = {"base": {"tuned": False}, "lora": {}}
    tree = {"title": "t", "recipe": recipe, "arms": arms, "benchmarks": {"held-out": {}, "mmlu": {}}}
    now = [cell.key for cell in cells_of(parse_study(tree))]
    monkeypatch.setattr("tunelab.records.cells.are_sampled_apart", lambda sizes: False)
    before = [cell.key for cell in cells_of(parse_study(tree))]
    differ = [one.rpartition("-")[0] for one, other in zip(now, before, strict=True) if one != other]
    assert differ == (["held-out", "train", "held-out", "mmlu"] if is_marked else [])
