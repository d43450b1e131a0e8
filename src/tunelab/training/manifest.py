"""A run's manifest: before the first step what is about to run, after the last one the proof that it did."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import nn

from tunelab.allowed_code import code_hashes
from tunelab.config import Recipe, code_names
from tunelab.config.micro_batch import micro_batch_tokens
from tunelab.data.chat_templates import is_chat
from tunelab.data.loader import TrainingPlan
from tunelab.data.prepared import PreparedData
from tunelab.errors import RunError, TrainingError
from tunelab.linting.lint import Lint
from tunelab.models.adapters import coverage
from tunelab.models.digest import digest, weights_hash
from tunelab.models.forward import RowLayout, underlying
from tunelab.models.load import dtype_name, model_fingerprint, tokenizer_fingerprint
from tunelab.preparation.base import base_identity, dated, template_digest
from tunelab.preparation.model import checkpoint_dtype
from tunelab.records.environment import environment
from tunelab.records.runs import Run, now
from tunelab.records.trained_with import trained_with
from tunelab.training.checkpoint import LoopState, trainable_weights
from tunelab.training.loss import TargetLoss
from tunelab.training.meter import Meter
from tunelab.units import format_counted, format_significant

#: How a micro-batch's rows are run, in words.
ROWS_IN_WORDS = {"packed": "packed", "padded": "padded", "alone": "one row at a time"}


def check_unchanged(run: Run, data: PreparedData) -> None:
    """Check that a resumed run has the rows that it started with; trained_recipe() checks its base.

    Raises:
        RunError: its training, held-out or validation rows have changed since its first session; or its manifest is
            gone.
    """
    begun = run.manifest
    if "data" not in begun:
        if any(run.checkpoints.glob("step-*")):
            raise RunError(
                f"{run.manifest_file}: lacks what the run started with, although there are checkpoints",
                "restore it from a copy, or train again with --overwrite",
            )
        return
    compared = {
        "training rows": (data.train.sha256, begun["data"]["train"]["sha256"]),
        "held-out rows": (data.held_out.sha256, begun["data"]["held_out"]["sha256"]),
    }
    if "validation" in begun["data"]:  # in runs of before, and without validation rows, it is not
        compared["validation rows"] = (data.validation.sha256, begun["data"]["validation"]["sha256"])
    changed = [what for what, (found, then) in compared.items() if found != then]
    if changed:
        raise RunError(
            f"{run.path}: the {' and the '.join(changed)} have changed since the run started",
            "restore them (pin data revisions), or start a new run with another --out",
        )


def opening(
    run: Run,
    recipe: Recipe,
    data: PreparedData,
    module: TargetLoss,
    tokenizer: Any,
    plan: TrainingPlan,
    accelerator: Accelerator,
    resumed: bool,
    started_from: dict[str, Any] | None = None,
    found: Lint | None = None,
) -> dict[str, Any]:
    """Manifest entries from before the first step; a resumed run keeps those about its start."""
    model = module.model
    gpu = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else None
    session = {"started": now(), "environment": environment(), "gpu": gpu, "threads": torch.get_num_threads()}
    entries: dict[str, Any] = {
        "status": "running",
        "ended": None,
        "error": None,  # of an earlier session
        "sessions": [*run.manifest.get("sessions", []), session],
        "recipe": run.manifest.get("recipe") or trained_with(recipe),
        "model": {**_base(run, recipe, model), "digest": digest(model).to_json()},
        "adapter": {**asdict(coverage(model)), "from": started_from} if isinstance(model, PeftModel) else None,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "code": code_hashes(*code_names(recipe)),
        "data": {
            "key": data.key,
            "sources": [asdict(source) for source in data.sources],
            "template": recipe.data.template,
            "date": dated(tokenizer, recipe),
            "chat_template_sha256": template_digest(tokenizer) if is_chat(recipe.data.template) else None,
            "train": {**asdict(data.train_counts), "sha256": data.train.sha256},
            "held_out": {**asdict(data.held_out_counts), "sha256": data.held_out.sha256},
            **_validation_rows(data),
            "bad_rows": list(data.bad_rows),
            "checks": None if found is None else found.counts(recipe.data.allow),
        },
        "resolved": resolved_settings(recipe, accelerator, module.layout),
        "seeds": {"data": recipe.data.seed, "train": recipe.train.seed},
        "compute": {
            "device": str(accelerator.device),
            "gpu": gpu,
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "precision": accelerator.mixed_precision,
        },
        "steps": plan.total_steps,
    }
    if not resumed:
        entries["weights_before"] = weights_hash(trainable_weights(model))
    return entries


def _validation_rows(data: PreparedData) -> dict[str, Any]:
    if not data.validation_counts.given:
        return {}
    return {"validation": {**asdict(data.validation_counts), "sha256": data.validation.sha256}}


def _base(run: Run, recipe: Recipe, model: nn.Module) -> dict[str, Any]:
    """What identifies the base; a resumed run's is known and checked."""
    known: dict[str, Any] | None = run.manifest.get("model")
    return known or base_identity(recipe, model_fingerprint(recipe.model.name, underlying(model)))


