"""Checkpoints are whole or not there, and bring weights and optimiser back bit for bit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import forked
from tiny import tiny_model

from tunelab.errors import RunError
from tunelab.models.adapters import add_lora
from tunelab.models.digest import weights_hash
from tunelab.training import checkpoint
from tunelab.training.checkpoint import (
    CheckpointStore,
    LoopState,
    load_optimizer_state,
    load_weights,
    optimizer_state,
    trainable_weights,
)
from tunelab.training.optimizer import adamw


def adapted(seed: int = 0) -> torch.nn.Module:
    return add_lora(tiny_model("llama"), rank=2, alpha=4, seed=seed)


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    return adamw(model.parameters(), lr=0.1, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8)


def stepped(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """One optimiser step along a random gradient."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_weights_and_optimizer_come_back_bit_for_bit(method: str, tmp_path: Path) -> None:
    def build() -> torch.nn.Module:
        return adapted() if method == "lora" else tiny_model("gpt2")

    model = build()
    optimizer = optimizer_of(model)
    for seed in range(3):
        stepped(model, optimizer, seed)
    state = LoopState(step=3, targets=70, tokens=100, seconds=1.5, best_loss=2.25, best_step=2)
    CheckpointStore(tmp_path).save(state, model, optimizer)
    stepped(model, optimizer, 3)

    again = build()
    second = optimizer_of(again)
    restored = CheckpointStore(tmp_path).restore(again, second)
    assert restored == state
    stepped(again, second, 3)
    assert weights_hash(trainable_weights(again)) == weights_hash(trainable_weights(model))
    assert weights_hash(optimizer_state(again, second)) == weights_hash(optimizer_state(model, optimizer))
    assert len(optimizer_state(model, optimizer)) == 3 * len(trainable_weights(model))


def test_the_newest_are_kept(tmp_path: Path) -> None:
    model = adapted()
    optimizer, store = optimizer_of(model), CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert (store.paths(), store.newest_step(), store.restore(model, optimizer)) == ([], 0, None)
    for step in (1, 2, 10, 11):
        store.save(LoopState(step=step), model, optimizer)
    store.save_best(model)
    assert [path.name for path in store.paths()] == ["step-00000010", "step-00000011"]
    assert store.newest_step() == 11


def test_halves_that_a_kill_left_are_removed_and_what_was_renamed_away_comes_back(tmp_path: Path) -> None:
    model = adapted()
    optimizer, store = optimizer_of(model), CheckpointStore(tmp_path)
    store.save(LoopState(step=1), model, optimizer)
    store.save(LoopState(step=2), model, optimizer)
    (tmp_path / "step-00000002").rename(tmp_path / ".step-00000002.old")
    (tmp_path / ".step-00000003.77.tmp").mkdir()
    (tmp_path / ".step-00000003.77.tmp" / "weights.safetensors").write_bytes(b"half")
    (tmp_path / ".best.old").mkdir()
    store.save_best(model)
    (tmp_path / ".best.old").mkdir()
    store.recover()
    restored = store.restore(model, optimizer)
    assert restored is not None
    assert restored.step == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step-00000001", "step-00000002"]
    CheckpointStore(tmp_path, keep=1).recover()
    assert [path.name for path in store.paths()] == ["step-00000002"]


