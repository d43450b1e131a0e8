"""Tiny random models with the architecture, tokenizer and vocabulary of real ones, for `--scale tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunelab.config.study import Study, merged, parse_study
from tunelab.files import directory_written_atomically
from tunelab.models.load import load_config, load_tokenizer
from tunelab.progress import Progress, silent

#: The sizes of a toy configuration, under the names used by model families. Head dimension: 64 / 4 = 16.
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd"), 64),
    **dict.fromkeys(("intermediate_size", "n_inner"), 128),
    **dict.fromkeys(("num_hidden_layers", "n_layer"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head"), 4),
    "num_key_value_heads": 4,
    "head_dim": 16,
}


def toy_model(name: str, folder: Path, *, revision: str | None = None, seed: int = 0) -> Path:
    """A tiny random model of the same architecture, with its tokenizer, in a folder; created once.

    A local model that is already small is used as it is.

    Raises:
        ModelError: configuration or tokenizer is not available.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config: Any = load_config(name, revision=revision)
    width: Any = getattr(config, "hidden_size", None) or getattr(config, "n_embd", 0)
    if width <= 2 * SIZES["hidden_size"] and Path(name).is_dir():
        return Path(name)
    if folder.exists():
        return folder
    for key, size in SIZES.items():
        if getattr(config, key, None) is not None:
            setattr(config, key, size)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: SIZES["num_hidden_layers"]]
    with torch.random.fork_rng(), directory_written_atomically(folder) as fresh:
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(fresh)
        load_tokenizer(name, revision=revision).save_pretrained(fresh)
    return folder


def with_toy_models(study: Study, folder: Path, *, progress: Progress = silent) -> Study:
    """The study with every model replaced by a toy model.

    Raises:
        ModelError: configuration or tokenizer is not available.
    """
    tree = study.model_dump(mode="json")
    for number, arm in enumerate(study.arms):
        progress("creating toy models", number, len(study.arms))
        model = study.arm_recipe(arm, study.seeds[0]).model
        name = model.name.strip("/").replace("/", "--")
        toy = toy_model(model.name, folder / "models" / name, revision=model.revision)
        own = {"model": {"name": str(toy), "revision": None, "tokenizer": None}}
        tree["arms"][arm]["recipe"] = merged(tree["arms"][arm]["recipe"], own)
    return parse_study(tree, study.title)
