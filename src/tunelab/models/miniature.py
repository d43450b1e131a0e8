"""A small float32 model of a loaded model's class and configuration: its structure, without its size.

Whether an architecture can run packed sequences depends on its code and configuration, not on its weights. With the
loaded model in bfloat16 the answer drowns in rounding; with this one in float32 it is exact.

What is cut does not affect the answer: the number of layers (one of each kind stays), the vocabulary, the inner width
of the MLPs. Windows, chunks and steps of scales by position are narrowed so that short rows exceed them. The hidden
size and the heads stay, since attention scales, embedding scales and rotary frequencies depend on them; so does every
other number of the configuration. Weights are random and large enough that attention is far from uniform; biases are
not zero, norms are not one. An 8B model's miniature takes 0.2 GiB.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.models.expert_stack import ExpertStack
from tunelab.models.forward import backbone
from tunelab.models.quantized_linear import QuantizedLinear

#: Maximum number of layers. Kinds that first occur later are taken from there, if the configuration's lists allow it.
MOST_LAYERS = 8

#: With so few layers all stay: a list of this length may be something else (Mamba 2's limits of time steps).
FEWEST_LAYERS = 2

VOCABULARY = 64
INNER_WIDTH = 32
WINDOW = 4

#: Configuration keys for numbers of tokens up to which all rows are alike: sliding windows (GPT-Neo's and
#: RecurrentGemma's have names of their own), and Llama 4's chunks of attention and steps of its scale by position.
WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size", "floor_scale")

#: Configuration keys for the inner width of an MLP.
INNER_WIDTHS = (
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "intermediate_size_mlp",
    "ffn_dim",
    "n_inner",
)

#: Attributes of a layer's modules that say nothing about its kind.
NO_KIND = ("training", "layer_idx", "layer_id", "layer_number")

#: Standard deviation of a linear layer's outputs for inputs of variance 1, and of the logits: large enough that a soft
#: cap of 30 on them shows.
GAIN, LOGIT_SIZE = 1.5, 10.0


def miniature(model: PreTrainedModel, *, narrow: bool = True) -> PreTrainedModel:
    """A random model of the same class, in float32 on the CPU, in evaluation mode. torch's random state stays.

    Args:
        narrow: also cut the vocabulary and the inner width of MLPs, not only the number of layers.
    """
    kinds = _kinds(model)
    first = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    prefix = list(range(min(max(first, default=0) + 1, MOST_LAYERS)))
    # Layers that depend on their index need those before them; layers that a configuration list describes do not.
    for chosen in (prefix, first[:MOST_LAYERS]):
        made = _build(model, _cut(model.config, len(kinds), chosen, narrow))
        if set(_kinds(made)) == set(kinds):
            return made
    return _build(model, _cut(model.config, len(kinds), prefix, narrow))


def _build(model: PreTrainedModel, config: Any) -> PreTrainedModel:
    # Without memory at first: initial weights that are overwritten anyway would take most of the time.
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        # The configuration names the attention of each part of a multimodal model.
        made: PreTrainedModel = type(model)._from_config(config, dtype=torch.float32)
    _fill(made)
    made.tie_weights()
    return made.eval()


def _cut(config: Any, layers: int, chosen: Sequence[int], narrow: bool) -> Any:
    """A copy of the configuration with only these layers."""
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    text = config.get_text_config()
    if len(chosen) < layers > FEWEST_LAYERS:
        for name, value in list(vars(text).items()):
            if isinstance(value, list | tuple) and len(value) == layers:
                setattr(text, name, type(value)(value[index] for index in chosen))
        text.num_hidden_layers = len(chosen)
    _narrow(text, WINDOWS, WINDOW)
    if narrow:
        text.vocab_size = min(text.vocab_size, VOCABULARY)
        if (getattr(text, "pad_token_id", None) or 0) >= text.vocab_size:
            text.pad_token_id = None
        _narrow(text, INNER_WIDTHS, INNER_WIDTH)
    return config


def _narrow(config: Any, names: Sequence[str], most: int) -> None:
    for name in names:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, min(getattr(config, name), most))


def _kinds(model: PreTrainedModel) -> list[tuple[Any, ...]]:
    """What each layer consists of: its modules with their switches and special numbers, without widths."""
    layers = model.config.get_text_config().num_hidden_layers
    lists = (module for module in backbone(model).modules() if isinstance(module, nn.ModuleList))
    stack = next((modules for modules in lists if len(modules) == layers), nn.ModuleList())
    return [_kind(layer) for layer in stack]


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    parts = []
    for name, module in layer.named_modules():
        is_weight = isinstance(module, nn.Linear | Conv1D | QuantizedLinear | ExpertStack)
        if is_weight or hasattr(module, "base_layer") or "lora_" in name:
            continue
        settings = (
            (key, value)
            for key, value in vars(module).items()
            if not key.startswith("_") and key not in NO_KIND and isinstance(value, int | float | str | None)
        )
        # A width differs between the loaded model and its miniature; 0 and 1 may be switches (SmolLM3's use_rope).
        numbers = {key: "width" if isinstance(value, int) and value > 1 else value for key, value in settings}
        parts.append((type(module).__qualname__, *sorted(numbers.items())))
    return tuple(parts)


def _fill(model: PreTrainedModel) -> None:
    """Random weights for those without memory, the same for every model of these shapes."""
    generator = torch.Generator().manual_seed(0)
    head = model.get_output_embeddings()
    for module in model.modules():
        for name, empty in list(module.named_parameters(recurse=False)):
            mean, deviation = _distribution(module, name, empty, is_logits=module is head)
            weight = torch.empty(empty.shape).normal_(mean, deviation, generator=generator)
            setattr(module, name, nn.Parameter(weight, requires_grad=False))


def _distribution(module: nn.Module, name: str, weight: Tensor, *, is_logits: bool) -> tuple[float, float]:
    """Mean and standard deviation of a weight's values."""
    if weight.dim() < 2:
        return 0.0 if name.endswith("bias") else 1.0, 0.2
    if isinstance(module, nn.Embedding) or is_logits:
        return 0.0, LOGIT_SIZE * weight.shape[-1] ** -0.5
    return 0.0, GAIN * _inputs(module, weight) ** -0.5


def _inputs(module: nn.Module, weight: Tensor) -> int:
    """Fan-in of a weight [..., a, b]; for a stack of experts, which has either orientation, the larger of the two."""
    if isinstance(module, Conv1D):
        return weight.shape[0]
    return weight.shape[-1] if isinstance(module, nn.Linear) else max(weight.shape[-2:])
