"""`--scale small` plans every study that has it, from local files alone, and is refused in a line for each lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunelab.cli.main import main
from tunelab.config.shipped_studies import ShippedStudy, shipped_studies
from tunelab.config.study import load_study
from tunelab.studies.stand_ins import ITEMS, ROWS

SMALL = [one for one in shipped_studies() if one.has_small_scale]
IDS = [one.name for one in SMALL]


@pytest.mark.parametrize("shipped", SMALL, ids=IDS)
def test_it_is_planned_from_local_files(
    shipped: ShippedStudy, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = shipped.name
    study = load_study(name, scale="small")
    (source,) = study.arm_recipe(next(iter(study.arms)), 0).data.sources
    rows = {"name": source.name, "path": str(ROWS[source.name]), "options": source.options}  # also of a hub data set
    changes = [f"model={models['llama']}", f"recipe.data.sources=[{rows}]", "recipe.data.max_length=64"]
    changes += [f"benchmarks.{name}.data={ITEMS[name]}" for name in study.benchmarks if name in ITEMS]
    words = ["study", "run", name, "--scale", "small", "--dry-run", "--out", str(tmp_path / "made")]
    assert main([*words, *(word for change in changes for word in ("--set", change))]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("Small scale: llama in place of ") and "missing:" not in shown.err
    assert "trainings: " in shown.err and "seed 2: training" in shown.out
    assert not (tmp_path / "made").exists()


def test_offline_each_thing_that_is_missing_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", "run", "llama2-oasst1-qlora-vs-lora", "--scale", "small"]) == 2
    _, said = capsys.readouterr().err.split("error: before the first job: 3 problems\n")
    lines = said.splitlines()
    assert [line.partition(": ")[0].strip() for line in lines[::2]] == ["arms.lora", "arms.lora", "benchmarks.mmlu"]
    assert "data: OpenAssistant/oasst1@" in lines[0] and "not in the cache" in lines[0]
    assert "or give a local copy with `path`" in lines[1]
    assert "model HuggingFaceTB/SmolLM2-135M-Instruct: not on this machine" in lines[2]
    assert "hf download" in lines[3] and "mmlu.data=FOLDER" in lines[5]
    assert len(lines) == 6 and not Path("study-llama2-oasst1-qlora-vs-lora-small/cells").exists()
