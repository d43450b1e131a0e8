"""LoRA through PEFT: added, loaded, saved, turned off."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.cpu import memory_bytes
from tunelab.errors import ModelError
from tunelab.failures import is_of_machine, sentence
from tunelab.models.also_trained import also_trained, ids_needed
from tunelab.models.checkpoint_files import no_pickles
from tunelab.models.expert_adapters import (
    check_options,
    for_plain_peft,
    from_plain_peft,
    names_kept,
    stored_names,
    weight_name,
    widths,
)
from tunelab.models.expert_stack import base_name, stacks_as_parameters, use_expert_lora
from tunelab.models.finite import check_files_finite
from tunelab.models.folder_files import json_object
from tunelab.models.forward import underlying
from tunelab.models.linear_layers import last_part, linear_names, router_weights, stacked_weights
from tunelab.models.lora_linear import use_dense_lora
from tunelab.models.new_tokens import grow
from tunelab.models.quantized_linear import quantized_layers
from tunelab.models.targets import Targets, last_parts, layer_of, resolve
from tunelab.units import format_bytes

#: Values of each parameter by which it is recognized.
SAMPLED = 64

#: Adapted model -> its base's parameters that are no longer the base's.
_changed_bases: WeakKeyDictionary[PeftModel, list[str]] = WeakKeyDictionary()


def add_lora(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    use_rslora: bool = False,
    use_dora: bool = False,
    targets: str | Sequence[str] = "all-linear",
    layers: Sequence[int] | None = None,
    exclude: str | Sequence[str] = (),
    also_train: Sequence[str] = (),
    new_tokens: Sequence[int] = (),
    seed: int = 0,
) -> PeftModel:
    """Freeze the model's weights and add new LoRA matrices (float32) to `targets`. B is zero: outputs do not change.

    Source: Hu et al. 2021 (LoRA); Kalajdzievski 2023 (rsLoRA, scale alpha / sqrt(rank)); Liu et al. 2024 (DoRA).

    Args:
        targets, layers, exclude: see tunelab.models.targets.resolve().
        also_train: modules that are trained in full; see tunelab.models.also_trained.
        new_tokens: ids whose embeddings, and rows of the head, are trained.
        seed: of the random matrix A.

    Raises:
        ModelError: the layers cannot be resolved, or the matrices would not fit into memory; or experts cannot have an
            adapter with dropout or DoRA.
    """
    found = resolve(model, targets, layers=layers, exclude=exclude)
    check_options(found.stacks, dropout=dropout, use_dora=use_dora)
    also = also_trained(model, also_train, new_tokens, found.modules)
    _check_rank(model, found, rank)
    conv1d = _has_quantized_conv1d(model) or any(isinstance(module, Conv1D) for module in model.modules())
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        # An int where possible: PEFT declares it as one, and other programs that read the file expect one.
        lora_alpha=int(alpha) if alpha == int(alpha) else cast(int, alpha),
        lora_dropout=dropout,
        use_rslora=use_rslora,
        use_dora=use_dora,
        target_modules=found.modules,
        target_parameters=found.stacks or None,
        fan_in_fan_out=conv1d,  # Conv1D stores its weight as [in, out]
        bias="none",
        **copy.deepcopy(also.peft_settings),  # PEFT changes its lists
    )
    adapted = _adapted(model, config, seed)
    also.begin(adapted)
    return adapted


def _adapted(model: PreTrainedModel, config: LoraConfig, seed: int) -> PeftModel:
    seeded = torch.random.fork_rng(devices=cuda_devices(model))
    with seeded, _known_warnings_ignored(), names_kept(), stacks_as_parameters(model):
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:  # layers that PEFT refuses to adapt, such as a Mamba block's out_proj
            raise ModelError(
                f"{type(model).__name__}: PEFT cannot adapt these layers: {' '.join(str(error).split())[:400]}",
                "give adapter.targets as a list without them; linear layers: " + ", ".join(last_parts(model)),
            ) from error
    _fit_dense_model(adapted)
    use_dense_lora(adapted)
    use_expert_lora(adapted)
    return cast(PeftModel, adapted)


def _has_quantized_conv1d(model: nn.Module) -> bool:
    return any(layer.from_conv1d for layer in quantized_layers(model).values())


def _fit_dense_model(adapted: PeftModel) -> None:
    """Say in the configuration how Conv1D stores its weights, although PEFT turns that off where it is quantized: the
    adapter's file must fit the dense model too."""
    if _has_quantized_conv1d(adapted):
        adapted.peft_config["default"].fan_in_fan_out = True


def cuda_devices(model: nn.Module) -> list[torch.device]:
    """The GPUs whose random numbers an initialization of this model uses; fork_rng() alone forks those of all."""
    return sorted({one.device for one in model.parameters() if one.device.type == "cuda"}, key=str)


