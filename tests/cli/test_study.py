"""`tunelab study run`, `tunelab report` and `tunelab compare` at the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from own_benchmarks import write_benchmarks
from verbs import Bench, Command

from tunelab.training.loop import TrainingLoop


@pytest.fixture
def study(bench: Bench, tmp_path: Path) -> Path:
    """A study on the bench's model and rows: a base, an arm that is tuned, and one that cannot be trained."""
    own = write_benchmarks(tmp_path / "own", items=12)
    recipe: dict[str, Any] = yaml.safe_load(bench.recipe.read_text(encoding="utf-8"))
    recipe.pop("out", None)
    recipe["data"]["held_out"] = 6
    tree = {
        "title": "Does <b>LoRA</b> help?",
        "recipe": recipe,
        "arms": {"base": {"tuned": False}, "lora": {}},
        "benchmarks": {"held-out": {}, str(own.choices): {"data": str(own.data), "limit": 8}},
        "questions": [{"ask": "Does LoRA help?", "is_better": "lora", "than": "base", "on": "held-out"}],
        "price_per_hour": 1.5,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def change(study: Path, **keys: Any) -> None:
    """Lay keys over the study, and leave out its second benchmark, which takes a third of its time."""
    tree = yaml.safe_load(study.read_text(encoding="utf-8"))
    study.write_text(yaml.safe_dump({**tree, "benchmarks": {"held-out": {}}, **keys}), encoding="utf-8")


def test_a_study_from_its_list_of_cells_to_its_page(tunelab: Command, study: Path) -> None:
    said = tunelab("study", "run", study, "--out", "made", "--dry-run")
    assert said.code == 0, said.err
    assert "5 jobs, 5 to run" in said.err and not Path("made").exists()
    said = tunelab("study", "run", study, "--out", "made")
    assert said.code == 0, said.err
    assert said.out.startswith("Does LoRA help? ")
    assert "caveat: " in said.err and "\nreport: made/report.html" in said.err
    # Without a terminal it is followed in lines.
    lines = [line for line in said.err.splitlines() if line.startswith("3/5: ")]
    assert [line.split("  ")[0] for line in lines] == [
        "3/5: lora, seed 0: held-out loss: 6/6",
        *(f"3/5: lora, seed 0: training: {step}/4" for step in range(1, 5)),
        "3/5: lora, seed 0: held-out loss: 6/6",
    ]
    assert all("tokens/s" in line for line in lines[1:5])
    page = Path("made/report.html").read_text(encoding="utf-8")
    assert "Does &lt;b&gt;LoRA&lt;/b&gt; help?" in page and "<b>LoRA" not in page
    assert "lora" in Path("made/report.md").read_text(encoding="utf-8")
    said = tunelab("study", "run", study, "--out", "made", "--dry-run")
    assert "5 jobs, 0 to run\n" in said.err
    # Chat, generate and merge take a job's run, which has no checkpoints left.
    (run,) = Path("made/runs").iterdir()
    assert (
        not (run / "checkpoints").exists()
        and tunelab("generate", run, "--prompt", "One", "--max-new-tokens", "2").code == 0
    )
    said = tunelab("merge", run, "--out", "merged")
    assert said.code == 0, said.err
    # Rendered again without a model, from the directory and from the one file.
    for path in ("made", "made/report.json"):
        Path("made/report.html").unlink()
        again = tunelab("report", path)
        assert again.code == 0 and Path("made/report.html").read_text(encoding="utf-8") == page


def test_studies_that_ship_are_listed_and_run_by_name(tunelab: Command) -> None:
    said = tunelab("study", "list")
    assert said.code == 0
    name, title, needs, *_ = said.out.splitlines()
    assert name == "distilgpt2-qlora-vs-full"
    assert title == "  DistilGPT-2 on 800 Alpaca rows: QLoRA against full fine-tuning"
    assert needs.startswith("  needs: model and data from the hub (0.4 GB, not gated;") and needs.endswith("is enough.")
    assert said.out.count("\n  needs: ") == 11
    assert f"with a real model of 135M, --scale small: {name}, " in said.err and "tinystories" not in said.err
    said = tunelab("study", "run", name, "--dry-run")
    assert "jobs" in said.err and said.code == (1 if "missing: arms." in said.err else 0), (
        "offline the model is missing"
    )
    Path(name).write_text("title: mine\n", encoding="utf-8")
    assert "arms: is missing" in tunelab("study", "run", name, "--dry-run").err, "a file of that name is that file"


def test_a_failed_cell_is_told_and_the_exit_code_says_so(tunelab: Command, study: Path) -> None:
    change(study, arms={"base": {"tuned": False}, "lora": {}, "broken": {"recipe": {"train": {"lr": 1e30}}}})
    said = tunelab("study", "run", study, "--out", "made")
    assert said.code == 1
    assert "failed: broken, seed 0: training: TrainingError" in said.err
    assert "lora" in said.out and "broken" in said.out


def test_a_stopped_study_says_how_the_study_resumes(
    tunelab: Command, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(study)
    real = TrainingLoop.run

    def interrupted(self: TrainingLoop) -> object:
        self.should_stop = lambda: True
        return real(self)

    words = ["study", "run", study, "--out", "made here", "--set", "seeds=[0]"]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "run", interrupted)
        said = tunelab(*words)
    assert said.code == 130 and "error: lora, seed 0: training: stopped after step 1 of 4; a checkpoint" in said.err
    command = f"tunelab study run {study} --out 'made here' --set 'seeds=[0]'"
    assert f"hint: run the same command to resume: {command}\n" in said.err
    assert "train --resume" not in said.err
    assert tunelab(*words).code == 0


def test_a_missing_data_file_is_reported_before_the_first_job(tunelab: Command, study: Path) -> None:
    said = tunelab("study", "run", study, "--out", "made", "--set", "recipe.data.sources=[gone.jsonl]")
    assert said.code == 2 and "arms.base: data: gone.jsonl: no such file\n" in said.err
    said = tunelab("study", "run", study, "--out", "made", "--set", "recipe.data.sources=[gone.jsonl]", "--dry-run")
    assert said.code == 1 and "missing: arms.base: data: gone.jsonl: no such file\n" in said.err
    assert not list(Path("made").glob("cells/*")), "no job has failed: none has run"


def test_changes_reach_every_arm(tunelab: Command, study: Path, bench: Bench) -> None:
    said = tunelab("study", "run", study, "--dry-run", "--set", "seeds=[0, 1]", "--set", f"model={bench.model}")
    assert said.code == 0 and "8 jobs" in said.err
    said = tunelab("study", "run", study, "--dry-run", "--set", "arms.lora.recipe.train.lrr=1")
    assert said.code == 2 and "arms.lora: train.lrr: unknown key" in said.err


def test_wrong_uses(tunelab: Command) -> None:
    said = tunelab("study", "run", "nowhere.yaml")
    assert said.code == 2 and "nowhere.yaml: no such study" in said.err and "`tunelab study list`" in said.err
    assert "error: no study given\n" in tunelab("study", "run").err
    said = tunelab("study", "list", "phi3-alpaca-cleaned")
    assert said.code == 2 and "hint: to run it: tunelab study run phi3-alpaca-cleaned\n" in said.err
    said = tunelab("report", ".")
    assert said.code == 1 and "no study there" in said.err


def test_two_evaluations_are_compared(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    own = write_benchmarks(tmp_path / "own")
    words = ["--benchmarks", own.choices, f"choices.data={own.data}"]
    for out, more in (("plain", []), ("few", ["--precision", "nf4"])):
        said = tunelab("eval", bench.model, *words, *more, "--out", out)
        assert said.code == 0, said.err
    said = tunelab("compare", "plain", "few", "--flips")
    assert said.code == 0, said.err
    assert said.cells["choices"][0] == "right" and said.cells["choices"][-1] == "20"
    assert "precision differs: none and nf4" in said.err
    assert "difference" in said.err
    said = tunelab("compare", "plain", "few", "more")
    assert said.code == 2 and "3 runs given" in said.err
    records = [json.loads(line) for line in next(Path("few").glob("*/grades.jsonl")).read_text().splitlines()]
    assert len(records) == 20
