"""A model's linear layers, and the stacked weights of experts, which are none."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.models.forward import backbone
from tunelab.models.quantized_linear import QuantizedLinear


def linear_names(model: PreTrainedModel) -> list[str]:
    """Dotted names of all linear layers (GPT-2's Conv1D included) except the output head and routers of experts.

    Of a multimodal model those of its text part alone.
    """
    head, text = model.get_output_embeddings(), text_part(model)
    found = [name for name, module in model.named_modules() if _is_linear(module) and module is not head]
    return [name for name in found if name.startswith(text)]


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


def stacked_weights(model: PreTrainedModel) -> dict[str, int]:
    """Numbers of weights, by name, in the stacked tensors [experts, out, in] of mixtures: they are no linear layers."""
    return {
        f"{name}.{last}" if name else last: parameter.numel()
        for name, module in model.named_modules()
        if not isinstance(module, nn.modules.conv._ConvNd)
        for last, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3 and min(parameter.shape) > 1
    }


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
