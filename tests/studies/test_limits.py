"""A benchmark's limit that is changed and changed back: what was measured is used again, and nothing is mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from study_files import study_of, write_study_files

from tunelab.answering.held_out_evaluation import evaluate_model
from tunelab.config.study import Study
from tunelab.records.cells import known_cells
from tunelab.studies.run_study import run_study
from tunelab.studies.study_report import study_report


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


def limited(files: Path, limit: int | None) -> Study:
    benchmarks = {
        "held-out": {"limit": limit},
        str(files / "choices.py"): {"limit": limit, "data": str(files / "data")},
    }
    return study_of(files, seeds=[0], arms={"base": {"tuned": False}}, questions=[], benchmarks=benchmarks)


def measured(folder: Path) -> list[tuple[str, int]]:
    """Benchmark and items of every headline score in the report."""
    return [(Path(one.benchmark).stem, one.n) for one in study_report(folder).scores if one.is_main]


def test_limits_that_change_back_and_forth(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (3, 5, 3, 5):
        cells = run_study(limited(files, limit), tmp_path)
        assert {cell.status for cell in cells} == {"done"}
        assert measured(tmp_path) == [("held-out", limit), ("choices", limit)]

    def nothing_left(model: Any, tokenizer: Any, prompts: list[Any], *_: Any, skip: Any, **more: Any) -> Any:
        assert len(skip) == len(prompts), "answers are generated again"
        return iter(())

    monkeypatch.setattr("tunelab.evaluation.runner.generate", nothing_left)
    run_study(limited(files, 3), tmp_path)
    assert measured(tmp_path) == [("held-out", 3), ("choices", 3)]


def test_an_evaluation_by_hand_with_another_limit_is_not_taken_for_the_study_s(files: Path, tmp_path: Path) -> None:
    study = limited(files, 3)
    run_study(study, tmp_path)
    recipe = study.arm_recipe("base", 0)
    wider = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"limit": 4})})
    evaluate_model(wider, out=tmp_path / "evaluations")
    assert [cell.status for cell in known_cells(study, tmp_path)] == ["waiting", "done"]
    assert ("held-out", 4) not in measured(tmp_path)
    run_study(study, tmp_path)
    assert measured(tmp_path) == [("held-out", 3), ("choices", 3)]
