"""Initial adapter weights that compensate for the error of quantizing the base.

An adapter starts at zero, so a model over a quantized base starts worse than the original. Here its product starts as
the best approximation, of the adapter's rank, to the quantization error: W minus the dequantized weight.
Source: Li et al. 2023, LoftQ, algorithm 1. With one alternation the base keeps the codes of W itself, and the adapter
fits every copy of it. More alternations quantize W minus the adapter's product: a separate base, which is stored
together with that adapter (alternate() and begin_at_stored()).
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tunelab.errors import ModelError
from tunelab.models.adapters import cuda_devices
from tunelab.models.checkpoint_files import CheckpointFiles
from tunelab.models.expert_stack import quantized_stacks
from tunelab.models.finite import check_files_finite
from tunelab.models.folder_files import NOT_UNPICKLED, json_object
from tunelab.models.forward import underlying
from tunelab.models.quantized_linear import QuantizedLinear, quantized_layers

#: Power iterations of the randomized SVD (Halko et al. 2011): the error's singular values decay slowly.
POWER_ITERATIONS = 8

#: Where a checkpoint stores the adapter that belongs to its codes (the name that LoftQ's authors use).
STORED = "loftq_init"

Product = tuple[Tensor, Tensor]  # A [rank, in], B [out, rank]


def absorb_quantization_error(model: PeftModel, folder: Path, *, seed: int = 0) -> int:
    """Set A and B of every plain LoRA layer over a quantized weight to the best approximation of its error.

    Args:
        model: new LoRA over quantized layers.
        folder: the checkpoint with the full weights that were quantized; they are read one at a time.
        seed: of the randomized decomposition.

    Returns:
        How many layers were set.

    Raises:
        ModelError: no LoRA layer is on a quantized weight; or the checkpoint does not have the full weights.
    """
    layers = _lora_layers(model)
    base = underlying(model)
    files = CheckpointFiles(folder, [f"{name}.weight" for name in layers], base.base_model_prefix)
    with torch.random.fork_rng(devices=cuda_devices(model)):
        torch.manual_seed(seed)
        for name, layer in layers.items():
            stored = layer.get_base_layer()
            assert isinstance(stored, QuantizedLinear)
            lost = _full(files, name, stored) - stored.dequantized(torch.float32)
            for adapter, a in layer.lora_A.items():
                _set(layer, adapter, _largest_parts(lost, a.weight.shape[0]))
    return len(layers)


@torch.no_grad()
def alternate(
    model: PreTrainedModel, folder: Path, *, rank: int, alternations: int, seed: int = 0
) -> dict[str, Product]:
    """Give every quantized layer the codes of W - B A, and return its A and B; codes and product are found in turns.

    Args:
        model: quantized, without an adapter; its codes are replaced.
        folder: the checkpoint with the full weights; they are read one at a time.
        rank: of B A.
        alternations: T of the paper: how often codes and product are computed.

    Raises:
        ModelError: the checkpoint does not have the full weights.
    """
    layers = quantized_layers(model)
    files = CheckpointFiles(folder, [f"{name}.weight" for name in layers], model.base_model_prefix)
    products: dict[str, Product] = {}
    with torch.random.fork_rng(devices=cuda_devices(model)):
        torch.manual_seed(seed)
        for name, stored in layers.items():
            full = _full(files, name, stored)
            for _ in range(alternations):
                product = products.get(name)
                stored.set_packed(stored.form.quantize(full if product is None else full - product[1] @ product[0]))
                products[name] = _largest_parts(full - stored.dequantized(torch.float32), rank)
    return products


@torch.no_grad()
def set_products(model: PeftModel, products: dict[str, Product]) -> None:
    """Set the product of each LoRA layer to B A, whatever the adapter's scaling."""
    for name, layer in _lora_layers(model).items():
        for adapter in layer.lora_A:
            _set(layer, adapter, products[name])


