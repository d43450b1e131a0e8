"""Saving a model with quantized layers as a checkpoint that other libraries load too.

nf4, fp4 and int8 are written as transformers writes them for bitsandbytes, mxfp4 as compressed-tensors does. Both
libraries and vLLM load these checkpoints; load_model() loads them without either. What they could not load is not
written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.errors import ModelError
from tunelab.models.formats._format import WeightFormat
from tunelab.models.linear_layers import stacked_weights
from tunelab.models.quantized_linear import QuantizedLinear, quantized_layers
from tunelab.models.quantized_load import layers_to_quantize

COMPRESSED_TENSORS = "compressed-tensors"


def save_quantized(model: PreTrainedModel, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors (sharded if large) to an existing folder.

    Raises:
        ModelError: no layer of the model is quantized, or layers are stored in different formats; or the library whose
            format it is could not load one of them, as no library loads quantized experts.
    """
    check_no_experts(model)
    layers = quantized_layers(model)
    forms = {layer.form for layer in layers.values()}
    if len(forms) != 1:
        found = ", ".join(sorted(map(str, forms))) or "none"
        raise ModelError(f"a checkpoint stores layers in one format; the model has {found}")
    (form,) = forms
    check_loadable(form, layers)
    config = _config(model)
    config["quantization_config"] = form.checkpoint_config(_left_alone(model, layers))
    if _is_compressed_tensors(form):
        # It dequantizes to bfloat16, and transformers runs all other layers in the dtype that this file names.
        config["dtype"] = "bfloat16"
    own_config = type(model.config).from_dict(config)
    own_config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    save_torch_state_dict(_tensors(model, layers), folder, metadata={"format": "pt"})


def check_no_experts(model: PreTrainedModel) -> None:
    """Check that a model is no mixture of experts: no other program loads experts in these formats.

    Raises:
        ModelError: it is one.
    """
    stacked = list(stacked_weights(model))
    if stacked:
        raise ModelError(
            f"{type(model).__name__} is a mixture of experts, which cannot be stored quantized: {stacked[0]} and "
            f"{len(stacked) - 1} more are stacked weights, which bitsandbytes and {COMPRESSED_TENSORS} do not load",
            "keep it in 16 or 32 bits (merge into bf16, fp16 or fp32); training with precision=nf4, int8 or mxfp4 "
            "quantizes its experts in memory",
        )


def _is_compressed_tensors(form: WeightFormat) -> bool:
    return form.checkpoint_config([]).get("quant_method") == COMPRESSED_TENSORS


def check_loadable(form: WeightFormat, layers: Mapping[str, nn.Module]) -> None:
    """Check that the library whose checkpoints these are could load every layer in this format.

    bitsandbytes loads every linear layer; compressed-tensors an nn.Linear whose inputs are whole blocks.

    Args:
        layers: quantized or dense, by name; they may be on the meta device.

    Raises:
        ModelError: it could not; the message names the layers.
    """
    if not _is_compressed_tensors(form):
        return
    found = {name: _obstacle(layer, form.block) for name, layer in layers.items()}
    wrong = {name: reason for name, reason in found.items() if reason}
    if not wrong:
        return
    shown = ", ".join(f"{name} ({reason})" for name, reason in list(wrong.items())[:3])
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    kinds = sorted({".".join(name.split(".")[-2:]) for name in wrong})
    skip = f", or leave these layers out: precision.skip=[{', '.join(kinds)}]" if len(wrong) < len(layers) else ""
    raise ModelError(
        f"{COMPRESSED_TENSORS} cannot store {len(wrong)} of {len(layers)} layers in {form.name}: {shown}{more}; it "
        f"stores nn.Linear with inputs in blocks of {form.block}",
        f"write nf4, fp4 or int8{skip}; training with precision={form.name} works without a stored checkpoint",
    )


def _obstacle(layer: nn.Module, block: int) -> str:
    """Why compressed-tensors cannot store a layer; "" if it can."""
    if isinstance(layer, Conv1D) or getattr(layer, "from_conv1d", False):
        return "a Conv1D"
    inputs = getattr(layer, "in_features", 0)
    return f"{inputs} wide" if inputs % block else ""


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
    of_layers = tuple(f"{name}." for name in layers)
    stored = model.state_dict().keys()
    for name, buffer in model.named_buffers():  # what a dense checkpoint stores too (Apertus, Gemma 4)
        if name in stored and not name.startswith(of_layers):
            tensors[name] = buffer.contiguous()
    return tensors


def _left_alone(model: PreTrainedModel, layers: dict[str, QuantizedLinear]) -> list[str]:
    """Names of linear layers that are not quantized: the head, and those that were skipped."""
    head = [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
    return [*head, *(name for name in layers_to_quantize(model) if name not in layers)]
