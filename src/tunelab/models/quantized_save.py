"""Saving a model with quantized layers as a checkpoint that other libraries load too.

nf4, fp4 and int8 are written as transformers writes them for bitsandbytes, mxfp4 as compressed-tensors does. Both
libraries and vLLM load these checkpoints; load_model() loads them without either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedModel

from tunelab.errors import ModelError
from tunelab.models.quantized_linear import QuantizedLinear, quantized_layers
from tunelab.models.quantized_load import layers_to_quantize


def save_quantized(model: PreTrainedModel, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors (sharded if large) to an existing folder.

    Raises:
        ModelError: no layer of the model is quantized, or layers are stored in different formats.
    """
    layers = quantized_layers(model)
    forms = {layer.form for layer in layers.values()}
    if len(forms) != 1:
        found = ", ".join(sorted(map(str, forms))) or "none"
        raise ModelError(f"a checkpoint stores layers in one format; the model has {found}")
    (form,) = forms
    config = _config(model)
    config["quantization_config"] = form.checkpoint_config(_left_alone(model, layers))
    own_config = type(model.config).from_dict(config)
    own_config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    save_torch_state_dict(_tensors(model, layers), folder, metadata={"format": "pt"})


def _config(model: PreTrainedModel) -> dict[str, Any]:
    config: dict[str, Any] = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    return config


def _tensors(model: PreTrainedModel, layers: dict[str, QuantizedLinear]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        dtype = layer.dtype
        for suffix, tensor in layer.form.to_checkpoint(layer.packed, layer.shape, dtype).items():
            tensors[f"{name}.{suffix}"] = tensor.contiguous()
    for name, parameter in model.named_parameters():  # a tied head once, as the embedding
        tensors[name] = parameter.detach().contiguous()
    return tensors


def _left_alone(model: PreTrainedModel, layers: dict[str, QuantizedLinear]) -> list[str]:
    """Names of linear layers that are not quantized: the head, and those that were skipped."""
    head = [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
    return [*head, *(name for name in layers_to_quantize(model) if name not in layers)]
