"""The recipe's model: its device, its dtype, and its weights as the recipe stores them or as a run trained them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tunelab import cpu
from tunelab.config import Recipe
from tunelab.errors import UsageError
from tunelab.models.formats._format import WeightFormat
from tunelab.models.load import DTYPES, load_config, load_model
from tunelab.models.new_tokens import add_embeddings
from tunelab.models.precision import weight_format
from tunelab.preparation.tokenizer import new_token_ids, words_of_new_tokens


def compute_device(recipe: Recipe) -> torch.device:
    """The recipe's compute device.

    Raises:
        UsageError: a GPU is requested that is not available.
    """
    if recipe.train.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("train.device=cuda: no CUDA GPU is available", "use train.device=auto or cpu")
    return torch.device("cpu" if recipe.train.device == "cpu" or not torch.cuda.is_available() else "cuda")


def compute_dtype(recipe: Recipe) -> str:
    """The compute dtype, "fp32", "bf16" or "fp16".

    `auto` is bf16 on a GPU that supports it, and on a CPU with bf16 products if the checkpoint is in bf16 or fp16; else
    fp32 (docs/decisions/0009-bf16-on-the-cpu.md).

    Raises:
        UsageError: fp16 is requested without a GPU.
    """
    dtype, device = recipe.train.dtype, compute_device(recipe)
    if dtype == "fp16" and device.type == "cpu":
        raise UsageError("train.dtype=fp16 needs a GPU, and none is used", "use bf16 or fp32 on a CPU")
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if not cpu.has_bf16_products():  # the model's configuration need not be read
        return "fp32"
    return "bf16" if cpu.computes_in_bf16(checkpoint_dtype(recipe).itemsize) else "fp32"


def with_dtype(recipe: Recipe) -> Recipe:
    """The recipe with `train.dtype: auto` resolved for this machine, so that the run keeps it on every other."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"dtype": compute_dtype(recipe)})})


@contextmanager
def autocast(recipe: Recipe) -> Iterator[None]:
    """Forward passes in the dtype that the recipe trains with."""
    name = compute_dtype(recipe)
    with torch.autocast(compute_device(recipe).type, DTYPES[name]) if name != "fp32" else nullcontext():
        yield


def recipe_format(recipe: Recipe) -> WeightFormat | None:
    """The format in which the recipe stores the base's linear weights; None if it does not quantize them.

    Raises:
        UsageError: there is no such format, or it has no such option.
    """
    precision = recipe.precision
    return None if precision.name == "none" else weight_format(precision.name, precision.options)


def checkpoint_dtype(recipe: Recipe) -> torch.dtype:
    """The dtype of the base's checkpoint, or of its text part; float32 if neither says."""
    model = recipe.model
    config = load_config(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    own = config.dtype or config.get_text_config().dtype
    return own if own in DTYPES.values() else torch.float32


def load_base(
    recipe: Recipe,
    tokenizer: Any = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> PreTrainedModel:
    """The recipe's model without an adapter, quantized if the recipe says so, with embeddings of its new tokens.

    Args:
        tokenizer: with the recipe's new tokens; needed only if there are any.
        dtype: of the weights that are not quantized; None = the compute dtype.
        device: None = the compute device.
    """
    model = load_model(
        recipe.model.name,
        dtype=dtype or DTYPES[compute_dtype(recipe)],
        device=device or compute_device(recipe),
        revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code,
        form=recipe_format(recipe),
        skip=recipe.precision.skip,
    )
    add_embeddings(model, new_token_ids(recipe, tokenizer), words_of_new_tokens(recipe, tokenizer))
    return model


def load_trained(recipe: Recipe, folder: Path) -> PreTrainedModel:
    """The full weights that a run of the recipe trained."""
    return load_model(
        str(folder),
        dtype=DTYPES[compute_dtype(recipe)],
        device=compute_device(recipe),
        trust_remote_code=recipe.model.trust_remote_code,
    )
