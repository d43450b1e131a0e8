"""Merging an adapter into its base, and proof that the result is the same model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.errors import ModelError
from tunelab.models.digest import weights_hash
from tunelab.models.expert_adapters import adapted_stack, merged_stack, weight_name
from tunelab.models.expert_stack import ExpertStack, set_dense
from tunelab.models.formats._format import WeightFormat
from tunelab.models.forward import underlying
from tunelab.models.quantized_linear import QuantizedLinear, quantized_layers
from tunelab.models.quantized_load import layers_to_quantize

#: Largest relative difference, in float32, between a layer's outputs with a separate adapter and with the sum.
#: Summation order causes 1e-6; an adapter that is lost, scaled wrongly or added to another weight causes 1e-3 and more.
EXACT = 1e-5

#: Random inputs per adapted layer.
PROBES = 16


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """How far outputs of adapted layers and of merged ones differ in float32.

    Layer by layer, since no bound on a whole model's logits holds for every model: depth amplifies rounding in one
    model thousands of times more than in another.

    Args:
        layers: number of layers with an adapter.
        largest_difference: relative to the layer's largest output.
    """

    layers: int
    largest_difference: float

    @property
    def passed(self) -> bool:
        return self.largest_difference <= EXACT


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """The base model with the adapter's product added to its weights; do not use the adapted model afterwards.

    If the adapter is on an embedding or head whose weight is tied to the other, they are untied first: the sum belongs
    to only one of them.

    Raises:
        ModelError: a merged weight is not finite, or two adapted layers share one.
    """
    base = underlying(model)
    _untie_adapted(base)
    _check_not_shared(base)
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"the adapter cannot be merged: {error}", "did training end with a NaN loss?") from error
    return merged


def _check_not_shared(base: PreTrainedModel) -> None:
    """Check that no two adapted layers have one weight: it cannot become two different sums (Zamba 2's shared blocks).

    Raises:
        ModelError: two have.
    """
    adapted = [(name, module) for name, module in base.named_modules() if isinstance(module, LoraLayer)]
    owners: dict[int, str] = {}
    for name, layer in adapted:
        weight = layer.get_base_layer()._parameters.get("weight")  # of a quantized layer it is none
        other = name if weight is None else owners.setdefault(id(weight), name)
        if other != name:
            raise ModelError(
                f"{type(base).__name__}: {other} and {name} share one weight, but each has its own adapter: "
                "they cannot be merged",
                "keep the adapter, or train with adapter.targets that name layers which share nothing",
            )


def logits_of(model: nn.Module, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits of each row, [tokens, vocabulary] float32 on the CPU, by the model's own plain forward pass."""
    base = underlying(model)
    device = base.device
    base.eval()
    with torch.no_grad():
        return [
            base(input_ids=torch.tensor([list(row)], device=device), use_cache=False).logits[0].float().cpu()
            for row in rows
        ]


def adapted_outputs(model: PeftModel) -> dict[str, Tensor]:
    """Outputs of each layer with an adapter for random inputs, by its name in the base model."""
    outputs = {}
    for name, layer in underlying(model).named_modules():
        if isinstance(layer, ParamWrapper):
            with torch.no_grad():
                outputs[weight_name(name, layer)] = adapted_stack(layer, _inputs)
        elif hasattr(layer, "base_layer") or isinstance(layer, ModulesToSaveWrapper):
            # PEFT's layer for single tokens is in a wrapper, which has the embedding's name.
            outputs[name.removesuffix(".token_adapter")] = _output(layer)
    return outputs


def compare_outputs(expected: Mapping[str, Tensor], merged: PreTrainedModel) -> MergeCheck:
    """How far the outputs of merged layers are from those of adapted_outputs(), for the same inputs."""
    worst = 0.0
    modules = dict(merged.named_modules())
    for name, outputs in expected.items():
        found = _output(modules[name]) if name in modules else _stack_output(modules, name)
        difference = (found - outputs).abs().max() / outputs.abs().max().clamp_min(1e-30)
        worst = max(worst, float(difference)) if difference == difference else float("nan")
        if worst != worst:
            break
    return MergeCheck(len(expected), worst)


def _output(layer: nn.Module) -> Tensor:
    """[PROBES, out] float32 for inputs that are the same for every layer of this width."""
    inner = layer.original_module if isinstance(layer, ModulesToSaveWrapper) else getattr(layer, "base_layer", layer)
    with torch.no_grad():
        if isinstance(inner, nn.Embedding):
            ids = torch.arange(inner.num_embeddings, device=inner.weight.device)
            return cast(Tensor, layer(torch.cat([ids[:PROBES], ids[-PROBES:]])))  # new tokens are at the end
        weight = cast(Tensor, inner.weight)
        width = weight.shape[0] if isinstance(inner, Conv1D) else weight.shape[-1]
        return cast(Tensor, layer(_inputs(width, weight)))


def _stack_output(modules: Mapping[str, nn.Module], name: str) -> Tensor:
    """What each expert's merged weight makes of the same inputs."""
    parent, _, last = name.rpartition(".")
    with torch.no_grad():
        return merged_stack(modules[parent], last, _inputs)


def _inputs(width: int, weight: Tensor) -> Tensor:
    return torch.randn(PROBES, width, generator=torch.Generator().manual_seed(0)).to(weight.device)


def rounded(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Cast the model's weights to a dtype, in place.

    Raises:
        ModelError: a weight overflows it.
    """
    model = model.to(dtype)
    broken = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if broken:
        raise ModelError(
            f"{broken[0]}: a merged weight is not finite in {str(dtype).removeprefix('torch.')}",
            "merge with --format bf16",
        )
    return model


def weight_digests(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, str]:
    """sha256 of each weight in a dtype, and of the codes and scales of each quantized layer, by name."""
    digests = {name: weights_hash({"": parameter.detach().to(dtype)}) for name, parameter in model.named_parameters()}
    packed = {name: weights_hash(layer.packed) for name, layer in quantized_layers(model).items()}
    return {**digests, **packed}


def _untie_adapted(base: PreTrainedModel) -> None:
    """Untie the head from the embedding if either of them has an adapter."""
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    carriers = [module for module in (embedding, head) if hasattr(module, "base_layer")]
    if not carriers or not base.config.get_text_config().tie_word_embeddings:
        return
    inner = getattr(head, "base_layer", head)
    inner.weight = nn.Parameter(inner.weight.detach().clone())
    base.config.get_text_config().tie_word_embeddings = False


def dequantize_layers(model: nn.Module) -> None:
    """Replace all quantized layers with dense ones that have the dequantized weights.

    An adapter on such a layer stays; from then on PEFT treats the layer as dense. Experts' weights too.
    """
    base = underlying(model)
    for module in list(base.modules()):
        for name in [name for name, child in module.named_children() if isinstance(child, ExpertStack)]:
            set_dense(module, name)
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
            parent.fan_in_fan_out = True  # PEFT adds its product to the weight as stored


def quantize_layers(model: PreTrainedModel, form: WeightFormat, skip: Sequence[str] = ()) -> None:
    """Quantize the linear layers of a dense model to a format, except the head and those in `skip`.

    Raises:
        ModelError: a name in `skip` is not a linear layer, or a weight cannot be quantized.
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
