"""Checkpoints: the trained weights, the optimizer's state and the loop's position, each written whole or not at all.

A checkpoint is a directory `step-00000042` with `weights.safetensors`, `optimizer.safetensors` and `state.json`. It is
filled under a temporary name, synced to disk and renamed, so a kill at any byte leaves the previous one intact. What a
disk or a copy damages later is noticed before anything of it is used. Random states are not stored: those of a step
follow from the seed and the step.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunelab.errors import RunError
from tunelab.files import directory_written_atomically, recover_all_in, recover_directory, write_json_atomically

STEP_NAME = re.compile(r"step-(\d{8})")
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass
class LoopState:
    """State of the loop after `step` steps.

    `seconds` is the training time of all sessions together; `loss_scaling` is the state of fp16's gradient scaler.
    """

    step: int = 0
    targets: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    loss_scaling: dict[str, float] | None = None


def trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters, by name; a tied one under its first name."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


#: What 8-bit AdamW's codes mean: one tensor for all parameters.
CODE_BOOKS = ("qmap1", "qmap2")


class CheckpointStore:
    """The checkpoints of one run, in one directory.

    Args:
        folder: their directory; created with the first one.
        keep: how many of the newest to keep; older ones are removed once a newer one is safe.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, state: LoopState, model: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
        """Write a checkpoint of this state; returns its directory."""
        target = self.folder / f"step-{state.step:08d}"
        with directory_written_atomically(target) as temporary:
            of_step = {"step": str(state.step)}
            save_file(_on_cpu(trainable_weights(model)), temporary / WEIGHTS, of_step)
            save_file(_on_cpu(optimizer_state(model, optimizer)), temporary / OPTIMIZER, of_step)
            write_json_atomically(temporary / STATE, asdict(state))
        self._remove_old()
        return target

    def paths(self) -> list[Path]:
        """Directories of complete checkpoints, oldest first."""
        if not self.folder.exists():
            return []
        return sorted(path for path in self.folder.iterdir() if STEP_NAME.fullmatch(path.name))

    def newest_step(self) -> int:
        """Step of the newest complete checkpoint, 0 if there is none."""
        paths = self.paths()
        return int(paths[-1].name.removeprefix("step-")) if paths else 0

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> LoopState | None:
        """Load the newest checkpoint's weights and optimizer state; returns its state, or None if there is none."""
        if not self.paths():
            return None
        newest = self.paths()[-1]
        if reason := damage(newest):
            raise RunError(f"{newest}: damaged: {reason}", "resume again: an older checkpoint is then used")
        # Everything is read before anything is set, so that a failure leaves no half of it in the model.
        state, moments = LoopState(**_read_state(newest)), load_file(newest / OPTIMIZER)
        load_weights(model, newest / WEIGHTS)
        load_optimizer_state(model, optimizer, moments)
        return state

    def recover(self) -> list[str]:
        """Repair what a kill during a save left behind; called by one process only, before restore().

        Partial checkpoints are removed, a checkpoint that was being replaced is restored, and surplus old ones go.
        Damaged ones are renamed to `damaged-step-...`, so that restore() finds the newest good one.

        Returns:
            A sentence for each damaged checkpoint, and one that says where training resumes.
        """
        recover_all_in(self.folder)
        said = [sentence for path in self.paths() if (sentence := _set_aside(path))]
        self._remove_old()
        if said:
            step = self.newest_step()
            said.append(f"resuming from step {step}" if step else "no good checkpoint is left: training starts again")
        return said

    def _remove_old(self) -> None:
        for old in self.paths()[: -self.keep]:
            shutil.rmtree(old)

    def save_best(self, model: nn.Module) -> None:
        """Save these weights as the best so far."""
        with directory_written_atomically(self.folder / "best") as temporary:
            save_file(_on_cpu(trainable_weights(model)), temporary / WEIGHTS)

    def load_best(self, model: nn.Module) -> None:
        """Load the best weights so far."""
        self.check_best()
        load_weights(model, self.folder / "best" / WEIGHTS)

    def check_best(self) -> None:
        """Check that the best weights, if there are any yet, can be read.

        Raises:
            RunError: the file is damaged.
        """
        recover_directory(self.folder / "best")
        file = self.folder / "best" / WEIGHTS
        if file.exists() and (reason := _damage_of_weights(file)):
            raise RunError(
                f"{file}: damaged: {reason}; train.load_best_at_end needs these weights",
                "train again with --overwrite, or set train.load_best_at_end=false in the run's recipe.yaml",
            )


