"""A model's linear layers, and what of a mixture of experts is none: routers, and the stacked weights of experts."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.models.expert_stack import ExpertStack, base_name
from tunelab.models.forward import backbone
from tunelab.models.quantized_linear import QuantizedLinear

#: Names of the modules next to experts that choose and weigh them.
ROUTERS = ("router", "gate", "shared_expert_gate")


def is_end_of(target: str, name: str) -> bool:
    """Whether a target, as in PEFT, is a module's or a weight's name or the end of it."""
    return name == target or name.endswith("." + target)


def last_part(name: str, parts: int = 2) -> str:
    """The last parts of a name: "self_attn.q_proj"."""
    return ".".join(name.split(".")[-parts:])


def linear_names(model: PreTrainedModel) -> list[str]:
    """Dotted names of all linear layers (GPT-2's Conv1D included) except the output head and routers of experts.

    Of a multimodal model those of its text part alone.
    """
    head, text, routers = model.get_output_embeddings(), text_part(model), router_weights(model)
    found = [name for name, module in model.named_modules() if _is_linear(module) and module is not head]
    return [name for name in found if name.startswith(text) and f"{name}.weight" not in routers]


def router_weights(model: nn.Module) -> list[str]:
    """Names of the weights [experts, hidden] of all routers, linear layers or not."""
    blocks = {name.rpartition(".")[0] for name, _ in experts(model)}
    names = [name for name, _ in model.named_parameters()]
    return [name for name in names if _is_router(base_name(name), blocks)]


def _is_router(weight: str, blocks: Collection[str]) -> bool:
    parent, _, last = weight.rpartition(".")
    block, _, own = parent.rpartition(".")
    return last == "weight" and own in ROUTERS and block in blocks


def experts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that have the weights of several experts in one tensor, by name."""
    return [(name, module) for name, module in model.named_modules() if _stacks(name, module)]


def text_part(model: PreTrainedModel) -> str:
    """How names of the text part's modules begin in a multimodal model ("model.language_model."); else ""."""
    if model.config.get_text_config() is model.config:
        return ""
    part = backbone(model)
    return next(f"{name}." for name, module in model.named_modules() if module is part)


def train_text_part(model: PreTrainedModel) -> None:
    """Require gradients for all weights; of a multimodal model for its text part and its output head alone."""
    model.requires_grad_(not text_part(model))
    for part in (backbone(model), model.get_output_embeddings()):
        if part is not None:
            part.requires_grad_(True)


def stacked_weights(model: nn.Module) -> dict[str, int]:
    """Numbers of weights, by name, in the stacked tensors [experts, ., .] of mixtures: they are no linear layers."""
    return {
        f"{name}.{last}" if name else last: weight.numel()
        for name, module in experts(model)
        for last, weight in _stacks(name, module).items()
    }


def dense_stacks(model: nn.Module) -> dict[str, int]:
    """Those of stacked_weights() that are not stored in a format."""
    return {
        f"{name}.{last}": weight.numel()
        for name, module in experts(model)
        for last, weight in _stacks(name, module).items()
        if not isinstance(weight, ExpertStack)
    }


def _stacks(name: str, module: nn.Module) -> dict[str, nn.Parameter | ExpertStack]:
    """The stacked weights of a module of experts; none of another module."""
    if "expert" not in f"{name} {type(module).__name__}".lower():
        return {}  # RecurrentGemma's gates are stacked by heads
    dense = {
        last: weight
        for last, weight in module.named_parameters(recurse=False)
        if weight.dim() == 3 and min(weight.shape) > 1
    }
    return {**dense, **{last: child for last, child in module.named_children() if isinstance(child, ExpertStack)}}


def _is_linear(module: nn.Module) -> bool:
    """Whether a module gives x W^T + b: a router that derives from nn.Linear gives a tuple of scores and choices."""
    if not isinstance(module, nn.Linear) or type(module).forward in (nn.Linear.forward, QuantizedLinear.forward):
        return isinstance(module, nn.Linear | Conv1D)
    probe = torch.zeros(1, module.in_features, device=module.weight.device, dtype=module.weight.dtype)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = module(probe)
    except Exception:  # code of any architecture, which expects another shape
        return False
    return isinstance(found, Tensor) and found.shape == (1, module.out_features)
