"""Tiny random models with the architecture and tokenizer of real ones, for `--scale tiny`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab.files import directory_written_atomically
from tunelab.models.load import load_config, load_tokenizer

HIDDEN, INNER, LAYERS, HEADS = 64, 128, 2, 4

#: The sizes of a toy configuration, under the names used by model families.
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd"), HIDDEN),
    **dict.fromkeys(("intermediate_size", "n_inner"), INNER),
    **dict.fromkeys(("num_hidden_layers", "n_layer"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head"), HEADS),
    "head_dim": HIDDEN // HEADS,
}


@dataclass(frozen=True)
class Toy:
    """A toy that is not written yet: its folder, its configuration in toy size, its tokenizer, and a seed."""

    folder: Path
    config: Any
    tokenizer: Any
    seed: int = 0

    def write(self) -> None:
        """Write model and tokenizer, unless they are there."""
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        if self.folder.exists():
            return
        disable_progress_bar()  # the library is silent
        with torch.random.fork_rng(devices=[]), directory_written_atomically(self.folder) as fresh:
            torch.manual_seed(self.seed)
            AutoModelForCausalLM.from_config(self.config, dtype=torch.float32).save_pretrained(fresh)
            self.tokenizer.save_pretrained(fresh)


def toy_model(name: str, folder: Path, *, revision: str | None = None) -> Toy | None:
    """A toy of the same architecture, with the model's own tokenizer; None if the model is local and already small.

    Raises:
        ModelError: configuration or tokenizer is not available.
    """
    config: Any = load_config(name, revision=revision)
    if hidden_size(config) <= 2 * HIDDEN and Path(name).is_dir():
        return None
    return Toy(folder, shrunk(config), load_tokenizer(name, revision=revision), zlib.crc32(name.encode()))


def hidden_size(config: Any) -> int:
    """The hidden size of a configuration, under either of its names."""
    width: Any = getattr(config, "hidden_size", None) or getattr(config, "n_embd", 0)
    return int(width)


def shrunk(config: Any) -> Any:
    """The same configuration in toy size. What is no size stays: tied embeddings, rotary scaling, windows, and how
    many heads share keys and values.
    """
    heads = getattr(config, "num_attention_heads", None) or HEADS
    shared = getattr(config, "num_key_value_heads", None)
    for key, size in SIZES.items():
        if getattr(config, key, None) is not None:
            setattr(config, key, size)
    if shared is not None:
        config.num_key_value_heads = max(1, HEADS * shared // heads)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:LAYERS]
    return config
