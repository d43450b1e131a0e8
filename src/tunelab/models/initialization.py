"""Initial LoRA matrices by PEFT's own methods and names, and what they do to the base's weights.

PiSSA, OLoRA and CorDA take their matrices out of the base: W becomes W - s B A, so that the model begins as it was.
Here one function changes the base, in a new run and in a resumed one, and the trained adapter is saved as plain LoRA of
twice the rank over W itself: s (B A - B0 A0), PEFT's conversion. So what reads an adapter needs no special case.
LoftQ, for quantized bases, is in loftq.py.

Sources: Meng et al. 2024 (PiSSA, arXiv 2404.02948); Buyukakyuz 2024 (OLoRA, arXiv 2406.01775); Yang et al. 2024 (CorDA,
arXiv 2406.05223); Paischer et al. 2024 (EVA, arXiv 2410.07170); PEFT 0.21's layer.py, eva.py and corda.py.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.config import CordaConfig, EvaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import initialize_lora_eva_weights
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.errors import ModelError
from tunelab.models.adapters import cuda_devices, save_adapter
from tunelab.models.expert_adapters import WITHOUT_EXPERTS
from tunelab.models.forward import underlying

#: Initializations that take the matrices out of the base's weights.
CHANGE_THE_BASE = ("pissa", "olora", "corda")

#: Rows that a covariance or a decomposition of layer inputs is computed from.
SAMPLED_ROWS = 256

#: EVA's decomposition sees all batches up to this often until it converges.
MOST_PASSES = 20

#: What PEFT raises where a method does not suit a layer or its inputs.
_NOT_COMPUTED = (ValueError, TypeError, IndexError, AttributeError, ArithmeticError, RuntimeError)

#: A row: its ids, and which of them are in the loss.
Row = tuple[Sequence[int], Sequence[bool]]


def is_kept(init: str) -> bool:
    """Whether a run keeps the initial matrices, to be resumed: they are not a function of the seed alone."""
    return changes_the_base(init) or init in ("eva", "mica")


def needs_rows(init: str) -> bool:
    """Whether an initialization is computed from training rows."""
    return init in ("eva", "corda")


def changes_the_base(init: str) -> bool:
    """Whether an initialization takes the matrices out of the base's weights."""
    return init.startswith(CHANGE_THE_BASE)


def prepare_base(model: PreTrainedModel, targets: Sequence[str], init: str, rank: int, rows: Sequence[Row]) -> None:
    """Store with each layer of the base, before it has an adapter, what CorDA needs; nothing for others.

    Raises:
        ModelError: the rows cannot be used.
    """
    if init != "corda":
        return
    config = LoraConfig(r=rank, target_modules=list(targets), init_lora_weights="corda", corda_config=CordaConfig())

    def run() -> None:
        for ids, _ in rows[:SAMPLED_ROWS]:
            model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)

    try:
        preprocess_corda(model, config, run_model=run)
    except _NOT_COMPUTED as error:
        raise _not_computed(init, error) from error


@torch.no_grad()
def initialize(model: PeftModel, init: str, *, seed: int, rows: Sequence[Row] = ()) -> None:
    """Set the matrices of new LoRA layers; the base is left as it is, see take_out().

    Args:
        init: "gaussian", "orthogonal", "pissa", "pissa_niter_N", "olora", "mica", "eva" or "corda", as PEFT names them.
        seed: of random matrices and decompositions.
        rows: training rows, for EVA.

    Raises:
        ModelError: a layer does not allow it.
    """
    layers = lora_layers(model)
    _check(layers, init)
    if changes_the_base(init):
        _check_not_shared(underlying(model), layers)
    with torch.random.fork_rng(devices=cuda_devices(model)):
        torch.manual_seed(seed)
        if init == "eva":
            _initialize_eva(model, rows)
        for layer in layers.values() if init != "eva" else ():
            _initialize_layer(layer, init)
    freeze_fixed(model, init)


def take_out(model: PeftModel) -> None:
    """Subtract the product of each layer's matrices from its base weight, in float32."""
    for layer in lora_layers(model).values():
        base, name = layer.get_base_layer(), layer.active_adapters[0]
        weight = base.weight.data
        product = layer.scaling[name] * layer.lora_B[name].weight.data @ layer.lora_A[name].weight.data
        product = product.T if layer.fan_in_fan_out else product
        base.weight.data = (weight.float() - product).to(weight.dtype)


def freeze_fixed(model: PeftModel, init: str) -> None:
    """Freeze what an initialization leaves fixed during training: MiCA's B."""
    for layer in lora_layers(model).values() if init == "mica" else ():
        for matrix in layer.lora_B.values():
            matrix.requires_grad_(False)


def save_converted(model: PeftModel, folder: Path, start: Path) -> None:
    """Save an adapter whose initial product was taken out of the base as one for the base as it was.

    Args:
        start: the adapter as it began, in PEFT's format.
    """
    with tempfile.TemporaryDirectory() as place:
        initial = Path(place) / "initial"  # a copy: PEFT writes its configuration again
        shutil.copytree(start, initial)
        save_adapter(model, folder, initial=initial)


