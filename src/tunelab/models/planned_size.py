"""A configuration that asks for more than its weight files can hold, refused before anything is built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from tunelab.errors import ModelError
from tunelab.models.checkpoint_files import INDEX, SINGLE, tensor_count, tensor_count_on_hub
from tunelab.models.folder_files import CONFIG

#: Layers, or experts of a layer, of a model whose weight files are not here to be counted.
MOST_PARTS = 10_000

#: Models whose planned size was checked in this process: name, revision, and what changes with their files.
_planned: set[tuple[Any, ...]] = set()


def check_planned_size(name: str, revision: str | None) -> None:
    """Refuse a configuration with more layers than the weight files have tensors, before anything is built from it.

    Once for the same files, since every command reads the configuration several times.
    """
    folder = Path(name)
    files = [file_state(folder / file) for file in (CONFIG, INDEX, SINGLE) if (folder / file).exists()]
    if (seen := (name, revision, *files)) in _planned or (folder.is_dir() and not (folder / CONFIG).exists()):
        return
    try:
        config, _ = PretrainedConfig.get_config_dict(name, revision=revision)
    except Exception:
        if folder.is_dir():
            raise
        return  # what loads it from the hub next says why it cannot
    stored = tensor_count(folder) if folder.is_dir() else tensor_count_on_hub(name, revision)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, value in part.items():
            is_layers = key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
            most = stored if is_layers and stored is not None else MOST_PARTS
            if (is_layers or key.endswith("experts")) and isinstance(value, int) and value > most:
                has = f"its weight files have {stored:,} tensors" if most == stored else f"expected at most {most:,}"
                raise ModelError(f"{name}: config.json: {key} is {value:,}, but {has}", "restore the file")
    _planned.add(seen)


def file_state(file: Path) -> tuple[int, int, int, int]:
    """What changes when a file's bytes do: size, times of content and of inode, inode number."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
