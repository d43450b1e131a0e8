"""LoRA on the stacked weights of experts: PEFT's `target_parameters`, with a pair of matrices for each expert.

PEFT converts names of layers in these architectures: before transformers 5 each expert had linear layers of its own
(`gate_proj`), and so have shared experts still. An adapter on shared experts is therefore stored with the names of
their weights, which mean the same matrices and which PEFT does not convert.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import ParamWrapper
from peft.utils import transformers_weight_conversion as conversion
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunelab.errors import ModelError
from tunelab.models.expert_stack import ExpertStack, base_name, quantized_stacks
from tunelab.models.linear_layers import is_end_of, last_part, linear_names, router_weights, stacked_weights

#: In names of an adapter from before transformers 5.
OF_ONE_EXPERT = re.compile(r"\.experts\.\d+\.")

WITHOUT_EXPERTS = "or give adapter.targets without the experts (attention, or a list of linear layers)"


def stacked_targets(model: PreTrainedModel, targets: str | Sequence[str]) -> list[str]:
    """Names for PEFT's `target_parameters`: experts' weights for "all-linear", or those that a name matches.

    A router is adapted only where it is named.
    """
    if targets == "attention":
        return []
    stacks = list(stacked_weights(model))
    if targets == "all-linear":
        return sorted({last_part(name) for name in stacks})
    named = [targets] if isinstance(targets, str) else targets
    linear = set(linear_names(model))
    routers = [name for name in router_weights(model) if name.removesuffix(".weight") not in linear]
    wanted = [name for name in stacks if any(is_end_of(target, name) for target in named)]
    wanted += [name for name in routers if any(is_end_of(one, name.removesuffix(".weight")) for one in named)]
    return sorted({last_part(name, 3 if name.endswith(".weight") else 2) for name in wanted})


def matches_stack(model: PreTrainedModel, target: str) -> bool:
    """Whether a name given as a target is that of experts' weights or of a router."""
    return bool(stacked_targets(model, [target]))


def check_options(stacks: Sequence[str], *, dropout: float, use_dora: bool) -> None:
    """Check that PEFT can do on experts what the recipe asks for.

    Raises:
        ModelError: it asks for dropout or DoRA: both need the input of a linear layer.
    """
    if not stacks or not (dropout or use_dora):
        return
    what, remedy = (f"adapter.dropout={dropout:g}", "0") if dropout else ("adapter.use_dora=true", "false")
    raise ModelError(
        f"{what}: not possible on experts, whose weights are parameters without a layer of their own ({stacks[0]})",
        f"set {what.partition('=')[0]}={remedy}, {WITHOUT_EXPERTS}",
    )


def widths(model: nn.Module, stacks: Sequence[str]) -> int:
    """Inputs and outputs, summed over all experts and layers, of the weights that these names match."""
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    shapes |= {name: stack.shape for name, stack in quantized_stacks(model).items()}
    found = [shape for name, shape in shapes.items() if any(is_end_of(stack, name) for stack in stacks)]
    return sum((shape[0] if len(shape) == 3 else 1) * sum(shape[-2:]) for shape in found)


@contextmanager
def names_kept() -> Iterator[None]:
    """Within the block PEFT takes the names of a configuration as they are."""
    before = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *given, **named: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = before


def for_plain_peft(config: LoraConfig, model: PreTrainedModel) -> LoraConfig:
    """The configuration as plain PEFT has to read it: names that it would convert are those of weights."""
    converted = copy.deepcopy(config)
    conversion.convert_peft_config_for_transformers(converted, model=model, conversions=None)
    modules = _names(config.target_modules)
    moved = [name for name in modules if name not in _names(converted.target_modules)]
    if not moved:
        return config
    stored = copy.deepcopy(config)
    stored.target_modules = [name for name in modules if name not in moved]
    stored.target_parameters = sorted({*(config.target_parameters or []), *(f"{name}.weight" for name in moved)})
    stored.lora_dropout = 0.0  # of training alone; PEFT refuses it on weights
    return stored


def from_plain_peft(config: LoraConfig, model: PreTrainedModel) -> LoraConfig | None:
    """The inverse of for_plain_peft(); None if it stored nothing in another way."""
    linear = linear_names(model)
    stored = [name for name in config.target_parameters or [] if name.endswith(".weight")]
    moved = [name for name in stored if any(is_end_of(name.removesuffix(".weight"), layer) for layer in linear)]
    if not moved:
        return None
    own = copy.deepcopy(config)
    own.target_modules = {*_names(config.target_modules), *(name.removesuffix(".weight") for name in moved)}
    own.target_parameters = [name for name in config.target_parameters or [] if name not in moved]
    return own


def stored_names(model: PeftModel, file: Path) -> set[str]:
    """Names of an adapter's matrices as PEFT has them now: before transformers 5 each expert had its own."""
    with safe_open(file, "pt") as opened:
        names = set(opened.keys())
    if not any(OF_ONE_EXPERT.search(name) for name in names):
        return names
    return set(
        conversion.convert_peft_adapter_state_dict_for_transformers(
            model=model, peft_config=model.peft_config["default"], adapter_state_dict=load_file(file)
        )
    )


def weight_name(name: str, wrapper: ParamWrapper) -> str:
    """The base's name of the weight that a wrapper adapts; wrappers of several weights of one module are nested."""
    return f"{base_name(name)}.{wrapper.parameter_name}"


def adapted_stack(wrapper: ParamWrapper, inputs: Callable[[int, Tensor], Tensor]) -> Tensor:
    """What each expert's weight with its adapter makes of inputs, the two products apart: [experts, n, out].

    Args:
        inputs: gives those of a width, on the device of a weight: [n, in].
    """
    weights = _as_layers(wrapper.get_base_layer(), wrapper.get_param())
    (name,) = wrapper.active_adapters
    a = wrapper.lora_A[name].weight.view(len(weights), -1, weights.shape[2])  # [experts, rank, in]
    b = wrapper.lora_B[name].weight.view(weights.shape[1], -1, len(weights)).permute(2, 0, 1)  # [experts, out, rank]
    x = inputs(weights.shape[2], weights)
    return cast(Tensor, x @ weights.mT + wrapper.scaling[name] * ((x @ a.mT) @ b.mT))


def merged_stack(module: nn.Module, parameter: str, inputs: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The same of a merged weight."""
    weights = _as_layers(module, cast(Tensor, getattr(module, parameter)))
    return inputs(weights.shape[2], weights) @ weights.mT


def _as_layers(module: nn.Module, weight: Tensor | ExpertStack) -> Tensor:
    """Weights as linear layers have them: [experts, out, in]."""
    if isinstance(weight, ExpertStack):
        return weight.as_layers(weight.dtype)
    if weight.dim() == 2:
        return weight[None]
    return weight.mT if getattr(module, "is_transposed", False) else weight


def _names(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else list(given or [])
