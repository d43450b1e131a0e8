"""What a run needs before its first step, from the recipe: processes and device, model, plan, settings."""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from tunelab.config import Recipe
from tunelab.config.micro_batch import micro_batch_tokens
from tunelab.data.loader import TokenTable, TrainingPlan
from tunelab.data.prepared import PreparedData
from tunelab.data.stored_rows import save_table
from tunelab.errors import ModelError, UsageError
from tunelab.files import directory_written_atomically, file_written_atomically, write_json_atomically
from tunelab.linting.lint import Lint, refuse_errors
from tunelab.models.adapters import add_lora, load_adapter
from tunelab.models.checkpoint_files import checkpoint_folder
from tunelab.models.forward import RowLayout, underlying
from tunelab.models.initialization import (
    SAMPLED_ROWS,
    Row,
    changes_the_base,
    freeze_fixed,
    initialize,
    needs_rows,
    prepare_base,
    take_out,
)
from tunelab.models.linear_layers import train_text_part
from tunelab.models.load import DTYPES, check_tokenizer_fits
from tunelab.models.loftq import STORED, absorb_quantization_error, begin_at_stored
from tunelab.models.structure import check_own_logits
from tunelab.models.targets import resolve_targets
from tunelab.preparation.model import compute_device, compute_dtype, load_base
from tunelab.preparation.rows import lint_rows, prepare_with, rows_to_keep
from tunelab.preparation.tokenizer import new_token_ids
from tunelab.progress import Progress
from tunelab.records.runs import Run
from tunelab.training.loop import LoopSettings
from tunelab.training.trackers import check_installed
from tunelab.units import format_number

#: The main process hashes and writes a large model while the others wait in a barrier: NCCL gives up after 10 minutes,
#: unless told otherwise.
LONGEST_WAIT = timedelta(hours=2)

