"""A dense model as one GGUF file, the format of llama.cpp and Ollama, and a check that the file holds the model.

    file      = header, metadata (shape of the model, tokenizer, chat template), tensors

The families and their differences are in models/gguf/families.py. What is not verified there is refused.
Source: the GGUF specification (ggml, docs/gguf.md), llama.cpp's model code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tunelab.errors import ModelError, UsageError
from tunelab.files import file_written_atomically
from tunelab.models.gguf.families import FAMILIES
from tunelab.models.gguf.settings import check_settings, file_metadata
from tunelab.models.gguf.tensors import Kind, Stored, stored_tensors
from tunelab.models.gguf.tokenizer import TextStart, add_tokenizer, model_name, special_texts

if TYPE_CHECKING:
    from gguf import GGUFWriter


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
        model: of a class in FAMILIES, dense, in fp32, bf16 or fp16.
        kind: of the weight matrices.
        name: the model's name in the file. "phi-3" in it has a meaning to llama.cpp: it is added or removed as the
            tokenizer needs it (see models.gguf.tokenizer.model_name).
        start: what llama.cpp puts before a text; None = what the tokenizer itself puts there.
        stop_token_ids: ids that end an answer, besides end of sequence.

    Raises:
        UsageError: the gguf package is not installed.
        ModelError: llama.cpp cannot run such a model or tokenizer, or a weight does not fit its kind.
    """
    gguf = _gguf()
    check_settings(type(model).__name__, model.config, kind.lower())
    stored = stored_tensors(model, kind)
    with file_written_atomically(path) as temporary:
        writer = gguf.GGUFWriter(temporary, FAMILIES[type(model).__name__].architecture)
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


def _add_shape(writer: GGUFWriter, model: PreTrainedModel, kind: Kind) -> None:
    """Metadata on the model's shape."""
    from gguf.constants import GGML_QUANT_VERSION, LlamaFileType

    class_name = type(model).__name__
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    for key, value in file_metadata(class_name, model.config).items():
        key = f"{FAMILIES[class_name].architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)


def _write_tensors(writer: GGUFWriter, stored: Sequence[Stored]) -> None:
    """Write header, metadata and tensors, and close the file: first all descriptions, then the tensors one by one."""
    import gguf

    for tensor in stored:
        raw_type = gguf.GGMLQuantizationType[tensor.kind]
        block, size = gguf.constants.GGML_QUANT_SIZES[raw_type]
        nbytes = math.prod(tensor.shape) // block * size
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), nbytes, raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in stored:
        writer.write_tensor_data(tensor.encoded())
    writer.flush()
    writer.close()


def check_gguf(model: PreTrainedModel, path: Path, kind: Kind) -> int:
    """Read a GGUF file back and compare every tensor with the model's; returns how many there are.

    F32 must be equal, F16 and BF16 within half a unit in the last place, Q8_0 within half a step and its scale's own
    rounding.

    Raises:
        UsageError: the gguf package is not installed.
        ModelError: a tensor is missing, is not the model's, or differs; or the architecture is not supported.
    """
    gguf = _gguf()
    check_settings(type(model).__name__, model.config, kind.lower())
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    stored = stored_tensors(model, kind)
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
        values = gguf.quants.dequantize(there.data, there.tensor_type)
        expected = tensor.read()
        allowed = tensor.allowed_error(expected)
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
