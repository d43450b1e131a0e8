"""A training with `micro_batch_tokens: auto` is the training with the number that it became; a resumed one keeps it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny import recipe
from transformers import MambaConfig

from tunelab.config import load_recipe, parse_recipe, resolve
from tunelab.errors import Interrupted
from tunelab.records.runs import Run
from tunelab.training import device_memory
from tunelab.training.device_memory import planned, usable_memory
from tunelab.training.finetune import finetune, resume
from tunelab.units import GIB

LIMIT = 192

#: Bytes in which LIMIT tokens surely fit, and 64 more do not.
MEMORY = [0]


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "usable_memory", lambda device, processes=1: MEMORY[0])


def made(models: dict[str, Path], rows: Path, out: Path, value: Any = "auto") -> dict[str, Any]:
    """A recipe of steps that have more than LIMIT tokens."""
    keys = {"train__batch_size": 8, "data__max_length": 40}
    numbered = recipe(models["llama"], rows, out, train__micro_batch_tokens=999, **keys)
    plan = planned(resolve(parse_recipe(numbered)), on_gpu=False)
    assert plan is not None
    MEMORY[0] = round(plan.card_bytes(LIMIT)[1]) + 1
    return recipe(models["llama"], rows, out, train__micro_batch_tokens=value, **keys)


def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
    if stage == "training" and done == 2:
        os.kill(os.getpid(), signal.SIGINT)


def losses(run: Run) -> list[float]:
    return [record["loss"] for record in run.metrics("train")]


@pytest.mark.usefixtures("little_memory")
def test_it_is_said_kept_and_the_training_of_that_number(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = finetune(made(models, rows, tmp_path / "auto"), notify=said.append)
    (sentence,) = [one for one in said if "micro_batch_tokens" in one]
    assert sentence.startswith(f"train.micro_batch_tokens=auto: {LIMIT}, the most that surely fit ")
    assert run.manifest["resolved"]["train.micro_batch_tokens"] == LIMIT
    assert load_recipe(run.recipe_file).train.micro_batch_tokens == LIMIT
    explicit = finetune(made(models, rows, tmp_path / "explicit", LIMIT))
    assert losses(run) == losses(explicit)
    assert run.manifest["weights_after"] == explicit.manifest["weights_after"]
    accumulated = finetune(made(models, rows, tmp_path / "accumulated", 40))
    assert losses(run) == pytest.approx(losses(accumulated), rel=1e-4)


@pytest.mark.usefixtures("little_memory")
def test_a_resumed_run_keeps_it_whatever_memory_is_left(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        finetune(made(models, rows, tmp_path / "run"), progress=stops)
    MEMORY[0] = 100 * 2**30
    said: list[str] = []
    run = resume(tmp_path / "run", notify=said.append)
    assert run.manifest["resolved"]["train.micro_batch_tokens"] == LIMIT
    assert not any("auto" in one for one in said)


def test_an_architecture_that_is_not_known_gets_the_default(tmp_path: Path, rows: Path) -> None:
    MambaConfig(hidden_size=64, num_hidden_layers=2).save_pretrained(tmp_path / "model")
    given = resolve(parse_recipe(recipe(tmp_path / "model", rows, tmp_path, train__micro_batch_tokens="auto")))
    said: list[str] = []
    found = device_memory.with_micro_batch(given, Accelerator(cpu=True), said.append)
    assert found.train.micro_batch_tokens == 4096
    assert said == [
        "train.micro_batch_tokens=auto: 4,096, the default: this architecture's layers are not known to the planner"
    ]
    shared = given.model_copy(update={"train": given.train.model_copy(update={"sharding": "full"})})
    device_memory.with_micro_batch(shared, Accelerator(cpu=True), said.append)
    assert "the default: the planner counts a whole base" in said[1]


def test_processes_on_a_cpu_share_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "available_memory", lambda: 8 * GIB)
    assert usable_memory(torch.device("cpu"), 4) == 2 * GIB
