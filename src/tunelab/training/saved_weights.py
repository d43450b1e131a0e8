"""What training wrote: the adapter; or all weights, rounded to the dtype that they are saved in, and what that costs.

Training updates float32 weights. Saved in a checkpoint's 16 bits, they are half the size, and updates smaller than half
a unit in the last place are lost: how much that is depends on the run, so it is measured, with the limit of a merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from tunelab.config import Recipe
from tunelab.errors import TrainingError
from tunelab.files import directory_written_atomically
from tunelab.inference.divergence import (
    AnswerDistributions,
    Row,
    answer_distributions,
    divergence,
)
from tunelab.models.adapters import save_adapter
from tunelab.models.forward import underlying
from tunelab.models.initialization import changes_the_base, save_converted
from tunelab.models.load import DTYPES, dtype_name
from tunelab.preparation.model import checkpoint_dtype
from tunelab.preparation.published import published_tokenizer, set_end_tokens
from tunelab.records.runs import Run
from tunelab.units import format_scientific


def round_for_saving(recipe: Recipe, model: PreTrainedModel, rows: Sequence[Row]) -> dict[str, Any] | None:
    """Round float32 weights in place to what `train.save_dtype` can hold; they stay float32 tensors.

    Args:
        rows: to measure on (input_ids, answer_mask).

    Returns:
        For the manifest: the dtype, and the KL (nats) and share of changed tokens that it costs, beside what computing
        in it costs (`floor_kl`). None if the weights stay in float32 anyway.

    Raises:
        TrainingError: a weight overflows the requested dtype.
    """
    asked = recipe.train.save_dtype
    dtype = checkpoint_dtype(recipe) if asked == "auto" else DTYPES[asked]
    name = dtype_name(dtype)
    if dtype == torch.float32:
        return None
    if broken := _overflowing(model, dtype):
        if asked != "auto":
            raise TrainingError(f"{broken}: a trained weight overflows {name}", "set train.save_dtype=bf16 or fp32")
        return {"dtype": "fp32", "because": f"{broken} overflows {name}"}
    trained = _distributions(model, rows)
    floor = _distributions(model, rows, dtype)
    weights = (
        {key: parameter.detach().to("cpu", copy=True) for key, parameter in model.named_parameters()}
        if asked == "auto"
        else {}
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    if trained is None or floor is None:
        return {"dtype": name, "tokens": 0}
    costs = divergence(trained.loss, trained, _distributions(model, rows) or trained)
    own = divergence(trained.loss, trained, floor)
    found = {"dtype": name, "tokens": costs.tokens, "kl": costs.kl, "changed": costs.changed, "floor_kl": own.kl}
    if asked == "auto" and costs.kl > own.most_kl:
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(weights[key])
        return {**found, "dtype": "fp32", "because": f"{name} would cost a KL of {format_scientific(costs.kl)} nats"}
    return found


def saved_dtype(found: dict[str, Any] | None) -> torch.dtype:
    """The dtype to write the weights in, by what round_for_saving() found."""
    return torch.float32 if found is None else DTYPES[found["dtype"]]


def _overflowing(model: nn.Module, dtype: torch.dtype) -> str:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach().to(dtype)).all()):
            return name
    return ""


def _distributions(
    model: PreTrainedModel, rows: Sequence[Row], compute: torch.dtype = torch.float32
) -> AnswerDistributions | None:
    """Next-token distributions on the rows' answers, computed in a dtype; None if no row has an answer."""
    if not any(any(mask[1:]) for _, mask in rows):
        return None
    device = model.device.type
    with torch.autocast(device, compute, enabled=compute != torch.float32):
        return answer_distributions(model, rows)


def save_result(run: Run, recipe: Recipe, model: nn.Module, tokenizer: Any, dtype: torch.dtype) -> None:
    """Write the adapter in PEFT's format, or the whole model in a dtype in transformers' format."""
    base, published = underlying(model), published_tokenizer(tokenizer, recipe)
    if not isinstance(model, PeftModel):
        set_end_tokens(base, tokenizer, recipe)
        with directory_written_atomically(run.model) as folder:
            base.to(dtype).save_pretrained(folder)
            published.save_pretrained(folder)
        return
    with directory_written_atomically(run.adapter) as folder:
        if changes_the_base(recipe.adapter.init):
            save_converted(model, folder, run.start)
        else:
            save_adapter(model, folder)
        published.save_pretrained(folder)
