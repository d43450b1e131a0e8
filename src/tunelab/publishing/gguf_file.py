"""A dense model as one GGUF file, the format of llama.cpp and Ollama, and a check that the file holds the model.

    file      = header, metadata (shape of the model, tokenizer, chat template), tensors
    tensors   = norms, biases and position embeddings in F32; other weights in F16 or Q8_0, rows that are not a
                multiple of Q8_0's block of 32 in F16

What differs from transformers: Llama's query and key rows are interleaved (llama.cpp rotates neighboring rows, not the
two halves of a head), GPT-2's Conv1D weights are transposed, and a head that is tied to the embedding is left out.
llama.cpp attends to all tokens where Phi-3 has a sliding window, and picks longrope's factors by its context size.
Source: the GGUF specification (ggml, docs/gguf.md), llama.cpp's converter and model code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tunelab.errors import ModelError, UsageError
from tunelab.files import file_written_atomically
from tunelab.publishing.gguf_tokenizer import TextStart, add_tokenizer, model_name, special_texts

if TYPE_CHECKING:
    from gguf import GGUFWriter

Kind = Literal["F16", "Q8_0"]
Floats = npt.NDArray[np.float32]
#: Weights in a block of Q8_0: one fp16 scale, 32 signed bytes.
BLOCK = 32


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in the file.

    Args:
        name: in the file.
        kind: "F32", "F16" or "Q8_0".
        read: the model's values, float32, in the model's own layout.
        heads: the rows are this many heads of query or key rows to interleave; 0 = leave them.
        transposed: the model has [in, out], the file [out, in].
    """

    name: str
    kind: str
    read: Callable[[], Floats]
    shape: tuple[int, ...]
    heads: int = 0
    transposed: bool = False

    def as_in_file(self, values: Floats) -> Floats:
        """The model's values in the file's layout."""
        if self.transposed:
            return np.ascontiguousarray(values.T)
        if self.heads:  # [heads, half, pair] -> [heads, pair, half]: a head's two halves, row by row
            halves = values.reshape(self.heads, 2, -1, *values.shape[1:])
            return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        return values

    def as_in_model(self, values: Floats) -> Floats:
        """The file's values in the model's layout."""
        if self.transposed:
            return np.ascontiguousarray(values.T)
        if self.heads:
            pairs = values.reshape(self.heads, -1, 2, *values.shape[1:])
            return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
        return values


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    path: Path,
    *,
    kind: Kind = "F16",
    name: str = "model",
    start: TextStart | None = None,
    stop_token_ids: Sequence[int] = (),
) -> None:
    """Write a model and its tokenizer as one GGUF file; an existing file is replaced once the new one is complete.

    Tensors are converted one at a time: the memory needed is the model and its largest tensor in float32.

    Args:
        model: LlamaForCausalLM, GPT2LMHeadModel or Phi3ForCausalLM, dense, in fp32, bf16 or fp16.
        kind: of the weight matrices.
        name: the model's name in the file. "phi-3" in it has a meaning to llama.cpp: it is added or removed as the
            tokenizer needs it (see gguf_tokenizer.model_name).
        start: what llama.cpp puts before a text; None = what the tokenizer itself puts there.
        stop_token_ids: ids that end an answer, besides end of sequence.

    Raises:
        UsageError: the gguf package is not installed.
        ModelError: llama.cpp cannot run such a model or tokenizer, or a weight does not fit its kind.
    """
    gguf = _gguf()
    _check_supported(model)
    stored = _stored_tensors(model, kind)
    with file_written_atomically(path) as temporary:
        writer = gguf.GGUFWriter(temporary, _architecture(model))
        try:
            vocabulary = model.get_input_embeddings().weight.shape[0]
            strips = add_tokenizer(writer, tokenizer, vocabulary, start=start, stop_token_ids=stop_token_ids)
            writer.add_name(model_name(name, strips, special_texts(tokenizer)))
            _add_shape(writer, model, kind)
            _write_tensors(writer, stored)
        except BaseException:
            with suppress(OSError):  # what is buffered does not fit on a full disk either
                writer.close()
            raise


def _write_tensors(writer: GGUFWriter, stored: Sequence[Stored]) -> None:
    """Write header, metadata and tensors, and close the file: first all descriptions, then the tensors one by one."""
    import gguf

    for tensor in stored:
        shape = tensor.shape[::-1] if tensor.transposed else tensor.shape
        raw_type = gguf.GGMLQuantizationType[tensor.kind]
        block, size = gguf.constants.GGML_QUANT_SIZES[raw_type]
        nbytes = math.prod(shape) // block * size
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), nbytes, raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in stored:
        writer.write_tensor_data(_encoded(tensor))
    writer.flush()
    writer.close()