def lora_layers(model: PeftModel) -> dict[str, Any]:
    """Layers with an adapter, by their names in the base."""
    return {name: one for name, one in underlying(model).named_modules() if isinstance(one, LoraLayer)}


def _initialize_layer(layer: Any, init: str) -> None:
    base, (name,) = layer.get_base_layer(), layer.active_adapters
    before = base.weight.data.clone() if changes_the_base(init) else None
    device = layer.lora_A[name].weight.device
    try:
        if init == "gaussian":
            layer.reset_lora_parameters(name, init)
        elif init == "orthogonal":
            layer.orthogonal_init(name)
        elif init == "olora":
            layer.olora_init(name)
        elif init == "mica":
            layer.mica_init(name)
        elif init == "corda":
            layer.corda_init(name, init)
        else:
            layer.pissa_init(name, init)
    except _NOT_COMPUTED as error:
        raise _not_computed(init, error) from error
    if before is not None:
        base.weight.data = before
    for matrix in (layer.lora_A[name], layer.lora_B[name]):
        matrix.weight.data = matrix.weight.data.to(device, torch.float32).contiguous()


def _initialize_eva(model: PeftModel, rows: Sequence[Row]) -> None:
    config = model.peft_config["default"]
    config.init_lora_weights, config.eva_config = "eva", EvaConfig()
    most = round(config.r * config.eva_config.rho)
    batches = list(_batches(rows[:SAMPLED_ROWS], most))
    passes = iter(range(MOST_PASSES * max(1, len(batches))))

    def forward(adapted: PeftModel, inputs: dict[str, Tensor]) -> None:
        if next(passes, None) is None:
            raise ValueError(f"it did not converge in {MOST_PASSES} passes over {len(batches)} batches")
        adapted(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)

    try:
        if not batches:
            raise ValueError(f"the training rows have fewer than {most} supervised tokens")
        initialize_lora_eva_weights(model, batches, forward_fn=forward, show_progress_bar=False)
    except _NOT_COMPUTED as error:
        raise _not_computed("eva", error) from error
    config.init_lora_weights, config.eva_config = True, None
    for layer in lora_layers(model).values():  # layers whose rank changed are in the base's dtype
        layer.lora_A.float()
        layer.lora_B.float()


def _batches(rows: Sequence[Row], least: int) -> Iterator[dict[str, Tensor]]:
    """Padded batches as transformers takes them, each with at least `least` supervised tokens."""
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if sum(sum(mask) for _, mask in group) >= least:
            yield _padded(group)
            group = []


def _padded(rows: Sequence[Row]) -> dict[str, Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    attention, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for place, (tokens, mask) in enumerate(rows):
        ids[place, : len(tokens)] = torch.tensor(list(tokens))
        attention[place, : len(tokens)] = 1
        labels[place, : len(tokens)] = torch.where(torch.tensor(list(mask)), ids[place, : len(tokens)], -100)
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def _check(layers: dict[str, Any], init: str) -> None:
    """Raises ModelError if a layer is too narrow for the rank, or of a kind that PEFT's method computes wrongly."""
    if stack := next((name for name, layer in layers.items() if isinstance(layer, ParamWrapper)), ""):
        raise ModelError(
            f"adapter.init={init}: {stack} has experts' weights, and only adapter.init=zero is possible on them",
            f"set adapter.init=zero, {WITHOUT_EXPERTS}",
        )
    for name, layer in layers.items():
        rank, base = layer.r["default"], layer.get_base_layer()
        most = min(layer.in_features, layer.out_features)
        if init == "eva":
            most = layer.in_features // 2  # of the widths' components, twice the rank are looked at
        if rank > most and init not in ("gaussian", "orthogonal"):
            raise ModelError(
                f"adapter.init={init}: {name} allows a rank of at most {most}, and adapter.rank is {rank}",
                f"set adapter.rank={most}, or exclude the layer with adapter.exclude",
            )
        if init == "olora" and isinstance(base, Conv1D):
            raise ModelError(
                f"adapter.init=olora: {name} is a Conv1D, whose weight is [in, out]: PEFT's OLoRA expects [out, in]",
                "set adapter.init=pissa, which supports it",
            )


def _check_not_shared(base: PreTrainedModel, layers: dict[str, Any]) -> None:
    """Raises ModelError if an adapted layer shares its weight (a tied head): taking a product out would change both."""
    owners: dict[int, list[str]] = {}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name, layer in layers.items():
        if len(shared := owners.get(id(layer.get_base_layer().weight), [])) > 1:
            raise ModelError(
                f"{name} shares its weight with {next(one for one in shared if not one.startswith(name))}: "
                "taking an adapter's product out of it would change both",
                "exclude the layer with adapter.exclude, or set adapter.init=zero",
            )


def _not_computed(init: str, error: Exception) -> ModelError:
    first = " ".join(str(error).split())
    return ModelError(
        f"adapter.init={init}: PEFT cannot compute it: {first[:300]}", "set adapter.init=zero, or train on other rows"
    )
