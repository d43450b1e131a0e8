"""What actually ran: every module's class, and every parameter's shape, dtype and trainability, in a digest."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunelab.models.expert_stack import quantized_stacks
from tunelab.models.formats._format import packed_bytes
from tunelab.models.quantized_linear import quantized_layers


@dataclass(frozen=True, slots=True)
class ModelDigest:
    """What a model consists of. One `sha256` means the same modules, shapes, dtypes and trainable parameters."""

    sha256: str
    parameters: int
    trainable: int
    bytes: int
    modules: dict[str, int]
    dtypes: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def digest(model: nn.Module) -> ModelDigest:
    """The digest of a model in its current state; `dtypes` counts parameters, tied ones once; `bytes` is their size.

    Quantized weights are counted under their format's name, with the bytes of their codes and scales.
    """
    lines = [f"{name} {type(module).__qualname__}" for name, module in model.named_modules()]
    dtypes: Counter[str] = Counter()
    size = trainable = 0
    for name, parameter in model.named_parameters():
        dtype = str(parameter.dtype).removeprefix("torch.")
        lines.append(f"{name} {tuple(parameter.shape)} {dtype} {parameter.requires_grad}")
        dtypes[dtype] += parameter.numel()
        size += parameter.numel() * parameter.element_size()
        trainable += parameter.numel() if parameter.requires_grad else 0
    for name, layer in quantized_layers(model).items():
        lines.append(f"{name}.weight {layer.shape} {layer.form}")
        dtypes[layer.form.name] += layer.in_features * layer.out_features
        size += packed_bytes(layer.form, layer.shape)
    for name, stack in quantized_stacks(model).items():
        lines.append(f"{name} {tuple(stack.shape)} {stack.form}")
        dtypes[stack.form.name] += stack.numel()
        size += stack.sizes[0] * packed_bytes(stack.form, stack.sizes[1:])
    classes = Counter(type(module).__qualname__ for module in model.modules())
    return ModelDigest(
        sha256=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        parameters=sum(dtypes.values()),
        trainable=trainable,
        bytes=size,
        modules=dict(sorted(classes.items())),
        dtypes=dict(sorted(dtypes.items())),
    )


def weights_hash(parameters: dict[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of tensors: equal only if the weights are bit-identical."""
    result = hashlib.sha256()
    for name in sorted(parameters):
        tensor = parameters[name].detach().cpu().contiguous()
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        result.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


def adapter_hash(folder: Path) -> str:
    """sha256 over an adapter's weights and configuration."""
    content = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        content.update((folder / name).read_bytes())
    return f"sha256:{content.hexdigest()}"
