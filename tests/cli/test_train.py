"""`tunelab train`: every form of asking for a run, what it says, and what it refuses."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_tokenizers import byte_tokenizer
from verbs import Bench, Command, run_recipe

from tunelab.config import load_recipe
from tunelab.records.runs import open_run
from tunelab.training.finetune import finetune
from tunelab.training.loop import TrainingLoop
from tunelab.training.throughput import shown

QUICK = ["train.steps=1", "train.device=cpu", "train.dtype=fp32", "data.held_out=0", "data.template=plain"]


def test_a_recipe_file_gives_a_run_and_a_summary(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    said = tunelab("train", run_recipe(tmp_path, bench.model, bench.rows))
    run = open_run(tmp_path / "run")
    assert said.code == 0 and run.is_done and run.adapter.exists()
    assert said.cells["run"] == [str(run.path)] and said.cells["status"] == ["finished"]
    assert said.cells["rows"] == ["18"] and said.cells["steps"] == ["4"]
    manifest = run.manifest
    assert said.cells["target tokens"] == [f"{manifest['trained']['targets']:,}"]
    assert said.cells["speed"][0].endswith(" tokens/s")
    before, after = manifest["held_out_loss_before"], manifest["held_out_loss_after"]
    assert said.cells["held-out loss"] == [f"{before:.4f} -> {after:.4f} nats per target token"]
    assert after < before


def test_rows_with_dropped_characters_are_counted(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    byte_tokenizer(replaced=("é", "")).save_pretrained(shutil.copytree(bench.model, tmp_path / "model"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "café", "completion": "red"}\n{"prompt": "cafe", "completion": "blue"}\n')
    said = tunelab("train", "--model", tmp_path / "model", "--data", rows, *QUICK)
    assert said.code == 0 and said.cells["rows with dropped characters"] == ["1"]
    assert "rows with dropped characters" not in tunelab("train", bench.recipe, "--out", "plain", "train.steps=1").cells


def test_the_next_commands_are_words_and_go_to_stderr(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    said = tunelab("train", run_recipe(tmp_path, bench.model, bench.rows, train__steps=1))
    run = tmp_path / "run"
    assert said.err.endswith(f"\nNext:\n  tunelab eval {run}\n  tunelab merge {run} --out {run}-merged\n")
    assert "\x1b" not in said.out and "\r" not in said.out, "neither colour nor a bar where no terminal is"


def test_the_next_commands_can_be_pasted_into_a_shell(tunelab: Command, bench: Bench) -> None:
    said = tunelab("train", bench.recipe, "--out", "my run; rm -r x", "train.steps=1")
    *_, evaluate, merge = said.err.splitlines()
    assert shlex.split(evaluate) == ["tunelab", "eval", "my run; rm -r x"]
    assert shlex.split(merge)[2:] == ["my run; rm -r x", "--out", "my run; rm -r x-merged"]


def test_without_a_terminal_a_run_is_followed_in_lines(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    said = tunelab("train", run_recipe(tmp_path, bench.model, bench.rows))
    lines = said.err.splitlines()
    resolved = lines.pop(0)
    assert resolved.startswith("cpu, fp32 (checkpoint in fp32), ")
    assert "; template plain, rows up to 128 tokens; lr 0.01, " in resolved
    assert lines[0].startswith("18 rows, ") and "; 4 steps, " in lines[0]
    assert " parameters are trained; weights, gradients and optimizer state need " in lines[1]
    assert lines[2].startswith("warning: with 6 held-out rows the minimum detectable difference is ")
    assert lines[3].startswith("held-out loss: 6/6  in 0:00:0") and lines[9].startswith("held-out loss: 6/6  ")
    assert lines[4].startswith("about ") and " of training: " in lines[4]
    for line, record in zip(lines[5:9], open_run(tmp_path / "run").metrics("train"), strict=True):
        assert line.startswith(f"training: {record['step']}/4  ") and line.endswith(shown(record))
    assert lines[10] == ""


def test_a_run_is_replaced_where_that_is_asked_for(tunelab: Command, bench: Bench) -> None:
    first = tunelab("train", bench.recipe, "--out", "run", "train.steps=1")
    assert first.code == 0 and tunelab("eval", "run").code == 0
    refused = tunelab("train", bench.recipe, "--out", "run", "train.steps=2")
    assert refused.code == 1 and "hint: evaluate it (tunelab eval run), replace it with --overwrite, or" in refused.err
    again = tunelab("train", bench.recipe, "--out", "run", "train.steps=2", "--overwrite")
    assert again.code == 0 and again.cells["steps"] == ["2"] and not Path("run/evaluations").exists()
    said = tunelab("train", "--resume", "run")
    assert said.code == 1 and "hint: evaluate it (tunelab eval run), or train again" in said.err
    said = tunelab("train", "run/recipe.yaml", "train.steps=1", "--overwrite")
    assert said.code == 0 and said.cells["steps"] == ["1"], "a run's own recipe names its directory"


def test_what_overwrite_refuses(tunelab: Command, bench: Bench) -> None:
    said = tunelab("train", "--resume", bench.lora, "--overwrite")
    assert said.code == 2 and "--resume and --overwrite exclude each other" in said.err
    said = tunelab("train", "--model", bench.model, "--data", bench.rows, *QUICK, "--overwrite")
    assert said.code == 2 and "--overwrite: no run directory is named\nhint: name it with --out" in said.err
    Path("mine").mkdir()
    Path("mine/recipe.yaml").write_text("a recipe of my own")
    said = tunelab("train", bench.recipe, "--out", "mine", "--overwrite")
    assert said.code == 1 and "mine: is not a run; nothing was removed" in said.err
    assert Path("mine/recipe.yaml").read_text() == "a recipe of my own"


def test_flags_alone_make_a_run(tunelab: Command, bench: Bench) -> None:
    words = ["--model", bench.model, "--data", bench.rows, "--method", "full", "--size", "10", "--seed", "5"]
    said = tunelab("train", *words, "--template", "plain", "--limit", "2", *QUICK)
    assert said.code == 0, said.err
    run = open_run(Path("runs/base-full-rows-1"))
    recipe = load_recipe(run.recipe_file)
    assert (recipe.method, recipe.data.size, recipe.train.seed, recipe.evaluate.limit) == ("full", 10, 5, 2)
    assert run.model.exists() and said.cells["rows"] == ["10"]
    assert "tunelab eval" in said.err and "merge" not in said.err, "there is nothing to merge"
    assert "held-out loss" not in said.cells
    tunelab("train", *words, "--template", "plain", *QUICK)
    assert open_run(Path("runs/base-full-rows-2")).is_done, "a run of the same name gets the next number"


def test_overrides_win_over_the_file_and_over_flags(tunelab: Command, bench: Bench) -> None:
    said = tunelab(
        "train", bench.recipe, "--out", "a", "--seed", "3", "train.seed=4", "adapter.rank=2", "train.steps=1"
    )
    assert said.code == 0, said.err
    recipe = load_recipe("a/recipe.yaml")
    assert (recipe.train.seed, recipe.adapter.rank, recipe.out) == (4, 2, "a")


def test_rows_that_are_left_out_are_said(tunelab: Command, bench: Bench) -> None:
    said = tunelab("train", bench.recipe, "--out", "a", "train.steps=1", "data.max_length=52")
    lost = open_run(Path("a")).manifest["data"]["train"]["dropped_too_long"]
    assert lost > 0 and said.cells["rows"] == [f"{18 - lost} ({lost} dropped)"]
    assert f"warning: {lost} of 18 training rows" in said.err and "are dropped: longer than 52 tokens" in said.err


def test_a_run_that_was_interrupted_goes_on_to_the_same_result(
    tunelab: Command, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = run_recipe(tmp_path, bench.model, bench.rows, train__save_every=1)
    with monkeypatch.context() as patch:
        real = TrainingLoop.run

        def interrupted(self: TrainingLoop) -> object:
            self.should_stop = lambda: True
            return real(self)

        patch.setattr(TrainingLoop, "run", interrupted)
        said = tunelab("train", recipe)
    run = tmp_path / "run"
    assert said.code == 130 and said.out == ""
    assert "\nerror: stopped after step 1 of 4; a checkpoint was saved\n" in said.err
    assert f"hint: resume with: tunelab train --resume {run}\n" in said.err
    assert open_run(run).status == "interrupted"
    refused = tunelab("train", recipe)
    assert refused.code == 1 and "already contains a run (interrupted)" in refused.err
    assert f"--resume {run}" in refused.err
    said = tunelab("train", "--resume", run)
    assert said.code == 0 and said.cells["steps"] == ["4"]
    resumed, whole = (path / "adapter/adapter_model.safetensors" for path in (run, bench.lora))
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_finished_run_is_not_resumed(tunelab: Command, bench: Bench) -> None:
    said = tunelab("train", "--resume", bench.lora)
    assert said.code == 1 and f"error: {bench.lora}: the run is finished; there is nothing to resume\n" in said.err


def test_no_run_is_not_resumed(tunelab: Command) -> None:
    said = tunelab("train", "--resume", "nowhere")
    assert said.code == 1 and "error: nowhere: no run there (no recipe.yaml)\n" in said.err
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    "extra", [["recipe.yaml"], ["train.lr=1"], ["--template", "chat"], ["--limit", "1"], ["--out", "b"]]
)
def test_resume_takes_no_changes(tunelab: Command, extra: list[str]) -> None:
    said = tunelab("train", "--resume", "a", *extra)
    assert said.code == 2 and "error: --resume takes no recipe and no changes" in said.err


def test_wrong_uses_end_with_2_and_write_nothing(tunelab: Command, bench: Bench) -> None:
    for words, message in (
        (
            [],
            "command line: 2 problems\n  model: is missing\n    add it to the recipe, or give --model NAME\n  data: is",
        ),
        (["nowhere.yaml"], "nowhere.yaml: no such recipe file"),
        ([bench.recipe, bench.recipe], "two recipe files"),
        ([bench.recipe, "train.lt=1"], "train.lt: unknown key"),
        ([bench.recipe, "--out", "a", "data.max_length=500"], "batch"),
        (["--model", bench.model, "--data", bench.rows, "--size", "many"], "--size is 'many', expected an integer"),
        (
            ["--model", bench.model, "--data", bench.rows, "--method", "qlora"],
            "method: expected one of lora, full, got 'qlora'",
        ),
        (["--model", bench.model, "--data", "alpaka"], "'alpaka'"),
    ):
        said = tunelab("train", *words)
        assert said.code == 2 and said.out == "" and message in said.err, (words, said)
    said = tunelab("train", "--model", "./no-model", "--data", bench.rows, "--out", "a")
    assert said.code == 1 and "error: ./no-model: no such folder\n" in said.err


def test_only_the_first_of_several_processes_speaks(
    tunelab: Command, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = open_run(bench.lora)
    monkeypatch.setattr("tunelab.training.finetune.finetune", lambda recipe, **more: done)
    monkeypatch.setenv("RANK", "1")
    said = tunelab("train", bench.recipe)
    assert (said.code, said.out, said.err) == (0, "", "")
    monkeypatch.setenv("RANK", "0")
    assert str(done.path) in tunelab("train", bench.recipe).out


#: What the libraries that a run needs bring with them, and PEFT with its first layer: no code of ours.
IMPORTS = """
import accelerate, datasets, peft, torch, transformers
peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), peft.LoraConfig(target_modules=["0"]))
"""


def without_noise_of_imports(said: str) -> str:
    """Lines of stderr but for those that the libraries write when they are imported (torchao, where it is installed).

    Numbers are passed over: times, process ids, addresses.
    """
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=200, check=True)
    noise = {re.sub(r"\d+", "0", line) for line in done.stderr.splitlines()} - {""}
    return "".join(line for line in said.splitlines(keepends=True) if re.sub(r"\d+", "0", line.rstrip()) not in noise)


@pytest.mark.slow
def test_a_process_of_its_own_says_nothing_but_the_summary(bench: Bench, tmp_path: Path) -> None:
    """No bar, no warning of a library: what a script reads is the table, what a person reads are our words."""
    expected = r"cpu, fp32 .* threads?; template plain, .*\n18 rows, .*\n"
    expected += r".* parameters are trained; .*\nwarning: with 6 held-out rows .*\n"
    expected += r"held-out loss: 6/6 .*\nabout .* of training: .*\ntraining: 1/1 .*\nheld-out loss: 6/6 .*\n"
    expected += r"\nNext:\n  tunelab eval a\n  tunelab merge a --out a-merged\n"
    command = [sys.executable, "-m", "tunelab", "train", str(bench.recipe), "--out", "a", "train.steps=1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.splitlines()[0].split() == ["what", "value"]
    own = without_noise_of_imports(result.stderr)
    assert re.fullmatch(expected, result.stderr) or re.fullmatch(expected, own), result.stderr


def test_the_library_does_the_same_in_silence(bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = finetune(run_recipe(tmp_path, bench.model, bench.rows))
    assert capfd.readouterr() == ("", "")
    adapter = Path("adapter/adapter_model.safetensors")
    assert (run.path / adapter).read_bytes() == (bench.lora / adapter).read_bytes()