class One(torch.nn.Module):
    """A single weight, which each step with a gradient of one lowers by one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))


def one_and_optimizer() -> tuple[One, torch.optim.Optimizer]:
    model = One()
    return model, torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.0)


def save_step(folder: Path, step: int) -> None:
    model, optimizer = one_and_optimizer()
    for _ in range(step):
        model.weight.grad = torch.ones(3)
        optimizer.step()
    CheckpointStore(folder, keep=1).save(LoopState(step=step), model, optimizer)


def die_at(point: str) -> None:
    """From now on this process dies as by SIGKILL before or after the n-th call of a function."""
    owner, name, number, when = point.split(":")
    space = {"os": os, "checkpoint": checkpoint, "shutil": shutil}[owner]
    original, calls = getattr(space, name), 0

    def dying(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(number) and when == "before":
            os._exit(9)
        result = original(*arguments, **more)
        if calls == int(number):
            os._exit(9)
        return result

    setattr(space, name, dying)


POINTS = [
    f"{call}:{when}"
    for call in (
        "os:mkdir:2",
        "checkpoint:save_file:1",
        "checkpoint:save_file:2",
        "checkpoint:write_json_atomically:1",
        "os:replace:1",
        "os:fsync:1",
        "os:fsync:3",
        "os:fsync:6",
        "os:rename:1",
    )
    for when in ("before", "after")
]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_of_a_save_leaves_a_usable_checkpoint(point: str, tmp_path: Path) -> None:
    save_step(tmp_path, 1)
    _, status = os.waitpid(forked(lambda: (die_at(point), save_step(tmp_path, 2))), 0)
    assert os.waitstatus_to_exitcode(status) == 9, "the process was to die there"
    model, optimizer = one_and_optimizer()
    CheckpointStore(tmp_path, keep=1).recover()
    state = CheckpointStore(tmp_path).restore(model, optimizer)
    step = 2 if point == "os:rename:1:after" else 1
    assert (state.step, optimizer.state[model.weight]["step"].item()) == (step, step)
    assert round(-model.weight[0].item(), 3) == step
    assert os.listdir(tmp_path) == [f"step-{step:08d}"]


def test_the_best_weights_come_back(tmp_path: Path) -> None:
    model = adapted()
    store = CheckpointStore(tmp_path)
    stepped(model, optimizer_of(model), 1)
    best = weights_hash(trainable_weights(model))
    store.save_best(model)
    stepped(model, optimizer_of(model), 2)
    assert weights_hash(trainable_weights(model)) != best
    (tmp_path / "best").rename(tmp_path / ".best.old")
    store.load_best(model)
    assert weights_hash(trainable_weights(model)) == best


def test_weights_that_are_gone_or_of_another_model(tmp_path: Path) -> None:
    store, model = CheckpointStore(tmp_path), adapted()
    with pytest.raises(RunError, match=r"best/weights.safetensors: no such file"):
        store.load_best(model)
    store.save_best(model)
    file = tmp_path / "best" / "weights.safetensors"
    with pytest.raises(RunError, match=r"not the weights of this model: .*lora_A") as caught:
        load_weights(tiny_model("llama"), file)
    assert "resume with the recipe that wrote it" in caught.value.hint
    with pytest.raises(RunError, match=r"not the weights of this model: shapes differ"):
        load_weights(add_lora(tiny_model("llama"), rank=3, alpha=4), file)


def test_a_state_is_readable(tmp_path: Path) -> None:
    model = adapted()
    folder = CheckpointStore(tmp_path).save(LoopState(step=4, best_loss=0.1 + 0.2), model, optimizer_of(model))
    assert folder.name == "step-00000004"
    assert json.loads((folder / "state.json").read_text())["best_loss"] == 0.1 + 0.2


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


DAMAGE = {
    "weights cut": (lambda folder: cut(folder / "weights.safetensors"), "weights.safetensors: incomplete"),
    "optimizer cut": (lambda folder: cut(folder / "optimizer.safetensors"), "optimizer.safetensors: incomplete"),
    "weights empty": (
        lambda folder: (folder / "weights.safetensors").write_bytes(b""),
        "weights.safetensors: incomplete",
    ),
    "weights zeros": (
        lambda folder: (folder / "weights.safetensors").write_bytes(bytes(900)),
        "weights.safetensors: incomplete",
    ),
    "optimizer missing": (lambda folder: (folder / "optimizer.safetensors").unlink(), "optimizer.safetensors: missing"),
    "weights missing": (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors: missing"),
    "state missing": (lambda folder: (folder / "state.json").unlink(), "state.json: missing"),
    "state empty": (lambda folder: (folder / "state.json").write_bytes(b""), "state.json: Expecting value"),
    "state zeros": (lambda folder: (folder / "state.json").write_bytes(bytes(200)), "state.json: Expecting value"),
    "state no UTF-8": (lambda folder: (folder / "state.json").write_bytes(b"\xff\xff"), "state.json: 'utf-8' codec"),
    "state null": (
        lambda folder: (folder / "state.json").write_text("null"),
        "state.json: not the state of a training",
    ),
    "state of another step": (
        lambda folder: (folder / "state.json").write_text('{"step": 3}'),
        "state.json is of step 3",
    ),
    "optimizer of another step": (
        lambda folder: shutil.copy(folder.parent / "step-00000004" / "optimizer.safetensors", folder),
        "optimizer.safetensors: of step 4",
    ),
    "no directory": (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "state.json: "),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_newest_good_one_is_used(name: str, tmp_path: Path) -> None:
    damage_it, reason = DAMAGE[name]
    model = adapted()
    optimizer, store = optimizer_of(model), CheckpointStore(tmp_path)
    stepped(model, optimizer, 1)
    store.save(LoopState(step=4), model, optimizer)
    at_four = weights_hash(trainable_weights(model)), weights_hash(optimizer_state(model, optimizer))
    stepped(model, optimizer, 2)
    newest = store.save(LoopState(step=8), model, optimizer)
    damage_it(newest)

    again = adapted(seed=1)
    second, untouched = optimizer_of(again), weights_hash(trainable_weights(again))
    with pytest.raises(RunError, match=r"step-00000008: damaged: .*"):
        store.restore(again, second)
    assert weights_hash(trainable_weights(again)) == untouched and not second.state
    said = store.recover()
    assert said[0].startswith(f"{newest} is damaged: {reason}"), said
    assert said[0].endswith("; renamed to damaged-step-00000008") and said[1:] == ["resuming from step 4"]
    restored = store.restore(again, second)
    assert restored is not None and restored.step == 4
    assert (weights_hash(trainable_weights(again)), weights_hash(optimizer_state(again, second))) == at_four
    assert store.recover() == []


def test_without_a_good_checkpoint_training_starts_again(tmp_path: Path) -> None:
    model, store = adapted(), CheckpointStore(tmp_path)
    optimizer = optimizer_of(model)
    for step in (1, 2):
        cut(store.save(LoopState(step=step), model, optimizer) / "weights.safetensors")
    assert store.recover()[2:] == ["no good checkpoint is left: training starts again"]
    assert (store.newest_step(), store.restore(model, optimizer)) == (0, None)


def test_damaged_best_weights_are_refused_by_name(tmp_path: Path) -> None:
    model, store = adapted(), CheckpointStore(tmp_path)
    store.check_best()
    store.save_best(model)
    store.check_best()
    cut(tmp_path / "best" / "weights.safetensors")
    with pytest.raises(RunError, match=r"best/weights.safetensors: damaged: incomplete .* needs these weights"):
        store.load_best(model)
    with pytest.raises(RunError, match=r"best/weights.safetensors: damaged: incomplete"):
        load_weights(model, tmp_path / "best" / "weights.safetensors")


def test_moments_of_another_model_are_refused(tmp_path: Path) -> None:
    model = adapted()
    optimizer = optimizer_of(model)
    with pytest.raises(RunError, match=r"the optimizer's state is of another model: other\.weight\|step"):
        load_optimizer_state(model, optimizer, {"other.weight|step": torch.ones(())})