def _check_rank(model: PreTrainedModel, chosen: Targets, rank: int) -> None:
    """Raises ModelError if the matrices with their gradients and two moments (float32) exceed the device's memory."""
    names = tuple(f".{target}" for target in chosen.modules)
    layers = [module for name, module in model.named_modules() if f".{name}".endswith(names)]
    features = sum(sum(_features(layer)) for layer in layers) + widths(model, chosen.stacks)
    needed, device = 4 * 4 * rank * features, next(model.parameters()).device
    is_gpu = device.type == "cuda"
    available = torch.cuda.get_device_properties(device).total_memory if is_gpu else memory_bytes()
    if needed > available:
        raise ModelError(
            f"adapter.rank={rank}: the matrices with gradients and moments need {format_bytes(needed)}, "
            f"and the device has {format_bytes(available)}",
            "lower adapter.rank; 8 to 64 is usual",
        )


def _features(layer: torch.nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer; zeros of a module that is none."""
    if isinstance(layer, Conv1D):
        return int(layer.weight.shape[0]), int(layer.weight.shape[1])
    return int(getattr(layer, "in_features", 0)), int(getattr(layer, "out_features", 0))


def load_adapter(model: PreTrainedModel, folder: Path, *, dropout: float | None = None) -> PeftModel:
    """Load an adapter in PEFT's format (which tunelab also writes) onto the model.

    Args:
        dropout: train it further, with this dropout probability; None = its weights are frozen.

    Raises:
        ModelError: the folder has no adapter, or one that does not fit the model, or one with NaN or infinite weights.
    """
    check_adapter_files(folder)
    grow(model, ids_needed(model, folder))
    base_as_it_was = _samples(model)
    try:
        with _known_warnings_ignored(), no_pickles():
            stored = cast(LoraConfig, LoraConfig.from_pretrained(str(folder)))
            own = from_plain_peft(stored, model)
            config = own if dropout is None else _further(own or stored, model, dropout)
            with names_kept() if own else nullcontext(), stacks_as_parameters(model):
                loaded = PeftModel.from_pretrained(model, folder, is_trainable=dropout is not None, config=config)
            adapted = cast(PeftModel, loaded)
    except SafetensorError as error:
        raise ModelError(
            f"{folder}: adapter_model.safetensors is incomplete: {error}", "copy or download it again"
        ) from error
    except Exception as error:  # a value in adapter_config.json that PEFT does not check
        if is_of_machine(error):
            raise
        first = " ".join(sentence(error).split())
        raise ModelError(f"{folder}: the adapter does not fit {type(model).__name__}: {first[:400]}") from error
    _check_complete(adapted, folder)
    check_files_finite(folder)
    _fit_dense_model(adapted)
    use_dense_lora(adapted)
    use_expert_lora(adapted)
    found = _samples(underlying(adapted))
    _changed_bases[adapted] = [name for name, was in base_as_it_was.items() if not torch.equal(was, found[name])]
    return adapted


def check_adapter_files(folder: Path) -> None:
    """Check that a folder has a LoRA adapter in safetensors.

    Raises:
        ModelError: it has none, or one of another method.
    """
    if not (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder}: no adapter found (no adapter_config.json)", "give a folder saved by PEFT or tunelab"
        )
    if not (folder / "adapter_model.safetensors").exists():
        raise ModelError(f"{folder}: no adapter_model.safetensors", "pickled adapters can run code and are not loaded")
    _check_method(folder / "adapter_config.json")


def _further(config: LoraConfig, model: PreTrainedModel, dropout: float) -> LoraConfig:
    """An adapter's configuration for training it further on this model."""
    config.lora_dropout = dropout
    config.base_model_name_or_path = model.name_or_path
    return config


def save_adapter(model: PeftModel, folder: Path, *, initial: Path | None = None) -> None:
    """Save the adapter in PEFT's format, without PEFT's model card: an empty template, slower to write than weights.

    Args:
        initial: the adapter as it began, if its product was taken out of the base (initialization.py): what is saved is
            their difference, over the base as it was. PEFT writes into this folder.
    """
    model.create_or_update_model_card = lambda output_dir: None
    own = model.peft_config["default"]
    model.peft_config["default"] = for_plain_peft(cast(LoraConfig, own), underlying(model))
    began = None if initial is None else str(initial)
    try:
        with _known_warnings_ignored():
            model.save_pretrained(
                str(folder), save_embedding_layers=False, path_initial_model_for_weight_conversion=began
            )
    finally:
        model.peft_config["default"] = own
        del model.create_or_update_model_card


@contextmanager
def without_adapter(model: PeftModel) -> Iterator[PeftModel]:
    """The base of an adapted model within the block.

    Raises:
        ModelError: loading the adapter changed the base's own weights (trained biases; PiSSA or OLoRA, which take their
            matrices out of them), so that they are not the base's without it.
    """
    if changed := _changed_bases.get(model):
        raise ModelError(
            f"the adapter changes the base's own {changed[0]} (bias or init_lora_weights in its adapter_config.json): "
            "turned off, it does not leave the base",
            "merge that adapter with PEFT (merge_and_unload) and use the merged model",
        )
    with model.disable_adapter():
        yield model


def _samples(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The first values of each of the base's own parameters, by its name without PEFT's wrappers."""
    return {
        re.sub(r"\.(base_layer|original_module|token_adapter)(?=\.)", "", name): (
            parameter.detach().flatten()[:SAMPLED].clone()
        )
        for name, parameter in model.named_parameters()
        if not any(part in name for part in (".lora_", ".modules_to_save.", ".trainable_tokens_"))
    }


def _check_method(file: Path) -> None:
    """Raises ModelError if adapter_config.json is of another method than LoRA, or trains what LoRA does not."""
    config = json_object(file)
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"{file}: peft_type is {config.get('peft_type')!r}, and only LORA is supported",
            "merge that adapter with PEFT (merge_and_unload) and use the merged model",
        )
    if config.get("megatron_config"):
        raise ModelError(
            f"{file}: megatron_config makes PEFT import the package {config.get('megatron_core')}",
            "it is for models of Megatron-LM; remove the key to load the adapter on a transformers model",
        )


def _check_complete(adapted: PeftModel, folder: Path) -> None:
    """Check that every LoRA matrix of the model comes from the file, and that every weight in the file was used."""
    stored = stored_names(adapted, folder / "adapter_model.safetensors")
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    # Other weights that PEFT stores are the base's own: embeddings of a larger vocabulary, biases.
    own = {name.replace(".base_layer.", ".") for name in adapted.state_dict()}
    lacking = sorted(wanted - stored)
    left = sorted(name for name in stored - wanted if name.replace(".base_layer.", ".") not in own)
    if lacking or left:
        what = f"missing key {lacking[0]}" if lacking else f"unexpected key {left[0]}"
        raise ModelError(
            f"{folder}: the adapter does not fit {type(underlying(adapted)).__name__}: {what}",
            "load it on the base model it was trained on",
        )


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which weights of a base have an adapter.

    Args:
        layers: linear layers with an adapter, routers included.
        weights: of these layers.
        expert_tensors: experts' weights, stacked in tensors [experts, ., .], with an adapter.
        expert_weights: in these tensors.
        stacked_tensors: experts' weights without an adapter.
        stacked_weights: in these tensors.
        routers: with an adapter.
        of: the model's linear layers, adapted routers included.
        modules: last two parts of the names of adapted linear layers -> the numbers of the model's layers where they
            are; none of a head.
    """

    layers: int
    weights: int
    expert_tensors: int
    expert_weights: int
    stacked_tensors: int
    stacked_weights: int
    routers: int
    of: int
    modules: dict[str, list[int]]


def coverage(model: PeftModel) -> Coverage:
    """Count what of the model's base has an adapter, and what of its experts has none."""
    base = underlying(model)
    adapted = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    on_experts = {
        weight_name(name, module): module.num_experts * _weights(module)
        for name, module in adapted.items()
        if isinstance(module, ParamWrapper) and module.num_experts > 1
    }
    others = {base_name(name): layer for name, layer in adapted.items() if not _is_of_experts(layer)}
    stacked = {base_name(name): count for name, count in stacked_weights(base).items()}
    bare = [count for name, count in stacked.items() if name not in on_experts]
    routers = {base_name(name).removesuffix(".weight") for name in router_weights(base)}
    linear = {base_name(name) for name in linear_names(base) if ".lora_" not in name}
    return Coverage(
        len(others),
        sum(_weights(layer) for layer in others.values()),
        len(on_experts),
        sum(on_experts.values()),
        len(bare),
        sum(bare),
        len(routers & adapted.keys()),
        len(linear | others.keys()),
        _by_kind(others),
    )


def _by_kind(names: Iterable[str]) -> dict[str, list[int]]:
    """The last two parts of names -> the numbers of the layers that they are in."""
    found: dict[str, list[int]] = {}
    for name in names:
        number = layer_of(name)
        found.setdefault(last_part(name), []).extend([] if number is None else [number])
    return found


def _is_of_experts(layer: LoraLayer) -> bool:
    return getattr(layer, "num_experts", 1) > 1


def _weights(layer: LoraLayer) -> int:
    return int(layer.in_features * layer.out_features)


@contextmanager
def _known_warnings_ignored() -> Iterator[None]:
    """Ignore PEFT's warnings about cases that this module handles; all others pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT reads a property that transformers has renamed
        # An nn.Linear head next to Conv1D layers: PEFT handles each layer correctly.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to True but the target module is")
        # Of experts, which have no adapter: forecast says so.
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        # Missing keys are an error of _check_complete.
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        # An adapter on a tied head: merge_adapter unties it first.
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True` and a tied layer is part of")
        yield
