"""Loading a model with quantized linear layers: tensor by tensor, each directly to its device and format.

The model is built without allocating weights. Each tensor is then read, quantized if it is a linear layer's weight, and
released: memory never holds more than the quantized model and one tensor of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.pytorch_utils import Conv1D

from tunelab.errors import ModelError
from tunelab.models.checkpoint_files import CheckpointFiles
from tunelab.models.complete import check_head, check_nothing_left_over, check_shapes, lacking
from tunelab.models.expert_stack import ExpertStack, can_be_stored, quantized_stack, set_stack
from tunelab.models.formats._format import WeightFormat, check_layout
from tunelab.models.fused_weights import FusedWeights, stored_otherwise
from tunelab.models.linear_layers import experts, is_end_of, last_part, linear_names, stacked_weights
from tunelab.models.quantized_linear import QuantizedLinear, quantized_layers


def load_quantized(
    config: Any,
    folder: Path,
    form: WeightFormat,
    *,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
    skip: Sequence[str] = (),
    is_stored: bool = False,
) -> PreTrainedModel:
    """The model from a folder's weight files, its linear layers in a weight format, all else in `dtype`.

    Args:
        config: the model's configuration; its `quantization_config` is ignored.
        skip: names of linear layers, or their last parts ("self_attn.q_proj", "down_proj"), that stay in `dtype`; the
            output head always does.
        is_stored: the checkpoint already has codes and scales of this format.

    Raises:
        ModelError: a name in `skip` is not a linear layer; a weight is missing, misshapen, or cannot be quantized.
    """
    model = empty_model(config, dtype, trust_remote_code)
    all_names = set(model.state_dict())
    buffers = {name for name, _ in model.named_buffers()} & all_names  # Gemma 4 stores a scale of each layer as one
    known = {name for name, _ in model.named_parameters()} | buffers  # tied ones once
    files = CheckpointFiles(folder, known, model.base_model_prefix, _renamed(model))
    for name in layers_to_quantize(model, skip):
        if not is_stored or _is_quantized(files, name):
            _replace(model, name, _empty_layer(model.get_submodule(name), form, dtype))
    layers = quantized_layers(model)
    stacks = [] if is_stored else stacks_to_quantize(model, skip)
    read = _set_stored(model, files, form, dtype, device) if is_stored else set()

    def take(name: str, tensor: Tensor) -> None:
        read.add(name)
        if name in stacks:
            _set_quantized(model, name, tensor.to(device), form, dtype, str(folder))
        else:
            _place(model, name, tensor.to(device), dtype, str(folder))

    fused = FusedWeights(model, files, known - {f"{name}.weight" for name in layers})
    read |= fused.stored
    for name, tensor in fused:
        take(name, tensor)
    for name, layer in layers.items():
        read |= _fill(name, layer, files, device, is_stored)
    tied = _tied_head(model, files)
    for stored in files:
        name = tied.get(stored, stored)
        if name in known and name not in read:
            take(name, files.tensor(stored))
    model.tie_weights()
    unread = {name for name, parameter in model.named_parameters() if parameter.is_meta}
    if missing := unread | (buffers - read):
        raise _lacking(model, files, missing)
    check_nothing_left_over(str(folder), model, [one for one in files if tied.get(one, one) not in read | all_names])
    _move_buffers(model, device)
    return model.eval()


def _lacking(model: PreTrainedModel, files: CheckpointFiles, missing: set[str]) -> ModelError:
    """The error for weights that are not there, or are there as codes of each expert."""
    for name in sorted(missing & stacked_weights(model).keys()):
        block = name.rpartition(".")[0]
        if of_one := next((stored for stored in files if stored.startswith(f"{block}.0.")), None):
            return stored_otherwise(files, of_one)
    return lacking(str(files.folder), model, missing)


def _move_buffers(model: nn.Module, device: torch.device) -> None:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def _is_quantized(files: CheckpointFiles, layer: str) -> bool:
    """Whether a quantized checkpoint has codes of this layer."""
    return any(suffix.startswith(("weight.", "weight_packed", "SCB")) for suffix in files.beside(layer))


def _fill(name: str, layer: QuantizedLinear, files: CheckpointFiles, device: torch.device, is_stored: bool) -> set[str]:
    """Give a layer its weight from its tensors in the checkpoint; their names.

    Raises:
        ModelError: it is missing, misshapen, or cannot be quantized.
    """
    suffixes = [suffix for suffix in files.beside(name) if suffix != "bias"]
    tensors = {suffix: files.tensor(f"{name}.{suffix}").to(device) for suffix in suffixes}
    try:
        layer.set_packed(_packed(layer, tensors, is_stored))
    except ModelError as error:
        raise ModelError(f"{files.folder}: {name}: {error}", error.hint) from error
    return {f"{name}.{suffix}" for suffix in suffixes}


def _renamed(model: PreTrainedModel) -> Callable[[str], str]:
    """A stored name's new one, as transformers renames it when it loads a checkpoint of before."""
    changes = [one for one in get_model_conversion_mapping(model) if type(one) is WeightRenaming]

    def renamed(stored: str) -> str:
        for change in changes:
            stored, _ = change.rename_source_key(stored)
        return stored

    return renamed


