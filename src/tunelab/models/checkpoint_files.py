"""The weights of a checkpoint in safetensors files, one tensor at a time, under the names that the model gives them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tunelab.errors import ModelError
from tunelab.models.folder_files import NOT_UNPICKLED, check_config_files, json_object
from tunelab.models.gguf.reading import local_model

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def weight_files(folder: Path) -> list[str]:
    """The safetensors files of a checkpoint: those that its index names, or the only one.

    Raises:
        ModelError: there are none, or the index names anything but safetensors files next to it; or there are both.
    """
    index = folder / INDEX
    if not index.exists():
        if (folder / SINGLE).exists():
            return [SINGLE]
        raise ModelError(f"{folder}: no safetensors weights", NOT_UNPICKLED)
    check_config_files(folder)
    named = set(json_object(index)["weight_map"].values())
    if (folder / SINGLE).exists() and named != {SINGLE}:
        raise ModelError(
            f"{folder} has both {SINGLE} and {INDEX}, which names other files: programs differ in which they load",
            "remove the one that is not this model's",
        )
    return sorted(named)


def tensor_count(folder: Path) -> int | None:
    """Tensors in a folder's weight files, from their headers; None = unknown: there are none, or they are damaged."""
    try:
        if (folder / INDEX).exists():
            return len(json_object(folder / INDEX)["weight_map"])
        if (folder / SINGLE).exists():
            with safe_open(folder / SINGLE, "pt") as opened:
                return len(opened.keys())
    except (OSError, ModelError, KeyError, TypeError, SafetensorError):
        return None
    return None


def tensor_count_on_hub(name: str, revision: str | None) -> int | None:
    """Tensors in a hub model's weight files: from the cache, the hub's index, or the header of the only file.

    None = unknown: the hub does not answer, or has no safetensors.
    """
    for file in (INDEX, SINGLE):
        cached = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(cached, str):
            return tensor_count(Path(cached).parent)
    api = HfApi()
    try:
        if api.file_exists(name, INDEX, revision=revision):
            return tensor_count(Path(api.hf_hub_download(name, INDEX, revision=revision)).parent)
        return len(api.parse_safetensors_file_metadata(name, SINGLE, revision=revision).tensors)
    except Exception:  # offline, gated, of another format: what loads the model next says why
        return None


@contextmanager
def no_pickles() -> Iterator[None]:
    """While a library loads weights, nothing is unpickled, whatever an index, a configuration or an adapter names.

    Raises:
        ModelError: a file would have been.
    """

    def refused(file: Any, *_: Any, **__: Any) -> NoReturn:
        raise ModelError(f"{file}: is named as a weight file, and is not safetensors", NOT_UNPICKLED)

    before = torch.load
    torch.load = refused  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = before


def checkpoint_folder(name: str, revision: str | None) -> Path:
    """The folder itself, a GGUF file's checkpoint, or the hub's files in the local cache, downloaded if necessary."""
    name = local_model(name)
    if Path(name).is_dir():
        return Path(name)
    wanted = ["config.json", "generation_config.json", INDEX, "model*.safetensors"]
    return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))


class CheckpointFiles:
    """Tensors of a folder's safetensors files.

    Args:
        folder: has model.safetensors, or an index and the files that it names.
        known: names of the model's parameters; a checkpoint of the backbone alone, or one with a prefix that the model
            does not have, is renamed to fit them.
        prefix: the model's name for its backbone ("transformer", "model").
        renamed: gives a stored name's new one, where transformers has renamed it since (GPT-NeoX's head).

    Raises:
        ModelError: there are no such files.
    """

    def __init__(
        self, folder: Path, known: Collection[str], prefix: str, renamed: Callable[[str], str] = lambda stored: stored
    ) -> None:
        self.folder, self._renamed = folder, renamed
        self._known, self._prefix = set(known), prefix + "."
        self._layers = {name.rpartition(".")[0] for name in known}
        self._places: dict[str, tuple[str, str]] = {}  # the model's name -> file, and the name in it
        for file in weight_files(folder):
            with safe_open(folder / file, "pt") as opened:
                for stored in opened.keys():  # noqa: SIM118  it has keys but is not a mapping
                    self._places[self._own_name(stored)] = (file, stored)

    def _own_name(self, stored: str) -> str:
        candidates = (stored, self._prefix + stored, stored.removeprefix(self._prefix), self._renamed(stored))
        known = [candidate for candidate in candidates if candidate in self._known]
        # Also the tensors next to a weight in a quantized checkpoint: "LAYER.weight.absmax", "LAYER.SCB".
        beside = (candidate for candidate in candidates if self._is_in_layer(candidate))
        return known[0] if known else next(beside, stored)

    def _is_in_layer(self, name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:end]) in self._layers for end in range(1, len(parts)))

    def beside(self, layer: str) -> list[str]:
        """What follows the layer's name in each of its tensors' names: "weight", "weight.absmax", ..."""
        return [name.removeprefix(layer + ".") for name in self._places if name.startswith(layer + ".")]

    def tensor(self, name: str) -> Tensor:
        """One tensor, on the CPU. The file is opened for this tensor only, so earlier ones do not stay in memory."""
        file, stored = self._places[name]
        with safe_open(self.folder / file, "pt") as opened:
            tensor: Tensor = opened.get_tensor(stored)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        """The tensors' names, as the model has them, in the order of the files."""
        return iter(self._places)