def resolved_settings(recipe: Recipe, accelerator: Accelerator, layout: RowLayout) -> dict[str, Any]:
    """What every `auto` and every null became for this run, by its key; evaluation and resuming use the same."""
    train = recipe.train
    batch = {"train.batch_size": train.batch_size} if train.batch_size else {"train.batch_tokens": train.batch_tokens}
    return {
        "train.device": accelerator.device.type,
        "train.dtype": train.dtype,
        "checkpoint.dtype": dtype_name(checkpoint_dtype(recipe)),
        "train.lr": train.lr,
        "data.template": recipe.data.template,
        "data.max_length": recipe.data.max_length,
        **batch,
        "train.micro_batch_tokens": micro_batch_tokens(train),
        "train.packing": layout == "packed",
        "rows": layout,
        "threads": torch.get_num_threads(),
    }


def resolved_sentence(resolved: dict[str, Any]) -> str:
    """The settings of resolved_settings() in one line."""
    rows, layout = resolved.get("train.batch_size"), resolved["rows"]
    batch = f"{resolved['train.batch_tokens']:,} tokens" if rows is None else format_counted(rows, "row")
    return (
        f"{resolved['train.device']}, {resolved['train.dtype']} (checkpoint in {resolved['checkpoint.dtype']}), "
        f"{format_counted(resolved['threads'], 'thread')}; "
        f"template {resolved['data.template']}, rows up to {resolved['data.max_length']:,} tokens; "
        f"lr {format_significant(resolved['train.lr'])}, batches of {batch} in micro-batches of up to "
        f"{resolved['train.micro_batch_tokens']:,} tokens, {ROWS_IN_WORDS[layout]}"
    )


def closing(run: Run, after: str, state: LoopState, meter: Meter, outcome: str) -> dict[str, Any]:
    """Manifest entries from after the last step: the proof that it trained, and what it cost.

    Args:
        after: hash of the trained weights.

    Raises:
        TrainingError: the trained weights are bit-identical to the initial ones.
    """
    if after == run.manifest["weights_before"]:
        raise TrainingError("the trained weights did not change", "is train.lr zero, or too small?")
    cost = meter.read()
    return {
        "status": outcome,
        "ended": now(),
        "weights_after": after,
        "held_out_loss_after": None,  # without held-out rows
        "trained": {
            "steps": state.step,
            "targets": state.targets,
            "tokens": state.tokens,
            "training_seconds": state.seconds,
            "tokens_per_second": state.tokens / state.seconds,
            "targets_per_second": state.targets / state.seconds,
            "best_step": state.best_step,
            "best_loss": state.best_loss,
        },
        "wall_seconds": cost.seconds,
        "peak_resident_bytes": max(cost.resident_peak, *_logged_peaks(run, "peak_resident_bytes")),
        "start_resident_bytes": cost.resident_start,
        "peak_gpu_bytes": None if cost.gpu_peak is None else max(cost.gpu_peak, *_logged_peaks(run, "peak_gpu_bytes")),
    }


def _logged_peaks(run: Run, name: str) -> list[int]:
    """Peaks of all steps, those of earlier sessions included: the last one may have had little left to do."""
    return [0, *(one[name] for one in run.metrics("train") if one.get(name) is not None)]