def empty_model(config: Any, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """The model with its parameters on the meta device and its computed buffers (rotary angles) on the CPU."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    return model


def _place(model: PreTrainedModel, name: str, tensor: Tensor, dtype: torch.dtype, where: str) -> None:
    """Set a parameter of the model to a stored tensor in `dtype`, or a buffer in the dtype that it has.

    Raises:
        ModelError: it has another shape.
    """
    parent, _, last = name.rpartition(".")
    module = model.get_submodule(parent)
    expected = getattr(module, last)
    check_shapes(where, [(name, tensor.shape, expected.shape)] if tensor.shape != expected.shape else [])
    # Copies, so that the file can be released.
    if last in module._buffers:
        setattr(module, last, tensor.to(expected.dtype, copy=True))
    else:
        setattr(module, last, nn.Parameter(tensor.to(dtype, copy=True), requires_grad=False))


def _tied_head(model: PreTrainedModel, files: CheckpointFiles) -> dict[str, str]:
    """Maps the head's weight to the embedding's, if they are tied and the checkpoint has it only as the head's.

    Raises:
        ModelError: it has both, and they differ.
    """
    if not model.config.get_text_config().tie_word_embeddings:
        return {}
    names = {module: f"{name}.weight" for name, module in model.named_modules()}
    head = names.get(model.get_output_embeddings(), "")
    embedding = names[model.get_input_embeddings()]
    if head in files and embedding in files:
        check_head(str(files.folder), model, files.tensor(head), files.tensor(embedding))
    return {head: embedding} if head in files and embedding not in files else {}


def layers_to_quantize(model: PreTrainedModel, skip: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers (GPT-2's Conv1D included) to quantize: all but the head, routers and `skip`.

    Raises:
        ModelError: a name in `skip` is neither that of a linear layer nor that of experts' weights.
    """
    names = linear_names(model)
    every = (*names, *stacked_weights(model))
    for wanted in skip:
        if not any(is_end_of(wanted, name) for name in every):
            shown = sorted(set(map(last_part, every)))
            raise ModelError(
                f"precision.skip: {wanted!r} matches no linear layer of {type(model).__name__}",
                "linear layers: " + ", ".join(shown),
            )
    return [name for name in names if not any(is_end_of(other, name) for other in skip)]


def stacks_to_quantize(model: PreTrainedModel, skip: Sequence[str] = ()) -> list[str]:
    """Names of experts' weights [experts, ., .] to quantize: all but `skip`, if the experts say how they compute."""
    modules = dict(model.named_modules())
    names = [name for name in stacked_weights(model) if can_be_stored(modules[name.rpartition(".")[0]])]
    return [name for name in names if not any(is_end_of(other, name) for other in skip)]


def _set_quantized(
    model: nn.Module, name: str, weight: Tensor, form: WeightFormat, dtype: torch.dtype, where: str
) -> None:
    """Quantize experts' weights, each expert apart, and put them in the place of the parameter.

    Raises:
        ModelError: they have another shape, or a weight cannot be quantized.
    """
    parent, _, last = name.rpartition(".")
    module: Any = model.get_submodule(parent)
    expected = getattr(module, last).shape
    check_shapes(where, [(name, weight.shape, expected)] if weight.shape != expected else [])
    try:
        stack = quantized_stack(form, weight, dtype=dtype, transposed=bool(module.is_transposed))
    except ModelError as error:
        raise ModelError(f"{where}: {name}: {error}", error.hint) from error
    set_stack(module, last, stack)


def _set_stored(
    model: nn.Module, files: CheckpointFiles, form: WeightFormat, dtype: torch.dtype, device: torch.device
) -> set[str]:
    """Set experts' weights that are stored as gpt-oss's are: `NAME_blocks` and `NAME_scales`; the names that were read.

    Raises:
        ModelError: they have another shape.
    """
    read = set()
    for parent, module in cast(list[tuple[str, Any]], experts(model)):
        for last in [name for name in ("gate_up_proj", "down_proj") if f"{parent}.{name}_blocks" in files]:
            blocks, scales = (f"{parent}.{last}_{part}" for part in ("blocks", "scales"))
            count, rows, columns = getattr(module, last).shape
            sizes = (count, columns, rows) if module.is_transposed else (count, rows, columns)
            found = {"codes": files.tensor(blocks).flatten(2), "scales": files.tensor(scales)}
            packed = {key: part.to(device, copy=True) for key, part in found.items()}
            try:
                check_layout(form, {key: part[0] for key, part in packed.items()}, sizes[1:])
            except ModelError as error:
                raise ModelError(f"{files.folder}: {parent}.{last}: {error}", error.hint) from error
            set_stack(module, last, ExpertStack(form, packed, sizes, dtype=dtype, transposed=module.is_transposed))
            read |= {f"{parent}.{last}", blocks, scales}
    return read


def _empty_layer(layer: nn.Module, form: WeightFormat, dtype: torch.dtype) -> QuantizedLinear:
    conv1d = isinstance(layer, Conv1D)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    shape = (weight.shape[1], weight.shape[0]) if conv1d else (weight.shape[0], weight.shape[1])
    packed = {
        name: torch.empty(size, dtype=stored, device="meta")
        for name, (size, stored) in form.packed_layout(shape).items()
    }
    bias = layer.bias
    assert bias is None or isinstance(bias, Tensor)
    return QuantizedLinear(form, packed, shape, bias=bias, dtype=dtype, from_conv1d=conv1d)


def _packed(layer: QuantizedLinear, tensors: dict[str, Tensor], is_stored: bool) -> dict[str, Tensor]:
    """Codes and scales of a layer from its tensors in the checkpoint."""
    if is_stored:
        packed = layer.form.from_checkpoint(tensors, layer.shape)
        return {name: tensor.clone() for name, tensor in packed.items()}  # copies, so that the file can be released
    if "weight" not in tensors:
        raise ModelError("the weight is missing", "use a complete causal language model checkpoint")
    weight = tensors["weight"].T if layer.from_conv1d else tensors["weight"]
    if tuple(weight.shape) != layer.shape:
        raise ModelError(f"the weight is {tuple(weight.shape)}, the model expects {layer.shape}")
    return layer.form.quantize(weight)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
