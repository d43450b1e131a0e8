"""What a training is about to do, in sentences for a person, before its first step."""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import nn

from tunelab.config import Recipe
from tunelab.data.loader import TrainingPlan
from tunelab.data.not_used import characters_dropped, rows_not_used
from tunelab.data.prepared import PreparedData
from tunelab.linting.lint import Lint
from tunelab.linting.summary import table
from tunelab.models.adapters import Coverage, coverage
from tunelab.models.digest import digest
from tunelab.models.forward import underlying
from tunelab.models.gguf.reading import gguf_sentences
from tunelab.models.initialization import changes_the_base
from tunelab.models.linear_layers import dense_stacks
from tunelab.models.quantized_linear import quantized_layers
from tunelab.models.structure import structure_of
from tunelab.models.targets import read_by_kernels
from tunelab.statistics.power import detectable_effect
from tunelab.training.checkpoint import trainable_weights
from tunelab.units import (
    format_bytes,
    format_count,
    format_counted,
    format_duration,
    format_measured,
    format_rate,
    format_significant,
)

#: Held-out rows below which a difference has to be large to be detected.
FEW_ROWS = 100

#: Kinds of layers, and ranges of their numbers, that are listed.
MOST_KINDS, MOST_RUNS = 6, 4

#: Time of a training step in forward passes: LoRA needs no gradients of the base's weights. One more where activations
#: are computed again.
PASSES = {"lora": 2, "full": 3}

#: Bytes per trained parameter: the two moments of AdamW, in float32 or as codes.
MOMENTS_BYTES, MOMENTS_BYTES_8_BIT = 8, 2


def forecast(recipe: Recipe, plan: TrainingPlan, model: nn.Module, *, held_out: int, step: int = 0) -> list[str]:
    """Rows, steps, tokens, and the memory that is known beforehand; first, what a base in a GGUF file is.

    Args:
        held_out: number of held-out rows.
        step: done by earlier sessions.
    """
    table = plan.table
    targets = sum(table.targets) if plan.loss_on == "completion" else table.tokens - len(table)
    reached = plan.step(plan.total_steps - 1)[1]
    said = [
        f"{format_counted(len(table), 'row')}, {table.tokens:,} tokens per epoch "
        f"({targets:,} in the loss); {format_counted(plan.total_steps, 'step')}, "
        f"{format_measured(reached, 'epoch', 3)}" + (f"; resuming after step {step:,}" if step else "")
    ]
    found, covered = digest(model), coverage(model) if isinstance(model, PeftModel) else None
    said.append(
        f"{format_count(found.trainable)} of {format_count(found.parameters)} parameters are trained; "
        f"weights, gradients and optimizer state need {format_bytes(least_bytes(recipe, model, found.bytes))}, "
        f"activations come on top; {adapters_words(covered)}the time left is shown from the first step on"
    )
    further = (
        few_rows_warning(held_out),
        padding_sentence(recipe, model),
        start_sentence(recipe),
        init_sentence(recipe),
        loraplus_sentence(recipe),
        experts_sentence(covered),
        dense_experts_sentence(model),
        router_loss_sentence(model),
        kernels_sentence(recipe, model),
        old_gpu_sentence(recipe.train.dtype, underlying(model).device),
    )
    return [*gguf_sentences(recipe.model.name), *said, *(sentence for sentence in further if sentence)]


def data_warnings(recipe: Recipe, data: PreparedData, found: Lint) -> list[str]:
    """Rows that are dropped, truncated or skipped, and characters that the tokenizer drops: one warning each; then
    what the data checks found, as one table."""
    rows = rows_not_used(data, recipe.data.max_length or 0, recipe.data.on_overflow)
    said = [f"warning: {sentence}" for sentence in (*rows, *characters_dropped(data))]
    return [*said, *filter(None, [table(found, recipe.data.allow)])]


