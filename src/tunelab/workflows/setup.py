"""What a run needs before its first step: processes and device, model, plan, settings, each from the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel

from tunelab.config import Recipe
from tunelab.data.loader import TokenTable, TrainingPlan
from tunelab.errors import ModelError, UsageError
from tunelab.models.adapters import add_lora
from tunelab.models.checkpoint_files import checkpoint_folder
from tunelab.models.formats._format import WeightFormat
from tunelab.models.forward import underlying
from tunelab.models.load import DTYPES, check_tokenizer_fits, load_config, load_model
from tunelab.models.loftq import STORED, absorb_quantization_error, begin_at_stored
from tunelab.models.precision import weight_format
from tunelab.models.structure import check_flat_forward
from tunelab.train.loop import LoopSettings
from tunelab.workflows.trackers import check_installed


def compute_device(recipe: Recipe) -> torch.device:
    """Where the recipe computes.

    Raises:
        UsageError: a GPU is asked for that is not there.
    """
    if recipe.train.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("train.device=cuda: no CUDA GPU is available", "use train.device=auto or cpu")
    return torch.device("cpu" if recipe.train.device == "cpu" or not torch.cuda.is_available() else "cuda")


def compute_dtype(recipe: Recipe) -> str:
    """The numbers of forward and backward, "fp32", "bf16" or "fp16"; `auto` is bf16 on a GPU that has it, else fp32.

    Not on a CPU, although it is about twice as fast there: see docs/decisions/0009-fp32-stays-on-the-cpu.md.

    Raises:
        UsageError: fp16 is asked for without a GPU.
    """
    dtype, device = recipe.train.dtype, compute_device(recipe)
    if dtype == "fp16" and device.type == "cpu":
        raise UsageError("train.dtype=fp16 needs a GPU, and none is used", "use bf16 or fp32 on a CPU")
    if dtype == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return dtype


@contextmanager
def autocast(recipe: Recipe) -> Iterator[None]:
    """Forward passes in the numbers that the recipe trains with."""
    name = compute_dtype(recipe)
    with torch.autocast(compute_device(recipe).type, DTYPES[name]) if name != "fp32" else nullcontext():
        yield


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate set up for the recipe: device, precision of forward and backward.

    Raises:
        UsageError: a GPU or a number format is asked for that is not there, or a tracker that is not installed.
    """
    settings = recipe.train
    device, dtype = compute_device(recipe), compute_dtype(recipe)
    check_installed(settings.trackers)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision={"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[dtype],
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        release(accelerator)
        raise UsageError(
            f"training under {accelerator.distributed_type.value} is not supported",
            "launch with torchrun or accelerate in multi-GPU (DDP) mode",
        )
    return accelerator


def release(accelerator: Accelerator) -> None:
    """Let the next run in this process choose its own precision and device: accelerate keeps them as globals.

    Among several processes the device and the process group stay as they are; they come from the launcher.
    """
    accelerator.free_memory()
    AcceleratorState._reset_state(reset_partial_state=accelerator.num_processes == 1)


def build_model(recipe: Recipe, tokenizer: Any, accelerator: Accelerator) -> nn.Module:
    """The model that is trained: loaded, checked, and with an adapter where the recipe says so.

    A frozen base lies in the precision it is computed with; weights that are trained lie in float32.
    """
    trains_base = recipe.adapter.kind == "none"
    dtype = torch.float32 if trains_base else DTYPES[compute_dtype(recipe)]
    base: nn.Module = load_base(recipe, dtype=dtype, device=accelerator.device)
    check_tokenizer_fits(base, tokenizer)
    check_flat_forward(base, packed=recipe.train.packing)
    if recipe.train.activation_checkpointing:
        enable_activation_checkpointing(underlying(base))
    if trains_base:
        base.requires_grad_(True)
        return base
    adapter = recipe.adapter
    adapted = add_lora(
        base,
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
        targets=adapter.targets,
        seed=recipe.train.seed,
    )
    _set_first_product(recipe, adapted)
    return cast(nn.Module, adapted)


def _set_first_product(recipe: Recipe, adapted: Any) -> None:
    """What the adapter begins as, where that is not zero.

    Raises:
        ModelError: the base's codes need an adapter that is stored with them, and the recipe begins at zero.
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
            f"{name}: its codes lack what {STORED} holds, and the adapter would begin at zero",
            "set adapter.init=loftq, or quantise the model without --loftq-rank",
        )


def recipe_format(recipe: Recipe) -> WeightFormat | None:
    """The format that the recipe stores the base's linear weights in; None where it leaves them as they are.

    Raises:
        UsageError: there is no such format, or it has no such option.
    """
    precision = recipe.precision
    return None if precision.name == "none" else weight_format(precision.name, precision.options)


def checkpoint_dtype(recipe: Recipe) -> torch.dtype:
    """What the base's checkpoint has its weights in; float32 where it does not say."""
    model = recipe.model
    own = load_config(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code).dtype
    return own if own in DTYPES.values() else torch.float32


def load_base(
    recipe: Recipe, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> PreTrainedModel:
    """The recipe's model without an adapter, its weights stored as the recipe says.

    Args:
        dtype: of the weights that no format stores; None = what the recipe computes in.
        device: None = where the recipe computes.
    """
    return load_model(
        recipe.model.name,
        dtype=dtype or DTYPES[compute_dtype(recipe)],
        device=device or compute_device(recipe),
        revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code,
        form=recipe_format(recipe),
        skip=recipe.precision.skip,
    )


def load_trained(recipe: Recipe, folder: Path) -> PreTrainedModel:
    """The weights that a run of the recipe trained, every one of them."""
    return load_model(
        str(folder),
        dtype=DTYPES[compute_dtype(recipe)],
        device=compute_device(recipe),
        trust_remote_code=recipe.model.trust_remote_code,
    )


def enable_activation_checkpointing(model: PreTrainedModel) -> None:
    """Compute activations again in backward in place of keeping them (not reentrant: frozen inputs need that)."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name since transformers 5.23
    if enable is not None:
        enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def training_plan(recipe: Recipe, table: TokenTable) -> TrainingPlan:
    """The steps that the recipe makes of these rows."""
    settings = recipe.train
    return TrainingPlan(
        table=table,
        epochs=settings.epochs,
        steps=settings.steps,
        rows_per_step=settings.rows_per_step,
        tokens_per_step=settings.tokens_per_step,
        tokens_per_batch=settings.tokens_per_batch,
        packing=settings.packing,
        loss_on=recipe.data.loss_on,
        seed=settings.seed,
    )


def loop_settings(recipe: Recipe, plan: TrainingPlan) -> LoopSettings:
    """The loop's own settings; without `save_every` a checkpoint is written ten times over the run."""
    settings = recipe.train
    return LoopSettings(
        lr=settings.lr or 0.0,
        schedule=settings.schedule,
        warmup=settings.warmup,
        clip=settings.clip,
        eval_every=settings.eval_every,
        patience=settings.patience,
        save_every=settings.save_every or max(1, plan.total_steps // 10),
        seed=settings.seed,
    )