def check_gguf(model: PreTrainedModel, path: Path, kind: Kind) -> int:
    """Read a GGUF file back and compare every tensor with the model's; returns how many there are.

    F32 must be equal, F16 within half a unit in the last place, Q8_0 within half a step and its scale's own rounding.

    Raises:
        UsageError: the gguf package is not installed.
        ModelError: a tensor is missing, is not the model's, or differs; or the architecture is not supported.
    """
    gguf = _gguf()
    _check_supported(model)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    stored = _stored_tensors(model, kind)
    for name in sorted(found.keys() ^ {tensor.name for tensor in stored}):
        what = "is not in the model" if name in found else "is missing"
        raise ModelError(f"{path}: tensor {name!r} {what}", "write the file again")
    for tensor in stored:
        there = found[tensor.name]
        if there.tensor_type.name != tensor.kind:
            raise ModelError(
                f"{path}: tensor {tensor.name!r} is {there.tensor_type.name}, expected {tensor.kind}",
                "the file was written with another kind",
            )
        values = tensor.as_in_model(gguf.quants.dequantize(there.data, there.tensor_type))
        expected = tensor.read()
        allowed = _allowed_error(tensor, expected)
        if values.shape != expected.shape or not (np.abs(values - expected) <= allowed).all():
            raise ModelError(f"{path}: tensor {tensor.name!r} does not hold the model's values", "write the file again")
    return len(stored)


def _gguf() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise UsageError(
            "writing GGUF needs the package gguf, which is not installed", 'pip install "tunelab[export]"'
        ) from error
    return gguf


# What llama.cpp's code for an architecture assumes: config key -> possible values.
LLAMA_FIXED: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu", "swish")}
GPT2_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
#: Class of the model -> (architecture's name in GGUF, fixed values of the config).
ARCHITECTURES = {
    "LlamaForCausalLM": ("llama", LLAMA_FIXED),
    "GPT2LMHeadModel": ("gpt2", GPT2_FIXED),
    "Phi3ForCausalLM": ("phi3", LLAMA_FIXED),
}
#: Supported types of rotary embeddings, by architecture.
ROPE_TYPES = {"llama": ("default", "linear", "llama3"), "phi3": ("default", "longrope")}


def _architecture(model: PreTrainedModel) -> str:
    return ARCHITECTURES[type(model).__name__][0]


def _check_supported(model: PreTrainedModel) -> None:
    """Refuse what llama.cpp would run differently from transformers."""
    name = type(model).__name__
    if name not in ARCHITECTURES:
        raise ModelError(
            f"a {name} cannot be written as GGUF; supported: {', '.join(ARCHITECTURES)}",
            "export as transformers checkpoint (--to hf); llama.cpp's own converter supports more architectures",
        )
    architecture, fixed = ARCHITECTURES[name]
    for key, values in fixed.items():
        value = getattr(model.config, key)
        if value not in values:
            raise ModelError(f"llama.cpp runs a {name} only with {key} {values[0]!r}; this model has {value!r}")
    if architecture in ROPE_TYPES:
        rope = _rope(model)
        if rope["rope_type"] not in ROPE_TYPES[architecture]:
            raise ModelError(
                f"rotary embeddings of type {rope['rope_type']!r} cannot be written as GGUF for a {name}; "
                f"supported: {', '.join(ROPE_TYPES[architecture])}"
            )
        if architecture == "llama" and rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise ModelError(f"llama.cpp rotates whole heads of a {name}; this model rotates a part of them")


def _rope(model: PreTrainedModel) -> dict[str, Any]:
    return dict(model.config.rope_parameters)


def _add_shape(writer: GGUFWriter, model: PreTrainedModel, kind: Kind) -> None:
    """Metadata on the model's shape."""
    from gguf.constants import GGML_QUANT_VERSION, LlamaFileType

    config = model.config
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0 if kind == "Q8_0" else LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(model.get_input_embeddings().weight.shape[0])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if _architecture(model) == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(_rope(model)["rope_theta"])
    writer.add_rope_dimension_count(_rotary_width(model))
    if _architecture(model) == "llama":
        _add_llama_shape(writer, model)
    else:
        _add_phi3_shape(writer, model)


def _add_llama_shape(writer: GGUFWriter, model: PreTrainedModel) -> None:
    from gguf.constants import RopeScalingType

    writer.add_key_length(_head_width(model))
    writer.add_value_length(_head_width(model))
    rope = _rope(model)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _add_phi3_shape(writer: GGUFWriter, model: PreTrainedModel) -> None:
    config = model.config
    writer.add_sliding_window(config.sliding_window or 0)  # 0 stands for none, where Phi-3 would have one
    original = config.max_position_embeddings
    if _rope(model)["rope_type"] == "longrope":
        original = config.original_max_position_embeddings
        writer.add_rope_scaling_attn_factors(_rotary(model)[1])
    writer.add_rope_scaling_orig_ctx_len(original)


def _head_width(model: PreTrainedModel) -> int:
    config = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _rotary_width(model: PreTrainedModel) -> int:
    """Dimensions of a head that are rotated."""
    return int(_head_width(model) * _rope(model).get("partial_rotary_factor", 1.0))


