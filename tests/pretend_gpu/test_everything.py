"""tests/gpu, and the verbs from training to a study's report, on the pretend GPU. Part of `make test-slow`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretend_gpu import build
from pretend_gpu import flash_attention as kernel
from pretend_gpu.child import on_pretend_gpu
from study_files import study_of, write_study_files
from tiny import model_folder, recipe, rows_file

from tunelab.config.study import parse_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["choices", "generation", "quantised", "training"])
def test_the_gpu_tests_pass_on_the_pretend_gpu(name: str) -> None:
    if reason := build.why_not():
        pytest.skip(reason)
    where = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pretend_gpu.plugin", f"tests/gpu/test_{name}.py"],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": where}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def files_in(folder: Path) -> tuple[Path, Path]:
    """A model and rows."""
    return model_folder(folder / "model", hidden_size=64, intermediate_size=128), rows_file(folder / "rows.jsonl")


def said(*arguments: str) -> None:
    """Run a command of tunelab in this process."""
    from tunelab.cli.main import main

    assert main(list(arguments)) == 0, arguments


def verbs(folder: Path, changes: dict[str, Any]) -> int:
    """Train, evaluate, generate and merge on the GPU; calls of FlashAttention."""
    model, rows = (
        model_folder(folder / "model", hidden_size=64, intermediate_size=128),
        rows_file(folder / "rows.jsonl"),
    )
    settings = {"data__held_out": 4, "train__device": "cuda", "train__dtype": "bf16", **changes}
    made = recipe(model, rows, folder / "run", **settings)
    made["evaluate"] = {"max_new_tokens": 4}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(made), encoding="utf-8")
    said("train", str(folder / "recipe.yaml"))
    said("eval", str(folder / "run"))
    said("generate", str(folder / "run"), "--prompt", "red cat", "--max-new-tokens", "4")
    if changes.get("method") != "full":
        said("merge", str(folder / "run"), "--out", str(folder / "merged"))
        assert list((folder / "merged").glob("*.safetensors"))
    return len(kernel.CALLS)


@pytest.mark.parametrize(
    "changes",
    [{"method": "full"}, {"precision": {"name": "nf4"}}, {"precision": {"name": "int8"}}, {"train__dtype": "fp16"}],
    ids=["full", "nf4", "int8", "fp16"],
)
def test_train_eval_generate_merge(changes: dict[str, Any], tmp_path: Path) -> None:
    assert on_pretend_gpu(verbs, tmp_path, changes) > 0


def chat(folder: Path) -> int:
    verbs(folder, {})
    from tunelab.answering.chat import chat_with_run

    opened = chat_with_run(folder / "run")
    opened.session.configure("max_new_tokens=4")
    found = 0
    for which in ("base", "tuned"):
        opened.session.answer_with(which)
        reply = opened.session.ask("red cat")
        list(reply.pieces)
        found += reply.ends.keys() == {which}
    return found


def test_chat(tmp_path: Path) -> None:
    assert on_pretend_gpu(chat, tmp_path) == 2


def study(folder: Path) -> list[str]:
    from tunelab.studies.run_study import run_study

    write_study_files(folder)
    made = study_of(folder, arms={"base": {"tuned": False}, "lora": {}, "nf4": {"recipe": {"precision": "nf4"}}})
    tree = made.model_dump(mode="json", exclude_none=True)
    tree["recipe"]["train"] |= {"device": "cuda", "dtype": "bf16"}
    return [cell.status for cell in run_study(parse_study(tree), folder / "study")]


def test_a_study(tmp_path: Path) -> None:
    states = on_pretend_gpu(study, tmp_path)
    assert states and set(states) == {"done"}


def resumed(folder: Path, changes: dict[str, Any]) -> tuple[list[float], list[float], list[str]]:
    """Losses of a run that was stopped and resumed, of one that was not, and which weights differ in the end."""
    from safetensors.torch import load_file

    from tunelab.errors import Interrupted
    from tunelab.training.finetune import finetune, resume

    model, rows = (
        model_folder(folder / "model", hidden_size=64, intermediate_size=128),
        rows_file(folder / "rows.jsonl"),
    )
    made = recipe(model, rows, folder / "run", **{"train__device": "cuda", "train__dtype": "bf16", **changes})

    def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
        if stage == "training" and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        finetune(made, progress=stops)
    whole, again = finetune({**made, "out": str(folder / "whole")}), resume(folder / "run")
    losses = [[record["loss"] for record in run.metrics("train")] for run in (again, whole)]
    files = [
        next((run.path / ("model" if changes.get("method") else "adapter")).glob("*.safetensors"))
        for run in (again, whole)
    ]
    first, second = (load_file(file) for file in files)
    return losses[0], losses[1], [name for name in first if not bool((first[name] == second[name]).all())]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "full"},
        {"precision": {"name": "nf4"}},
        {"train__dtype": "fp16"},
        {"train__optimizer": "adamw-8bit"},
    ],
    ids=["lora", "full", "nf4", "fp16", "adamw-8bit"],
)
def test_a_resumed_run_is_the_uninterrupted_one(changes: dict[str, Any], tmp_path: Path) -> None:
    """To the bit here, where kernels add in one order; a GPU's do not, see the README."""
    again, whole, different = on_pretend_gpu(resumed, tmp_path, changes)
    assert again == whole
    assert not different