def time_sentence(
    recipe: Recipe, plan: TrainingPlan, *, forward: float = 0.0, earlier: float = 0.0, step: int = 0
) -> str:
    """How long the steps will take, roughly.

    Args:
        forward: tokens per second of the pass over the validation or held-out rows before training.
        earlier: tokens per second of the steps of an earlier session, which are used where they are known.
        step: done by earlier sessions.
    """
    passes = PASSES[recipe.method] + recipe.train.activation_checkpointing
    epochs = plan.step(plan.total_steps - 1)[1] - (plan.step(step - 1)[1] if step else 0.0)
    rate, tokens = earlier or forward / passes, epochs * plan.table.tokens
    source = "as before the interruption" if earlier else f"a forward pass takes 1/{passes} of it"
    return (
        f"about {format_duration(tokens / rate)} of training: {round(tokens):,} tokens at {format_rate(rate)} "
        f"({source})"
    )


def least_bytes(recipe: Recipe, model: nn.Module, weights: int) -> int:
    """Bytes of weights, gradients and optimizer state: less than a training needs, since activations are unknown.

    Args:
        weights: bytes of all of the model's weights.
    """
    moments = MOMENTS_BYTES_8_BIT if recipe.train.optimizer == "adamw-8bit" else MOMENTS_BYTES
    trained = trainable_weights(model).values()
    return weights + sum(one.nbytes + moments * one.numel() for one in trained)


def padding_sentence(recipe: Recipe, model: nn.Module) -> str | None:
    """Why rows run more slowly than the recipe allows (packed, or padded if it says false); else None."""
    structure = structure_of(underlying(model))
    if not {"auto": structure.packed, False: structure.padded}.get(recipe.train.packing):
        return None
    how = "rows run one at a time" if structure.padded else "rows are padded"
    return f"{how}, with the model's own attention: {structure.padded or structure.packed}"


def adapters_words(found: Coverage | None) -> str:
    """How many linear layers of which kinds have an adapter, and in which of the model's layers; "" for none. The
    manifest lists all (`adapter.modules`)."""
    if found is None or not found.layers:  # on experts alone
        return ""
    if found.layers == found.of:
        return f"adapters on all {format_counted(found.of, 'linear layer')}; "
    kinds = [f"{max(1, len(numbers)):,} {kind}" for kind, numbers in found.modules.items()]
    numbers = tuple(sorted({number for each in found.modules.values() for number in each}))
    listed = f"{_shortened(kinds, MOST_KINDS, 'kind')}{_layers_in_words(numbers)}"
    return f"adapters on {found.layers:,} of {format_counted(found.of, 'linear layer')}: {listed}; "


def start_sentence(recipe: Recipe) -> str | None:
    """Which adapter is trained further; None for a new one."""
    adapter = recipe.adapter
    if adapter.from_ is None:
        return None
    alpha = format_significant(adapter.alpha)
    return f"training starts from the adapter {adapter.from_} (rank {adapter.rank}, alpha {alpha})"


def init_sentence(recipe: Recipe) -> str | None:
    """What an initialization does to the base and to what is saved; None if it does nothing to them."""
    adapter = recipe.adapter
    if recipe.method != "lora" or not changes_the_base(adapter.init):
        return None
    return (
        f"{adapter.init}: the initial matrices are taken out of the base's weights; the adapter is saved as plain LoRA "
        f"of rank {2 * adapter.rank:,} over the unchanged base"
    )


def loraplus_sentence(recipe: Recipe) -> str | None:
    """At which rate LoRA+ trains the B matrices; None without it."""
    ratio, lr = recipe.train.loraplus_lr_ratio, recipe.train.lr
    if ratio is None or lr is None:
        return None
    rate = format_significant(ratio * lr)
    return f"LoRA+: B matrices learn at {rate}, {format_significant(ratio)} times the rate of A"


def _shortened(parts: list[str], most: int, noun: str) -> str:
    left = len(parts) - most
    return ", ".join(parts[:most]) + (f" and {left:,} more {noun}{'s' * (left > 1)}" if left > 0 else "")