def damage(checkpoint: Path) -> str:
    """Why a checkpoint cannot be resumed from: a file is missing, incomplete, or of another step; "" = it can.

    Reads headers and sizes, not the tensors: what a disk changes inside a tensor is not noticed.
    """
    step = int(checkpoint.name.removeprefix("step-"))
    try:
        state = _read_state(checkpoint)
    except (OSError, ValueError) as error:
        return f"{STATE}: {error}"
    if state["step"] != step:
        return f"{STATE} is of step {state['step']}"
    for name in (WEIGHTS, OPTIMIZER):
        if reason := _damage_of_weights(checkpoint / name, step):
            return f"{name}: {reason}"
    return ""


def _damage_of_weights(file: Path, step: int | None = None) -> str:
    """Why a safetensors file cannot be used; "" = it can. Files of before do not say their step."""
    if not file.exists():
        return "missing"
    try:
        with safe_open(file, "pt") as opened:
            of_step = (opened.metadata() or {}).get("step")
    except (SafetensorError, OSError, ValueError) as error:
        return f"incomplete ({error})"
    return "" if step is None or of_step in (None, str(step)) else f"of step {of_step}"


def _read_state(checkpoint: Path) -> dict[str, Any]:
    """Contents of state.json. Raises OSError or ValueError if they are not a LoopState's."""
    try:
        found = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("missing") from None
    known = {field.name for field in fields(LoopState)}
    if not isinstance(found, dict) or "step" not in found or not found.keys() <= known:
        raise ValueError("not the state of a training loop")
    return found


def _set_aside(checkpoint: Path) -> str:
    """Rename a checkpoint if it is damaged; returns a sentence about it, or ""."""
    reason = damage(checkpoint)
    if not reason:
        return ""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    return f"{checkpoint} is damaged: {reason}; renamed to {aside.name}"


def load_weights(model: nn.Module, file: Path) -> None:
    """Copy stored weights into the trainable parameters, bit for bit.

    Raises:
        RunError: the file is missing, or its names or shapes are not those of the trainable parameters.
    """
    if not file.exists():
        raise RunError(f"{file}: no such file", "the checkpoint is gone; start a new run")
    if reason := _damage_of_weights(file):
        raise RunError(f"{file}: damaged: {reason}", "restore it from a copy, or start a new run")
    stored = load_file(file)
    wanted = trainable_weights(model)
    if {name: tensor.shape for name, tensor in stored.items()} != {name: t.shape for name, t in wanted.items()}:
        odd = sorted(stored.keys() ^ wanted.keys())[:3] or ["shapes differ"]
        raise RunError(
            f"{file}: not the weights of this model: {', '.join(odd)}", "resume with the recipe that wrote it"
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(stored[name])


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as {"parameter name|what": tensor}; empty before the first step.

    A step count that is not a tensor becomes one, and shared tensors (the code book of 8-bit AdamW) are copied:
    safetensors supports neither.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}|{key}": value.clone() if key in CODE_BOOKS else torch.as_tensor(value)
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, stored: dict[str, Tensor]) -> None:
    """The inverse of optimizer_state().

    Raises:
        RunError: a tensor belongs to no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    parts = {key: key.rpartition("|") for key in stored}
    if odd := next((key for key, (name, _, _) in parts.items() if name not in parameters), None):
        raise RunError(f"the optimizer's state is of another model: {odd}", "resume with the recipe that wrote it")
    if not isinstance(optimizer, torch.optim.AdamW):
        _make_state(optimizer, {parameters[name] for name, _, _ in parts.values()})
    for key, (name, _, what) in parts.items():
        parameter, value = parameters[name], stored[key]
        state = optimizer.state[parameter]
        if what != "step":
            state[what] = state[what].copy_(value) if what in state else value.to(parameter.device)
        elif isinstance(optimizer, torch.optim.AdamW):  # on the CPU, but for the fused kernel
            fused = any(group["fused"] for group in optimizer.param_groups)
            state[what] = value.to(parameter.device) if fused else value
        else:
            state[what] = int(value)  # bitsandbytes' own is a plain number


def _make_state(optimizer: Any, parameters: set[nn.Parameter]) -> None:
    """Let bitsandbytes allocate the moments of these parameters, large ones in paged memory: where it puts them, a
    tensor of ours would take GPU memory that the run had not needed before it was resumed."""
    for index, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(group["params"]):
            if parameter in parameters:
                optimizer.init_state(group, parameter, index, place)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