#: Of a plan whose steps are numbers of tokens: it is counted epoch by epoch, in about half a minute.
MOST_ROWS_PLANNED = 50_000_000


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate configured for the recipe: device, and precision of forward and backward.

    Raises:
        UsageError: a GPU or dtype is requested that is not available, or a tracker that is not installed.
    """
    settings = recipe.train
    device, dtype = compute_device(recipe), compute_dtype(recipe)
    check_installed(settings.trackers)
    if settings.deterministic:  # cuBLAS reads it when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision={"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[dtype],
        kwargs_handlers=[
            # Buffers are a quantized base's codes: DistributedDataParallel would send all of them in every step.
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),
        ],
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        release(accelerator)
        raise UsageError(
            f"training under {accelerator.distributed_type.value} is not supported",
            "launch with torchrun or accelerate in multi-GPU (DDP) mode; train.sharding=full shares out a LoRA's base",
        )
    if settings.sharding == "full" and accelerator.num_processes == 1:
        release(accelerator)
        raise UsageError(
            "train.sharding=full with one process: there is nothing to share out",
            "start several (torchrun --nproc-per-node 2 -m tunelab train RECIPE), or set train.sharding=none",
        )
    return accelerator


def release(accelerator: Accelerator) -> None:
    """Let the next run in this process choose its own precision and device: accelerate stores them globally.

    With several processes the device and the process group stay; they come from the launcher.
    """
    accelerator.free_memory()
    AcceleratorState._reset_state(reset_partial_state=accelerator.num_processes == 1)


def build_model(
    recipe: Recipe, tokenizer: Any, accelerator: Accelerator, *, rows: Sequence[Row] = (), start: Path | None = None
) -> nn.Module:
    """The model to train: loaded, checked, and with an adapter if the recipe says so.

    A frozen base is in the compute dtype; trained weights are in float32.

    Args:
        rows: training rows, for initial matrices that are computed from them.
        start: the adapter to train further, or the run's own as it began; None = a new one.
    """
    trains_base = recipe.method == "full"
    dtype = torch.float32 if trains_base else DTYPES[compute_dtype(recipe)]
    # What is shared out among processes need not fit one of their GPUs.
    device = torch.device("cpu") if recipe.train.sharding == "full" else accelerator.device
    base: nn.Module = load_base(recipe, tokenizer, dtype=dtype, device=device)
    check_tokenizer_fits(base, tokenizer)
    check_own_logits(base)
    if recipe.train.activation_checkpointing:
        enable_activation_checkpointing(underlying(base))
    if trains_base:
        train_text_part(underlying(base))
        return base
    init = recipe.adapter.init
    if start is None:
        adapted = _new_adapter(recipe, underlying(base), rows, new_token_ids(recipe, tokenizer))
    else:
        adapted = load_adapter(underlying(base), start, dropout=recipe.adapter.dropout)
        freeze_fixed(adapted, init)
    if changes_the_base(init):
        take_out(adapted)
    return cast(nn.Module, adapted)


def _new_adapter(recipe: Recipe, base: PreTrainedModel, rows: Sequence[Row], new_tokens: Sequence[int]) -> PeftModel:
    adapter = recipe.adapter
    where: dict[str, Any] = {"targets": adapter.targets, "layers": adapter.layers, "exclude": adapter.exclude}
    prepare_base(base, resolve_targets(base, **where), adapter.init, adapter.rank, rows)
    adapted = add_lora(
        base,
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
        also_train=adapter.also_train,
        new_tokens=new_tokens,
        seed=recipe.train.seed,
        **where,
    )
    _set_first_product(recipe, adapted)
    if adapter.init not in ("zero", "loftq"):
        initialize(adapted, adapter.init, seed=recipe.train.seed, rows=rows)
    return adapted


def rows_to_initialize(recipe: Recipe, table: TokenTable) -> list[Row]:
    """A sample of training rows, if the adapter's initial matrices are computed from them: ids, and what is in the
    loss."""
    if recipe.method != "lora" or not needs_rows(recipe.adapter.init):
        return []
    chosen = random.Random(recipe.train.seed).sample(range(len(table)), min(len(table), SAMPLED_ROWS))
    rows = (table.row(index) for index in chosen)
    of_all = recipe.data.loss_on == "all"
    return [(ids.tolist(), (mask | of_all).tolist()) for ids, mask in rows]


def _set_first_product(recipe: Recipe, adapted: Any) -> None:
    """The adapter's initial weights, if not zero.

    Raises:
        ModelError: the base's codes need the adapter stored with them, and the recipe starts at zero.
    """
    name = recipe.model.name
    needs_stored = (Path(name) / STORED).is_dir()
    if recipe.adapter.init == "loftq":
        if needs_stored:
            begin_at_stored(adapted, Path(name))
        else:
            folder = checkpoint_folder(name, recipe.model.revision)
            absorb_quantization_error(adapted, folder, seed=recipe.train.seed)
    elif needs_stored:
        raise ModelError(
            f"{name}: its codes need the adapter in {STORED}, but this one would start at zero",
            "set adapter.init=loftq, or quantize the model without --loftq-rank",
        )


def enable_activation_checkpointing(model: PreTrainedModel) -> None:
    """Recompute activations in backward instead of keeping them (not reentrant: frozen inputs need that)."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name since transformers 5.23
    if enable is not None:
        enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def training_plan(recipe: Recipe, table: TokenTable, layout: RowLayout = "packed") -> TrainingPlan:
    """The steps of this recipe on these rows, which are run in a layout.

    Raises:
        UsageError: they are too many to be planned, or all of them are warmup.
    """
    settings = recipe.train
    if settings.batch_tokens is not None:
        steps = max(1, table.tokens // settings.batch_tokens)
        epochs = settings.epochs if settings.steps is None else settings.steps / steps
        if epochs * len(table) > MOST_ROWS_PLANNED:
            key = "epochs" if settings.steps is None else "steps"
            passes = f"passes over {len(table):,} rows {format_number(epochs, 0)} times"
            raise UsageError(
                f"train.{key}={getattr(settings, key):,} {passes}",
                f"lower train.{key}; only steps of train.batch_size rows can be planned so far",
            )
    plan = TrainingPlan(
        table=table,
        epochs=settings.epochs,
        steps=settings.steps,
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        micro_batch_tokens=micro_batch_tokens(settings),
        packing=layout == "packed",
        loss_on=recipe.data.loss_on,
        seed=settings.seed,
    )
    if 1 <= settings.warmup >= plan.total_steps > 1:
        raise UsageError(
            f"train.warmup={round(settings.warmup)}, and the rows make {plan.total_steps:,} steps: the learning rate "
            "would never reach train.lr",
            "lower train.warmup, or make it a fraction of all steps (0.03)",
        )
    return plan


def loop_settings(recipe: Recipe, plan: TrainingPlan) -> LoopSettings:
    """The loop's own settings; without `save_every` ten checkpoints are written over the run."""
    settings = recipe.train
    return LoopSettings(
        lr=settings.lr or 0.0,
        schedule=settings.schedule,
        warmup=settings.warmup,
        max_grad_norm=settings.max_grad_norm,
        eval_every=settings.eval_every,
        early_stopping_patience=settings.early_stopping_patience,
        save_every=settings.save_every or max(1, plan.total_steps // 10),
        is_sharded=settings.sharding == "full",
        deterministic=settings.deterministic,
        seed=settings.seed,
    )


def checked_rows(run: Run, recipe: Recipe, tokenizer: Any, progress: Progress) -> tuple[PreparedData, Lint]:
    """The recipe's rows, and what the data checks found in them.

    Raises:
        DataError: an error that `data.allow` does not name; a run that has begun is not stopped any more.
    """
    data = prepare_with(tokenizer, recipe, progress=progress)
    found = lint_rows(tokenizer, recipe, data, progress=progress)
    if "data" not in run.manifest:
        refuse_errors(found, recipe.data.allow)
    return replace(data, examples=()), found


def keep_tokenizer_and_rows(run: Run, tokenizer: Any, data: PreparedData, found: Lint) -> None:
    """Keep what a resumed run and its comparisons read: the tokenizer, and rows to compare forms of the model on; and
    what the data checks found."""
    write_json_atomically(run.lint_file, found.to_json())
    if "data" not in run.manifest:  # a resumed run has read its own
        with directory_written_atomically(run.tokenizer) as folder:
            tokenizer.save_pretrained(folder)
    with file_written_atomically(run.compared_rows) as temporary:
        save_table(rows_to_keep(data), temporary)


def check_nothing_needed_in(path: Path, recipe: Recipe) -> None:
    """Raises UsageError if a file that the recipe reads is in a directory that is about to be replaced."""
    needed = {"model": recipe.model.name, "model.tokenizer": recipe.model.tokenizer}
    needed |= {"adapter.from": recipe.adapter.from_}
    needed |= {"data.chat_template": recipe.data.chat_template}
    needed |= {f"data.sources: {number}": source.path for number, source in enumerate(recipe.data.sources, 1)}
    for key, place in needed.items():
        if place and Path(place).exists() and Path(place).resolve().is_relative_to(path.resolve()):
            raise UsageError(
                f"{key}: {place} is in {path}, which would be replaced", "choose another directory with --out"
            )


def default_path(recipe: Recipe) -> Path:
    """runs/MODEL-METHOD-DATA-N, with the first free N; created, so that no other process takes it too."""
    source = recipe.data.sources[0]
    name = Path(source.path).stem if source.path else Path(source.name).stem
    stem = re.sub(r"[^\w.-]+", "-", f"{Path(recipe.model.name).name}-{recipe.method}-{name}").lower()
    for number in itertools.count(1):
        path = Path("runs") / f"{stem}-{number}"
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            break
    return path