def _rotary(model: PreTrainedModel) -> tuple[Tensor, float]:
    """Inverse frequencies [rotary width / 2] float32, and the factor on attention, as transformers computes them."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, factor = ROPE_INIT_FUNCTIONS[_rope(model)["rope_type"]](model.config, device="cpu")
    return frequencies, float(factor)


def _stored_tensors(model: PreTrainedModel, kind: Kind) -> list[Stored]:
    """Every tensor that a file of this model holds, in the file's order."""
    import gguf

    architecture = gguf.MODEL_ARCH[_architecture(model).upper()]
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    stored = list(_rope_tensors(model))
    for full_name, parameter in model.named_parameters():  # a tied head appears once, as the embedding
        base, _, ending = full_name.rpartition(".")
        name = names.get_name(base)
        if name is None:
            raise ModelError(f"GGUF has no name for {full_name} of a {type(model).__name__}", "merge adapters first")
        stored.append(_stored(model, f"{name}.{ending}", full_name, parameter, kind))
    return stored


def _stored(model: PreTrainedModel, name: str, full_name: str, parameter: Tensor, kind: Kind) -> Stored:
    shape = tuple(parameter.shape)
    transposed = _architecture(model) == "gpt2" and parameter.ndim == 2 and ".h." in full_name
    row = shape[0] if transposed else shape[-1]
    stored_kind = "F32" if parameter.ndim < 2 or name.startswith("position_embd") else kind
    if stored_kind == "Q8_0" and row % BLOCK:
        stored_kind = "F16"
    heads = 0
    if _architecture(model) == "llama" and ".q_proj." in full_name:
        heads = model.config.num_attention_heads
    if _architecture(model) == "llama" and ".k_proj." in full_name:
        heads = model.config.num_key_value_heads
    return Stored(name, stored_kind, _reader(parameter), shape, heads=heads, transposed=transposed)


def _reader(parameter: Tensor) -> Callable[[], Floats]:
    def read() -> Floats:
        values: Floats = parameter.detach().float().cpu().contiguous().numpy()
        return values

    return read


def _same(values: Floats) -> Callable[[], Floats]:
    return lambda: values


def _rope_tensors(model: PreTrainedModel) -> Iterator[Stored]:
    """llama.cpp's divisors of the rotary frequencies, [rotary width / 2] each, if these are scaled one by one."""
    if _architecture(model) == "gpt2":
        return
    rope = _rope(model)
    factors: dict[str, Floats] = {}
    if rope["rope_type"] == "llama3":
        width = _rotary_width(model)
        plain = rope["rope_theta"] ** -(np.arange(0, width, 2, dtype=np.float64) / width)
        factors["rope_freqs.weight"] = (plain / _rotary(model)[0].double().numpy()).astype(np.float32)
    if rope["rope_type"] == "longrope":
        factors["rope_factors_long.weight"] = np.asarray(rope["long_factor"], dtype=np.float32)
        factors["rope_factors_short.weight"] = np.asarray(rope["short_factor"], dtype=np.float32)
    for name, values in factors.items():
        yield Stored(name, "F32", _same(values), values.shape)


def _encoded(tensor: Stored) -> npt.NDArray[Any]:
    """A tensor's bytes in the file.

    Raises:
        ModelError: a value is not finite, or too large for fp16.
    """
    import gguf

    values = tensor.as_in_file(tensor.read())
    largest = float(np.abs(values).max(initial=0.0))
    limit = {"F32": math.inf, "F16": 65504.0, "Q8_0": 65504.0 * 127}[tensor.kind]
    if not largest <= limit or math.isinf(largest):
        raise ModelError(
            f"tensor {tensor.name!r} has a value of {largest:g}, which {tensor.kind} cannot hold",
            "did training end with a NaN loss?" if not math.isfinite(largest) else "",
        )
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType[tensor.kind])


def _allowed_error(tensor: Stored, values: Floats) -> Floats | float:
    """The largest error from storing these values: one number, or an array of the values' shape."""
    if tensor.kind == "F32":
        return 0.0
    if tensor.kind == "F16":  # half of the last of 11 bits, or of the smallest step
        rounding: Floats = np.maximum(np.abs(values) * np.float32(2.0**-11), np.float32(2.0**-25))
        return rounding
    blocks = tensor.as_in_file(values).reshape(-1, BLOCK)
    step = np.abs(blocks).max(axis=1, keepdims=True) / 127
    # Half a step, and the scale's own rounding to fp16 under at most 127 steps; the last factor is for float32 sums.
    error = (step / 2 + 127 * np.maximum(step * 2.0**-11, 2.0**-25)) * (1 + 1e-5)
    shape = values.T.shape if tensor.transposed else values.shape
    return tensor.as_in_model(np.broadcast_to(error, blocks.shape).reshape(shape).astype(np.float32))
