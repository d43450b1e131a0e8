"""A GGUF file as a base: once per file it becomes a checkpoint in the cache, which every command then loads.

The file is read by what an export writes (settings.py, tensors.py, tokenizer.py), backwards: so every key of the
architecture and every tensor has its place in the model, or the file is refused. Weights are dequantized one tensor at
a time and are dense from there, each in the smallest dtype that holds what the file has.
"""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from tunelab.errors import ModelError, TunelabError, UsageError
from tunelab.failures import is_of_machine, sentence
from tunelab.files import (
    cache_home,
    directory_written_atomically,
    file_sha256,
    kept_digest,
    read_json,
    write_json_atomically,
)
from tunelab.models.gguf.configuration import check_metadata, class_of, differs, file_config, own_metadata
from tunelab.models.gguf.families import Change, plus_one, unchanged
from tunelab.models.gguf.file_header import GgufFile, read_header
from tunelab.models.gguf.settings import check_settings
from tunelab.models.gguf.tensors import Placed, placed, rope_tensors
from tunelab.models.gguf.vocabulary import rebuilt_tokenizer

#: In the folder of a checkpoint that was a GGUF file: the file, its kinds, and why it has no tokenizer, if it has none.
ORIGIN = "gguf.json"
#: Part of a checkpoint's place in the cache; raised when other files come from the same GGUF file.
VERSION = 1
#: Largest file of weights, in bytes, unless one tensor is larger: what is in memory while a file is converted.
SHARD = 1 << 30
#: What else a folder may hold that is loaded in place of its GGUF file.
LOADABLE = ("config.json", "adapter_config.json", "tokenizer.json", "recipe.yaml")
#: Kinds that a dtype of torch holds exactly; all others are dequantized to float32.
EXACT = {"F16": torch.float16, "BF16": torch.bfloat16}
#: Smallest first; a checkpoint's dtype is the first that holds all weights exactly.
DTYPES = (torch.bfloat16, torch.float16)


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a model's name means: the file itself, or the only one in a folder with nothing else to load.

    Raises:
        ModelError: such a folder has several.
    """
    path = Path(name)
    if path.suffix.lower() == ".gguf":
        return path if path.is_file() else None
    if not path.is_dir() or any((path / file).exists() for file in LOADABLE):
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
    if len(found) > 1:
        raise ModelError(
            f"{name}: has {len(found)} GGUF files: {', '.join(file.name for file in found[:5])}", "name one of them"
        )
    return found[0] if found else None


def is_local_model(place: Path) -> bool:
    """Whether a model is there: a folder with a configuration, or a GGUF file."""
    return (place / "config.json").exists() or gguf_file(str(place)) is not None


def local_model(name: str) -> str:
    """The name of a model in transformers' form: a GGUF file's is that of its checkpoint in the cache, made if need be.

    Raises:
        ModelError: the file cannot be read, or says something that the built model would not have.
        UsageError: the gguf package is not installed.
    """
    file = gguf_file(name)
    if file is None:
        if name.lower().endswith(".gguf"):
            raise ModelError(f"{name}: no such file", "give a .gguf file on this machine, or a folder with one")
        return name
    return str(checkpoint_of(file))


def without_code(name: str) -> str:
    """A model's name, where the code of its repository may run (`trust_remote_code`).

    Raises:
        UsageError: it is a GGUF file: that has none, and what asks for it has no effect.
    """
    if gguf_file(name) is not None:
        raise UsageError(f"model.trust_remote_code: {name} is a GGUF file, which holds no code", "omit it")
    return name


def checkpoint_of(file: Path) -> Path:
    """The folder of a GGUF file's model in transformers' form, made if it is not in the cache.

    Of several that want one file the first makes it, and the others wait: who began to load it would lose its files.
    """
    digest = gguf_digest(file)
    folder = _converted() / f"{digest[:32]}-{VERSION}"
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_whole(folder):
            with directory_written_atomically(folder) as temporary:
                _convert(file, digest, temporary)
                if gguf_digest(file) != digest:
                    raise ModelError(f"{file}: changed while it was read", "run the same command again")
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint in the cache has all its files as they were written: people clear caches by hand."""
    try:
        sizes = read_json(folder / ORIGIN)["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, TunelabError, KeyError, AttributeError, TypeError):
        return False


def _converted() -> Path:
    """Where the checkpoints of GGUF files are kept."""
    return cache_home() / "gguf"


def gguf_digest(file: Path) -> str:
    """sha256 (hex) of a file, kept in the cache until the file changes."""
    state = file.stat()
    identity = (str(file.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    return kept_digest(identity, lambda: file_sha256(file))


def gguf_origin(folder: Path) -> dict[str, Any] | None:
    """What a checkpoint in the cache comes from: `sha256` of the GGUF file, `kinds` (kind -> matrices stored in it),
    `dtype`, `no_tokenizer` (why); None for other folders."""
    path = folder / ORIGIN  # a copy elsewhere may have been changed: only what is in the cache is the file's
    return read_json(path) if folder.parent.resolve() == _converted().resolve() and path.exists() else None


def gguf_sentences(name: str) -> list[str]:
    """What is said before a GGUF file is used: how it stored its weights, and what they are now."""
    file = gguf_file(name)
    if file is None:
        return []
    folder = checkpoint_of(file)
    origin = gguf_origin(folder) or {}
    counted = sorted(origin["kinds"].items(), key=lambda kind: -kind[1])
    kinds = ", ".join(f"{count} {kind}" for kind, count in counted)
    dense = f"dense {origin['dtype']} weights from here on, in {folder}"
    return [f"{file}: GGUF with {kinds} matrices, dequantized; {dense}"]


def model_with_tokenizer(name: str) -> str:
    """As local_model(), of a model whose tokenizer is wanted.

    Raises:
        ModelError: also if the tokenizer of a GGUF file could not be rebuilt; says why.
    """
    folder = local_model(name)
    origin = gguf_origin(Path(folder))
    if origin is not None and origin["no_tokenizer"]:
        raise ModelError(origin["no_tokenizer"], "set model.tokenizer to the model's own, a folder or a hub name")
    return folder


def _convert(path: Path, digest: str, folder: Path) -> None:
    file = read_header(path)
    if (parts := file.says.get("split.count", 1)) not in (0, 1):  # 0: parts that were joined
        raise ModelError(f"{path}: is one of {parts} parts", "join them: llama-gguf-split --merge FIRST OUT.gguf")
    class_name = class_of(file)
    try:
        model = _empty_model(class_name, file)
        dtype = _write_weights(model, file, folder)
    except TunelabError:
        raise
    except Exception as error:  # of any architecture's code
        if is_of_machine(error):
            raise
        raise differs(file, sentence(error)) from error
    _write_settings(model, file, dtype, folder)
    refused = ""
    try:
        rebuilt_tokenizer(file).save_pretrained(folder)
    except ModelError as error:
        refused = error.message
    kinds = Counter(tensor.kind for tensor in file.tensors.values() if len(tensor.shape) > 1)
    known = {"file": path.name, "sha256": digest, "kinds": kinds, "dtype": str(dtype).removeprefix("torch.")}
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    write_json_atomically(folder / ORIGIN, {**known, "no_tokenizer": refused, "sizes": sizes})


def _empty_model(class_name: str, file: GgufFile) -> PreTrainedModel:
    """The file's model without weights, once all that the file says of it has been compared.

    Raises:
        ModelError: something differs.
    """
    if "token_embd.weight" not in file.tensors:
        raise differs(file, "it has no tensor token_embd.weight")
    says = own_metadata(file)
    config = file_config(class_name, file, says)
    check_settings(class_name, config)
    check_metadata(class_name, config, file, says)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _check_names(model, file)
    return model


def _check_names(model: PreTrainedModel, file: GgufFile) -> None:
    """Check that the file's tensors are those of the model, by name and shape."""
    shapes = {one.name: one.shape for one in placed(model)}
    for rope in rope_tensors(model):
        shapes[rope.name] = rope.shape
        tensor = file.tensors.get(rope.name)
        if tensor is None or tensor.shape != rope.shape or not _close(tensor.values(file.path), rope.read()):
            raise differs(file, f"tensor {rope.name} differs")
    optional = {"output.weight"} if model.config.tie_word_embeddings else set()
    for name in sorted((file.tensors.keys() ^ shapes.keys()) - optional):
        which = "has no place in the model that would be built" if name in file.tensors else "is missing"
        raise differs(file, f"tensor {name} {which}")
    for name, shape in shapes.items():
        if file.tensors[name].shape != shape:
            raise differs(file, f"tensor {name} is {list(file.tensors[name].shape)}, expected {list(shape)}")


def _close(here: Any, there: Any) -> bool:
    return bool(np.allclose(here, there, rtol=1e-5, atol=0.0))


def _write_weights(model: PreTrainedModel, file: GgufFile, folder: Path) -> torch.dtype:
    """Write the file's weights as safetensors; returns the dtype that holds all of them exactly."""
    shard: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    exact = set(DTYPES)
    total = 0

    def write() -> None:
        name = f"model-{len(set(files.values())) + 1:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        files.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, weight in _weights(model, file):
        exact = {dtype for dtype in exact if torch.equal(weight.to(dtype).float(), weight.float())}
        if shard and sum(held.nbytes for held in shard.values()) + weight.nbytes > SHARD:
            write()
        shard[name] = weight
        total += weight.nbytes
    write()
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return next((dtype for dtype in DTYPES if dtype in exact), torch.float32)


def _weights(model: PreTrainedModel, file: GgufFile) -> Iterator[tuple[str, Tensor]]:
    """The model's parameters by name, in its layout; a file has some in parts."""
    for name, group in groupby(placed(model), key=lambda one: one.parameter):
        parts = [_read(one, file) for one in group]
        yield name, parts[0] if len(parts) == 1 else torch.cat(parts, dim=1).contiguous()


def _read(one: Placed, file: GgufFile) -> Tensor:
    tensor = file.tensors[one.name]
    values = undone(one.change, torch.from_numpy(tensor.values(file.path)), tuple(one.part.shape))
    held = torch.float32 if one.change is plus_one else EXACT.get(tensor.kind, torch.float32)
    return values.to(held).contiguous()


def undone(change: Change, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Values in the file's layout as the model has them, [shape]."""
    if change is unchanged:
        return values
    if change is plus_one:
        return values - 1.0
    places = change(torch.arange(values.numel()).reshape(shape)).flatten()
    found = torch.empty(values.numel(), dtype=values.dtype)
    found[places] = values.flatten()
    return found.reshape(shape)


def _write_settings(model: PreTrainedModel, file: GgufFile, dtype: torch.dtype, folder: Path) -> None:
    """Write config.json and generation_config.json, with the ids that begin, end and pad texts."""
    ids = {name: _token_id(file, name) for name in ("bos", "eos", "eot", "eom", "padding")}
    ends = sorted({id for name in ("eos", "eot", "eom") if (id := ids[name]) is not None})
    generation = GenerationConfig()
    for settings in (model.config, generation):
        settings.bos_token_id, settings.pad_token_id = ids["bos"], ids["padding"]
        settings.eos_token_id = (ends if len(ends) > 1 else ends[0]) if ends else None
    model.config.dtype, model.config.architectures = dtype, [type(model).__name__]
    model.config.save_pretrained(folder)
    generation.save_pretrained(folder)


def _token_id(file: GgufFile, name: str) -> int | None:
    value = file.says.get(key := f"tokenizer.ggml.{name}_token_id")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise differs(file, f"{key} is {str(value)[:40]}, expected the id of a token")
    return value
