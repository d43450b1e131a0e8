"""`tunelab eval`: base and tuned side by side with errors, killed and resumed, and refused where rows have changed."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import tiny
from verbs import Bench, Command, run_recipe

from tunelab.answering.held_out_evaluation import evaluate
from tunelab.records.responses import ResponseFile

METRICS = ["completion perplexity", "completion bits per byte", "sequence perplexity", "sequence bits per byte"]
METRICS += ["bleu", "rouge1", "rouge2", "rougeL", "chrf", "exact match"]
#: With an error, with a bound where every item scored the same, or of a metric that cannot see the references.
VALUE = re.compile(r"-?[\d.,]+ ± [\d.,]+|[\d.]+ \([\d.]+ to [\d.]+\)|n/a")


@pytest.fixture
def run(bench: Bench, tmp_path: Path) -> Path:
    """A copy of the session's LoRA run, without evaluations."""
    shutil.copytree(bench.lora, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluations"))
    return tmp_path / "copy"


def records(run: Path, arm: str, name: str) -> list[bytes]:
    (path,) = run.glob(f"evaluations/{arm}-*/{name}.jsonl")
    return path.read_bytes().splitlines(keepends=True)


def test_a_run_is_measured_beside_its_base_with_errors(tunelab: Command, run: Path) -> None:
    said = tunelab("eval", run)
    assert said.code == 0
    assert said.cells["metric"] == ["base", "tuned", "unit", "better"]
    assert list(said.cells) == ["metric", *METRICS]
    for name in METRICS:
        base, tuned, _, better = said.cells[name]
        assert VALUE.fullmatch(base) and VALUE.fullmatch(tuned), name
        assert better == ("lower" if "per" in name else "higher")
    base, tuned = (float(cell.split()[0].replace(",", "")) for cell in said.cells["completion perplexity"][:2])
    assert tuned < base
    assert "± is one standard error over 6 held-out rows; answers and scores: " in said.err
    change = re.search(
        r"tuned minus base = (-[\d.]+) ± [\d.]+ nats per token \(negative is better\), paired over 6 rows \(\d",
        said.err,
    )
    assert change is not None and float(change[1]) == pytest.approx(math.log(tuned / base), abs=0.02)


def test_it_says_what_the_library_says_and_stores_it(tunelab: Command, run: Path) -> None:
    scores = evaluate(run)
    said = tunelab("eval", run)
    for score in scores.arms["tuned"]:
        if score.is_blind:
            assert said.cells[score.name][1] == "n/a" and f"{score.name} cannot see " in said.err
            continue
        shown = float(said.cells[score.name.replace("_", " ")][1].split()[0].replace(",", ""))
        assert shown == pytest.approx(score.value, rel=0.05, abs=0.01)
    (stored,) = run.glob("evaluations/tuned-*/scores.json")
    assert [score["name"] for score in json.loads(stored.read_text())["scores"]] == [
        s.name for s in scores.arms["tuned"]
    ]


def test_eval_and_compare_say_the_same_change(tunelab: Command, run: Path) -> None:
    said, compared = tunelab("eval", run), tunelab("compare", run)
    change = re.search(r"tuned minus base = (-[\d.]+) ± ", said.err)
    (line,) = [line for line in compared.out.splitlines() if "completion loss" in line]
    base, tuned, difference = re.split(r"  +", line)[2:5]
    assert change is not None and difference.startswith("-") and float(base) > float(tuned)
    assert float(difference) == pytest.approx(float(change[1]), abs=0.006)


def test_full_runs_are_measured_beside_their_base_too(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    shutil.copytree(bench.full, tmp_path / "copy")
    said = tunelab("eval", tmp_path / "copy", "--limit", "3")
    assert said.code == 0 and said.cells["metric"][:2] == ["base", "tuned"]
    base, tuned = (float(cell.split()[0].replace(",", "")) for cell in said.cells["completion perplexity"][:2])
    assert tuned < base


def test_limit_and_max_new_tokens(tunelab: Command, run: Path) -> None:
    said = tunelab("eval", run, "--limit", "2", "--max-new-tokens", "3", "--micro-batch-tokens", "200")
    assert said.code == 0 and "over 2 held-out rows" in said.err
    assert len(records(run, "tuned", "responses")) == 1 + 2
    answers = [json.loads(line) for line in records(run, "tuned", "responses")[1:]]
    assert all(len(answer["token_ids"]) <= 3 for answer in answers)


def test_micro_batch_tokens_changes_no_score(tunelab: Command, run: Path) -> None:
    small = tunelab("eval", run, "--micro-batch-tokens", "140")
    shutil.rmtree(run / "evaluations")
    assert tunelab("eval", run, "--micro-batch-tokens", "4096").out == small.out


@pytest.mark.parametrize(("file", "after"), [("responses", 2), ("likelihoods", 4)])
def test_an_evaluation_that_was_killed_goes_on_where_it_was(
    file: str, after: int, tunelab: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tunelab("eval", run)
    expected = {
        (arm, name): records(run, arm, name) for arm in ("base", "tuned") for name in ("responses", "likelihoods")
    }
    shutil.rmtree(run / "evaluations")
    real = ResponseFile.append
    made = []

    def killed(self: ResponseFile, record: dict[str, object]) -> object:
        if file in str(self.path) and "tuned-" in str(self.path):
            if len(made) == after:
                raise KeyboardInterrupt
            made.append(record)
        return real(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(ResponseFile, "append", killed)
        stopped = tunelab("eval", run)
    assert stopped.code == 130 and stopped.out == ""
    assert "hint: run the same command" in stopped.err and f"to resume: tunelab eval {run}\n" in stopped.err
    (path,) = run.glob(f"evaluations/tuned-*/{file}.jsonl")
    kept = path.read_bytes()
    assert len(kept.splitlines()) == 1 + after
    path.write_bytes(kept + b'{"item": "0000')  # as a kill in the middle of a line leaves it
    again = tunelab("eval", run)
    assert (again.code, again.out) == (0, whole.out)
    for (arm, name), lines in expected.items():
        assert sorted(records(run, arm, name)) == sorted(lines)
    assert path.read_bytes().startswith(kept), "what was made before is kept, not made again"


def test_a_second_evaluation_needs_no_new_answers(tunelab: Command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tunelab("eval", run)
    monkeypatch.setattr(ResponseFile, "append", lambda self, record: pytest.fail("an answer was made again"))
    assert tunelab("eval", run).out == first.out


def test_a_run_whose_data_has_changed_is_refused(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    rows = tiny.rows_file(tmp_path / "rows.jsonl")
    assert tunelab("train", run_recipe(tmp_path, bench.model, rows, train__steps=1)).code == 0
    text = rows.read_text()
    rows.write_text(text.replace("red", "green"))
    said = tunelab("eval", tmp_path / "run")
    assert said.code == 1 and said.out == ""
    assert "the held-out rows differ from those of its training" in said.err
    assert "hint: the new rows may be in the training set; restore the data, or train again" in said.err
    assert not (tmp_path / "run/evaluations").exists()
    rows.unlink()
    assert "error: " in tunelab("eval", tmp_path / "run").err
    rows.write_text(text)
    assert tunelab("eval", tmp_path / "run", "--limit", "2").code == 0


def test_a_model_alone_is_measured(tunelab: Command, bench: Bench) -> None:
    words = ["--model", bench.model, "--data", bench.rows, "--template", "plain", "data.held_out=6"]
    said = tunelab("eval", *words, "--limit", "2", "--max-new-tokens", "3")
    assert said.code == 0, said.err
    assert said.cells["metric"] == ["base", "unit", "better"] and list(said.cells) == ["metric", *METRICS]
    assert said.err.endswith("± is one standard error over 2 held-out rows; answers and scores: evaluations\n")
    assert len(list(Path("evaluations").glob("base-*/responses.jsonl"))) == 1


def test_a_model_with_an_adapter_gives_the_numbers_of_the_run(tunelab: Command, bench: Bench, run: Path) -> None:
    of_run = tunelab("eval", run)
    said = tunelab("eval", bench.recipe, "--adapter", run / "adapter", "--out", "measured")
    assert said.code == 0 and said.out == of_run.out
    assert Path("measured").is_dir()


def test_a_recipes_own_directory_is_left_free_for_training(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    recipe = run_recipe(tmp_path, bench.model, bench.rows)
    said = tunelab("eval", recipe, "--limit", "1")
    assert said.code == 0 and f"{tmp_path}/run-evaluations" in said.err
    assert not (tmp_path / "run").exists()


def test_a_folder_without_an_adapter_is_refused(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    said = tunelab("eval", bench.recipe, "--adapter", tmp_path)
    assert said.code == 1 and f"{tmp_path}: no adapter found (no adapter_config.json)" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to evaluate"),
        (["data.seed=1"], "nothing to evaluate"),
        (["nowhere"], "nowhere: no such run"),
        (["RUN", "data.seed=1"], "a run is evaluated with its own recipe; data.seed=1 cannot change it"),
        (["RUN", "--seed", "1", "--out", "x"], "with its own recipe; --seed, --out cannot change it"),
        (["RUN", "--model", "gpt2"], "with its own recipe; --model cannot change it"),
        (["RUN", "--adapter", "x"], "with its own recipe; --adapter cannot change it"),
        (["RUN", "RUN"], "cannot change it"),
        (["RUN", "--limit", "0"], "--limit is 0, expected a positive integer"),
        (["RUN", "--max-new-tokens", "-1"], "--max-new-tokens is -1, expected a positive integer"),
        (["--model", "gpt2"], "data: is missing"),
    ],
)
def test_wrong_uses(words: list[str], message: str, tunelab: Command, bench: Bench) -> None:
    said = tunelab("eval", *[str(bench.lora) if word == "RUN" else word for word in words])
    assert said.code == 2 and said.out == "" and message in said.err
    assert "hint: " in said.err or "positive" in said.err or "add it" in said.err


def test_a_directory_that_is_no_run_is_refused(tunelab: Command, tmp_path: Path) -> None:
    said = tunelab("eval", tmp_path)
    assert said.code == 1 and f"{tmp_path}: no run there (no recipe.yaml)" in said.err


def test_an_unfinished_run_is_refused(tunelab: Command, run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    said = tunelab("eval", run)
    assert said.code == 1 and f"{run}: the run is interrupted, not finished" in said.err
    assert f"hint: tunelab train --resume {run}" in said.err


def test_a_run_without_held_out_rows_is_refused(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    tunelab("train", run_recipe(tmp_path, bench.model, bench.rows, data__held_out=0, train__steps=1))
    said = tunelab("eval", tmp_path / "run")
    assert said.code == 1 and "there are no held-out rows to evaluate on" in said.err
    assert "data.held_out=0.05" in said.err
