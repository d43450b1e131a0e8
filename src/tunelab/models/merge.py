"""Folding an adapter into its base, and proof that the result is the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.errors import ModelError
from tunelab.models.digest import weights_hash
from tunelab.models.formats._format import WeightFormat
from tunelab.models.forward import underlying
from tunelab.models.quantized_linear import QuantizedLinear, quantized_layers
from tunelab.models.quantized_load import layers_to_quantize
from tunelab.models.structure import EXACT


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """How far logits of two models differ over the same tokens in float32, relative to the largest logit."""

    tokens: int
    largest_difference: float
    mean_difference: float
    same_argmax: float

    @property
    def passed(self) -> bool:
        return self.largest_difference <= EXACT


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """The base model with the adapter's product added into its weights; the adapted model is used up.

    Where the adapter sits on an embedding or head whose weight is tied to the other, they are untied first: the sum
    belongs to one of them only.

    Raises:
        ModelError: a merged weight is not finite.
    """
    base = underlying(model)
    _untie_adapted(base)
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(
            f"the adapter cannot be merged: {error}", "was the training stopped by a loss of NaN?"
        ) from error
    return merged


def logits_of(model: nn.Module, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits of each row, [tokens, vocabulary] float32 on the CPU, by the model's own plain forward pass."""
    base = underlying(model)
    device = base.get_input_embeddings().weight.device
    base.eval()
    with torch.no_grad():
        return [
            base(input_ids=torch.tensor([list(row)], device=device), use_cache=False).logits[0].float().cpu()
            for row in rows
        ]


def compare_logits(expected: Sequence[Tensor], got: Sequence[Tensor]) -> MergeCheck:
    """How far the logits differ that two models computed in float32 over the same rows.

    In float32 alone: what rounding to fewer bits does to logits is no matter of a bound that holds for all models.
    """
    first, second = torch.cat(list(expected)), torch.cat(list(got))  # [tokens, vocabulary]
    difference = (first - second).abs()
    scale = float(first.abs().max())
    return MergeCheck(
        tokens=len(first),
        largest_difference=float(difference.max()) / scale,
        mean_difference=float(difference.mean()) / scale,
        same_argmax=float((first.argmax(-1) == second.argmax(-1)).float().mean()),
    )


def rounded(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its weights rounded to a dtype, in place.

    Raises:
        ModelError: a weight is too large for it.
    """
    model = model.to(dtype)
    broken = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if broken:
        raise ModelError(
            f"{broken[0]}: a merged weight is not finite in {str(dtype).removeprefix('torch.')}",
            "merge with --into bf16",
        )
    return model


def weight_digests(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, str]:
    """sha256 of each weight in a dtype, and of the codes and scales of each that is stored in a format, by name."""
    digests = {name: weights_hash({"": parameter.detach().to(dtype)}) for name, parameter in model.named_parameters()}
    packed = {name: weights_hash(layer.packed) for name, layer in quantized_layers(model).items()}
    return {**digests, **packed}


def _untie_adapted(base: PreTrainedModel) -> None:
    """Give the head a weight of its own, where it shares the embedding's and either of them carries an adapter."""
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    carriers = [module for module in (embedding, head) if hasattr(module, "base_layer")]
    if not carriers or not base.config.get_text_config().tie_word_embeddings:
        return
    inner = getattr(head, "base_layer", head)
    inner.weight = nn.Parameter(inner.weight.detach().clone())
    base.config.get_text_config().tie_word_embeddings = False


def dequantize_layers(model: nn.Module) -> None:
    """Put dense layers in place of all quantised ones, with the very weights that these compute with.

    An adapter on such a layer stays; what PEFT does with it from then on, it does with the dense layer.
    """
    base = underlying(model)
    for name, layer in quantized_layers(base).items():
        weight = layer.weight
        dense: nn.Module
        if layer.from_conv1d:
            dense = Conv1D(layer.out_features, layer.in_features)
            dense.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
        else:
            dense = nn.Linear(layer.in_features, layer.out_features, device="meta")
            dense.weight = nn.Parameter(weight, requires_grad=False)
        dense.bias = layer.bias
        parent = base.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], dense)
        if layer.from_conv1d and hasattr(parent, "fan_in_fan_out"):
            parent.fan_in_fan_out = True  # PEFT adds its product to the weight as it lies


def quantize_layers(model: PreTrainedModel, form: WeightFormat, skip: Sequence[str] = ()) -> None:
    """Store the linear layers of a dense model in a format, but for the head and those that `skip` names.

    Raises:
        ModelError: a name in `skip` is no linear layer, or a weight cannot be quantised.
    """
    for name in layers_to_quantize(model, skip):
        layer = model.get_submodule(name)
        weight = cast(Tensor, layer.weight).detach()
        conv1d = isinstance(layer, Conv1D)
        rows = weight.T if conv1d else weight
        bias = None if layer.bias is None else cast(Tensor, layer.bias).detach()
        shape = (rows.shape[0], rows.shape[1])
        stored = QuantizedLinear(form, form.quantize(rows), shape, bias=bias, dtype=weight.dtype, from_conv1d=conv1d)
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], stored)