def begin_at_stored(model: PeftModel, folder: Path) -> int:
    """Set A and B of new LoRA layers to those stored with a base whose codes need them.

    Args:
        folder: of the base; contains STORED, a PEFT adapter.

    Returns:
        How many layers were set.

    Raises:
        ModelError: the stored adapter has another rank, or other layers, or NaN or infinite weights.
    """
    if not (folder / STORED / "adapter_model.safetensors").exists():
        raise ModelError(f"{folder / STORED}: no adapter_model.safetensors", NOT_UNPICKLED)
    check_files_finite(folder / STORED)
    stored = load_file(folder / STORED / "adapter_model.safetensors")
    config = json_object(folder / STORED / "adapter_config.json")
    root, prefix = (config["lora_alpha"] / config["r"]) ** 0.5, "base_model.model."
    products = {
        name.removeprefix(prefix).removesuffix(".lora_A.weight"): (
            tensor * root,
            stored[name.replace(".lora_A.", ".lora_B.")] * root,
        )
        for name, tensor in stored.items()
        if ".lora_A." in name
    }
    layers = _lora_layers(model)
    if other := sorted(set(layers) ^ set(products)):
        has = "has no adapter for" if other[0] in layers else "has an adapter for"
        raise ModelError(
            f"{folder / STORED} {has} {other[0]}, unlike the recipe",
            "its codes need that adapter; use adapter.targets=all-linear and the same precision.skip",
        )
    ranks = {len(layer.lora_A["default"].weight) for layer in layers.values()}
    if ranks != {config["r"]}:
        raise ModelError(
            f"{folder / STORED} has rank {config['r']}, the recipe's adapter {max(ranks)}",
            f"set adapter.rank={config['r']}, or quantize with another --loftq-rank",
        )
    device = next(model.parameters()).device
    set_products(model, {name: (a.to(device), b.to(device)) for name, (a, b) in products.items()})
    return len(layers)


def _lora_layers(model: PeftModel) -> dict[str, LoraLayer]:
    if stack := next(iter(quantized_stacks(underlying(model))), None):
        raise ModelError(f"LoftQ is not possible for quantized experts ({stack})", "set adapter.init=zero")
    layers = {
        name: module
        for name, module in underlying(model).named_modules()
        if isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), QuantizedLinear)
    }
    if not layers:
        raise ModelError("no LoRA layer is on a quantized weight: no error to compensate for", "set adapter.init=zero")
    return layers


def _full(files: CheckpointFiles, name: str, stored: QuantizedLinear) -> Tensor:
    """The weight before quantization: [out, in], float32, on the device of its codes."""
    key = f"{name}.weight"
    weight = files.tensor(key) if key in files else None
    if weight is None or not weight.is_floating_point():
        raise ModelError(
            f"{files.folder}: {name}: the full weight is missing",
            "LoftQ needs the checkpoint from before quantization",
        )
    return (weight.T if stored.from_conv1d else weight).to(stored.packed["codes"].device, torch.float32)


def _largest_parts(lost: Tensor, rank: int) -> Product:
    """A and B whose product is closest to `lost` [out, in] among all of this rank."""
    left, sizes, right = torch.svd_lowrank(lost, q=min(rank + 8, *lost.shape), niter=POWER_ITERATIONS)
    kept = min(rank, len(sizes))
    root = sizes[:kept].sqrt()
    a, b = lost.new_zeros(rank, lost.shape[1]), lost.new_zeros(lost.shape[0], rank)
    a[:kept] = (right[:, :kept] * root).T
    b[:, :kept] = left[:, :kept] * root
    return a, b


@torch.no_grad()
def _set(layer: LoraLayer, adapter: str, product: Product) -> None:
    root = layer.scaling[adapter] ** 0.5
    layer.lora_A[adapter].weight.copy_(product[0] / root)
    layer.lora_B[adapter].weight.copy_(product[1] / root)
