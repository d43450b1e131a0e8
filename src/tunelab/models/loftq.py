"""First weights of an adapter that take back what quantising the base took away.

An adapter begins at zero, so that a model over few bits begins worse than the one that was quantised. Here its product
begins as the best approximation of the lost part, W less what the codes stand for, of the adapter's rank.
Source: Li et al. 2023, LoftQ, algorithm 1 with one alternation: the base keeps the codes of W itself, so that the
adapter fits every copy of it. (More alternations quantise W less the adapter's product, a base of its own.)
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from tunelab.errors import ModelError
from tunelab.models.checkpoint_files import CheckpointFiles
from tunelab.models.forward import underlying
from tunelab.models.quantized_linear import QuantizedLinear

#: Power iterations of the randomised singular value decomposition (Halko et al. 2011): residuals fall off slowly.
POWER_ITERATIONS = 8


def absorb_quantization_error(model: PeftModel, folder: Path, *, seed: int = 0) -> int:
    """Set A and B of every plain LoRA layer over a quantised weight to the largest singular parts of what it lost.

    Args:
        model: fresh LoRA over quantised layers.
        folder: the checkpoint with the full weights that were quantised; they are read one at a time.
        seed: of the randomised decomposition.

    Returns:
        How many layers were set.

    Raises:
        ModelError: no LoRA layer lies over a quantised weight; or the checkpoint does not hold the full weights.
    """
    base = underlying(model)
    layers = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), QuantizedLinear)
    }
    if not layers:
        raise ModelError(
            "no LoRA layer lies over a quantised weight, there is no error to take back", "set adapter.init=zero"
        )
    files = CheckpointFiles(folder, [f"{name}.weight" for name in layers], base.base_model_prefix)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, layer in layers.items():
            if f"{name}.weight" not in files or not files.tensor(f"{name}.weight").is_floating_point():
                raise ModelError(
                    f"{folder}: {name}: the full weight is not there",
                    "adapter.init=loftq needs the checkpoint as it was before it was quantised",
                )
            _set(layer, files.tensor(f"{name}.weight"))
    return len(layers)


@torch.no_grad()
def _set(layer: LoraLayer, weight: Tensor) -> None:
    stored = layer.get_base_layer()
    assert isinstance(stored, QuantizedLinear)
    full = (weight.T if stored.from_conv1d else weight).to(stored.packed["codes"].device, torch.float32)
    lost = full - stored.dequantized(torch.float32)
    for name, a in layer.lora_A.items():
        b, rank = layer.lora_B[name], a.weight.shape[0]
        left, sizes, right = torch.svd_lowrank(lost, q=min(rank + 8, *lost.shape), niter=POWER_ITERATIONS)
        kept = min(rank, len(sizes))
        root = (sizes[:kept] / layer.scaling[name]).sqrt()
        a.weight.zero_()
        b.weight.zero_()
        a.weight[:kept] = (right[:, :kept] * root).T.to(a.weight.dtype)
        b.weight[:, :kept] = (left[:, :kept] * root).to(b.weight.dtype)
