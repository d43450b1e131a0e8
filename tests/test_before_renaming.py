"""Runs, evaluations, answers and studies that were made before the renaming (format 1) still open and go on."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunelab.answering import benchmark_responses, held_out_evaluation
from tunelab.answering.held_out_evaluation import evaluate
from tunelab.cli.main import main
from tunelab.comparison.compare_runs import compare_runs
from tunelab.comparison.evaluated import evaluated_in
from tunelab.config.renamed import LIKELIHOOD_FIELDS
from tunelab.errors import RunError
from tunelab.publishing.merge import merge
from tunelab.records.answers import read_answers
from tunelab.records.cells import keep_cell, read_cell, read_study
from tunelab.records.responses import ResponseFile, read_responses
from tunelab.records.runs import Run
from tunelab.report.content import read_report
from tunelab.studies.run_study import run_study
from tunelab.studies.study_report import study_report
from tunelab.training.finetune import resume

ARCHIVE = Path(__file__).parent / "golden" / "before_renaming" / "made.tar.gz"
VERSION = "0.1.0"  # of the tunelab that made it: a header names it


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files, unpacked into the working directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    for module in (held_out_evaluation, benchmark_responses):
        monkeypatch.setattr(module, "__version__", VERSION)
    return tmp_path


def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResponseFile, "append", lambda self, record: pytest.fail("an answer was made again"))


def test_a_run_s_recipe_reads_under_the_names_of_today(made: Path) -> None:
    recipe = Run(made / "runs/done").recipe
    assert (recipe.method, recipe.adapter.rank) == ("lora", 2)
    train = recipe.train
    assert (train.batch_size, train.batch_tokens, train.micro_batch_tokens) == (4, None, 160)
    assert (train.max_grad_norm, train.load_best_at_end, train.early_stopping_patience) == (0.5, True, 5)
    assert recipe.evaluate.micro_batch_tokens == 512
    full = next(path for path in (made / "study/runs").iterdir() if Run(path).model.exists())
    assert Run(full).recipe.method == "full"


def test_a_run_s_recipe_given_to_train_says_the_new_names(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "runs/done/recipe.yaml", "out=again"]) == 2
    assert "train.clip: renamed: train.max_grad_norm=0.5" in capsys.readouterr().err


def test_an_evaluation_is_found_and_nothing_is_made_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = "[lr]*s.jsonl"  # likelihoods and responses; answer scores are computed from them
    before = {path: path.read_bytes() for path in (made / "runs/done/evaluations").rglob(kept)}
    nothing_is_made(monkeypatch)
    scores = evaluate("runs/done")
    assert {path: path.read_bytes() for path in (made / "runs/done/evaluations").rglob(kept)} == before
    assert scores.loss_change is not None and scores.loss_change.value == pytest.approx(-0.3478, abs=1e-4)
    assert [score.name for score in scores.arms["tuned"]][:4] == [
        "completion_perplexity",
        "completion_bits_per_byte",
        "sequence_perplexity",
        "sequence_bits_per_byte",
    ]


def test_an_evaluation_that_was_stopped_goes_on(made: Path) -> None:
    whole = {}
    for path in (made / "runs/done/evaluations").glob("*/[lr]*s.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        whole[path] = (b"".join(lines[:4]), read_responses(path)[1])
        path.write_bytes(whole[path][0] + lines[4][:20])
    assert len(whole) == 4
    evaluate("runs/done")
    for path, (kept, before) in whole.items():
        assert path.read_bytes().startswith(kept) and b"format_version" not in path.read_bytes()
        _, records = read_responses(path)
        assert {one["item"]: one["prompt_hash"] for one in records} == {
            one["item"]: one["prompt_hash"] for one in before
        }
        if path.name == "likelihoods.jsonl":
            assert {key for one in records for key in one} == {"item", "prompt_hash", *LIKELIHOOD_FIELDS.values()}
            losses, again = ({one["item"]: one["completion_nll"] for one in part} for part in (before, records))
            assert again == pytest.approx(losses, rel=1e-3)


def test_base_and_tuned_are_compared_from_their_files(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {one.metric: one for one in compare_runs(made / "runs/done")}
    assert list(found) == ["completion_loss", "bleu", "rougeL"]
    assert found["completion_loss"].difference == pytest.approx(-0.3478, abs=1e-4)
    assert main(["compare", "runs/done", "--out", "report"]) == 0
    assert "completion loss" in capsys.readouterr().out


def test_a_run_is_merged(made: Path) -> None:
    merged = merge("runs/done", made / "merged", format="fp32")
    assert merged.quality is not None and merged.quality.kept_improvement == pytest.approx(1, abs=1e-3)


def test_a_run_that_was_stopped_goes_on(made: Path) -> None:
    run = resume("runs/stopped")
    assert run.status == "finished" and [one["step"] for one in run.metrics("train")] == [1, 2, 3, 4, 5, 6]
    # The recipe beside it keeps its old keys, so the manifest must not say that the run has a later format.
    assert "format_version" not in json.loads(run.manifest_file.read_text("utf-8")) and run.recipe.method == "lora"
    whole = Run(made / "runs/done").manifest["held_out_loss_after"]
    assert run.manifest["held_out_loss_after"] == pytest.approx(whole, rel=1e-3)


def test_answers_in_a_file_are_kept(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_is_made(monkeypatch)
    header, before = read_answers(made / "answers.jsonl")
    assert main(["generate", "runs/done", "--file", "prompts.jsonl", "--out", "answers.jsonl"]) == 0
    settings, after = read_answers(made / "answers.jsonl")
    assert settings == header and len(after) == len(before)
    for old in before:
        assert any(old.items() <= new.items() for new in after), "the same answer, with its prompt"


def test_every_job_of_a_study_is_found_under_its_key(made: Path) -> None:
    _, cells = read_study(made / "study")
    assert len(cells) == 7 and {cell.status for cell in cells} == {"done"}


def test_a_study_is_reported(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = read_report(made / "study/report.json"), study_report(made / "study")
    for report in (old, new):
        assert {one.name for one in report.scores if one.is_main} == {"completion_perplexity"}
        assert {one.metric for one in report.comparisons} == {"completion_loss", "bleu", "rougeL"}
        assert [one.metric for one in report.published] == ["completion_perplexity"]
        assert {"method", "train.max_grad_norm"} & {one.key for one in report.differences} == {"method"}
    # What was added since is not in a report of before; tests, intervals and power are computed otherwise since.
    later = ("outcome", "unit", "higher_is_better", "test", "p_is_bound", "could_be_shown", "exploratory", "degrees")
    computed = ("verdict", "low", "high", "p", "p_holm", "detectable", "item_error")
    assert len(old.comparisons) == len(new.comparisons) == 9
    for before, now in zip(old.comparisons, new.comparisons, strict=True):
        assert before == dataclasses.replace(now, **{name: getattr(before, name) for name in (*later, *computed)})
        assert before.test == "" and now.test
    added = ("chrf", "exact_match")
    assert list(old.scores) == [dataclasses.replace(one, by_seed=()) for one in new.scores if one.name not in added]
    assert main(["report", "study"]) == 0 and "completion perplexity" in capsys.readouterr().out
    assert json.loads((made / "study/report.json").read_text("utf-8"))["format_version"] == 2


def test_a_study_goes_on_with_the_one_job_that_is_missing(made: Path) -> None:
    study, cells = read_study(made / "study")
    lost = next(cell for cell in cells if cell.arm == "dropped" and cell.benchmark)
    (made / "study/cells" / f"{lost.key}.json").unlink()
    made_before = {cell.key: cell.seconds for cell in cells if cell != lost}
    done = run_study(study, made / "study")
    assert {cell.status for cell in done} == {"done"}
    assert {cell.key: cell.seconds for cell in done if cell.key != lost.key} == made_before
    assert json.loads((made / "study/study.json").read_text("utf-8"))["format_version"] == 2
    assert read_study(made / "study")[0] == study


def a_later_format(path: Path) -> None:
    """The file, or its first line where it has several records, as a later version might write it."""
    first, newline, rest = path.read_text("utf-8").partition("\n") if path.suffix == ".jsonl" else ("", "", "")
    content: dict[str, Any] = json.loads(first or path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "format_version": 3}) + newline + rest, encoding="utf-8")


LATER: dict[str, Callable[[Path], Any]] = {
    "runs/done/manifest.json": lambda path: Run(path.parent).manifest,
    "runs/stopped/manifest.json": lambda path: Run(path.parent).recipe,
    "answers.jsonl": read_answers,
    "runs/done/evaluations/tuned-7d140220/scores.json": lambda path: evaluated_in(path.parent),
    "study/study.json": lambda path: read_study(path.parent),
    "study/cells/train-92f6d64c8c.json": lambda path: read_cell(path.parents[1], path.stem),
    "study/report.json": read_report,
}


@pytest.mark.parametrize("name", LATER)
def test_a_later_format_is_refused_with_the_remedy(made: Path, name: str) -> None:
    LATER[name](made / name)
    a_later_format(made / name)
    with pytest.raises(RunError, match=r"has format 3, but this version of tunelab reads formats up to 2") as caught:
        LATER[name](made / name)
    assert "upgrade tunelab" in caught.value.hint and name.rpartition("/")[2] in caught.value.message


def test_what_is_written_names_its_format(made: Path) -> None:
    cell = read_cell(made / "study", "train-92f6d64c8c")
    assert cell is not None
    keep_cell(made / "study", cell)
    assert json.loads((made / "study/cells/train-92f6d64c8c.json").read_text("utf-8"))["format_version"] == 2
    assert read_cell(made / "study", cell.key) == cell