def _layers_in_words(numbers: tuple[int, ...]) -> str:
    """Numbers of layers with runs of them as one: " (in layers 0-3, 6)"; "" of an output head."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    listed = _shortened(shown, MOST_RUNS, "range")
    return f" (in layer{'s' if len(numbers) > 1 else ''} {listed})" if numbers else ""


def experts_sentence(found: Coverage | None) -> str | None:
    """Which weights of a mixture of experts have an adapter, and which stay as they are; None of another model."""
    if found is None or not found.expert_tensors + found.stacked_tensors:
        return None
    layers = f"{found.layers} linear layers with {format_count(found.weights)} weights"
    experts = f"{format_count(found.expert_weights)} weights of experts in {found.expert_tensors} stacked tensors"
    where = " and ".join(part for part, count in ((layers, found.layers), (experts, found.expert_tensors)) if count)
    without = []
    if found.stacked_tensors:
        without.append(f"{format_count(found.stacked_weights)} weights of experts in {found.stacked_tensors} tensors")
    without.append("other routers" if found.routers else "routers")
    return f"mixture of experts: the adapter is on {where}; no adapter on {' and '.join(without)}"


def dense_experts_sentence(model: nn.Module) -> str | None:
    """How many parameters stay as they are in a quantized mixture of experts; None if its experts are quantized."""
    base = underlying(model)
    dense = sum(dense_stacks(base).values())
    if not dense or not quantized_layers(base):
        return None
    found = digest(base)
    kept = " and ".join(f"{format_count(count)} in {name}" for name, count in found.dtypes.items())
    return f"experts are not quantized: {format_count(dense)} of {format_count(found.parameters)} parameters ({kept})"


def router_loss_sentence(model: nn.Module) -> str | None:
    """What a model's own loss adds for its routers and this training does not; None if it adds nothing."""
    config = underlying(model).config.get_text_config()
    share = getattr(config, "router_aux_loss_coef", None)
    if not (share and getattr(config, "output_router_logits", False)):
        return None
    return (
        f"not in the loss: the routers' load-balancing loss (router_aux_loss_coef {format_significant(share)} in "
        "config.json), which depends on how rows are batched; metrics.jsonl has the load of the experts"
    )


def kernels_sentence(recipe: Recipe, model: nn.Module) -> str | None:
    """Which linear layers get no adapter although the recipe asks for all; None if all do."""
    if not isinstance(model, PeftModel) or recipe.adapter.targets != "all-linear":
        return None
    left_out = read_by_kernels(underlying(model))
    if not left_out:
        return None
    kinds = " and ".join(dict.fromkeys(name.rpartition(".")[2] for name in left_out))
    return f"no adapter on {len(left_out)} layers ({kinds}): Mamba's kernels read their weights past an adapter"


def old_gpu_sentence(dtype: str, device: torch.device) -> str | None:
    """What a GPU without bf16 of its own computes in; None of others, and of fp16, which was asked for."""
    if device.type != "cuda" or dtype == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False):
        return None
    major, minor = torch.cuda.get_device_capability(device)
    gpu = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    if dtype == "bf16":
        return (
            f"warning: {gpu}: it emulates bf16, without FlashAttention; train.dtype=fp16 (with a loss scale) or fp32 "
            "is its own"
        )
    return f"{gpu}: it has no bf16 of its own, so fp32 is used; train.dtype=fp16 trains with a loss scale"


def few_rows_warning(held_out: int) -> str | None:
    """A warning if the held-out rows can only show a large difference, or none; None if they are enough, or none."""
    if not 0 < held_out < FEW_ROWS:
        return None
    effect = detectable_effect(held_out) if held_out > 1 else None
    shown = "no difference can be significant"
    if effect is not None:
        size = f"{format_measured(effect, 'standard deviation')} of the paired differences"
        shown = f"the minimum detectable difference is {size} (at 80 % power)"
    rows = format_counted(held_out, "held-out row")
    return f"warning: with {rows} {shown}; hold out more (data.held_out; 200 where there are enough rows)"
