"""The small files of a model's folder, checked before a library reads them: a mistake is named by file and key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunelab.errors import ModelError
from tunelab.files import read_json, read_text

REMEDY = "restore the file, or download the model again"
NOT_UNPICKLED = "pickled weights can run code and are not loaded; save the model with save_pretrained to convert it"

CONFIG = "config.json"
#: Read with a model's configuration, and with its tokenizer; each contains an object.
CONFIG_FILES = (CONFIG, "generation_config.json", "model.safetensors.index.json")
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TEMPLATE_FILES = ("chat_template.jinja", "additional_chat_templates/*.jinja")

# Names that one or another architecture uses; a key that the file does not have is not checked.
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "n_embd", "n_layer", "n_head", "n_positions"),
)
SHARES = ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop")
MAPPINGS = ("quantization_config", "rope_parameters", "rope_scaling", "auto_map", "text_config")
LISTS = ("architectures", "layer_types")
DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def check_config_files(folder: Path) -> None:
    """Check config.json and the files next to it in a model's folder.

    Raises:
        ModelError: one is not a JSON object; or a value that no architecture can have.
    """
    for name in CONFIG_FILES:
        if (folder / name).exists():
            found = json_object(folder / name)
            _check_index(folder / name, found) if name.endswith("index.json") else _check_values(folder / name, found)


def check_tokenizer_files(folder: Path) -> None:
    """Check the files next to tokenizer.json.

    Raises:
        ModelError: one is not a JSON object, or a chat template is not UTF-8.
    """
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            json_object(folder / name)
    for pattern in TEMPLATE_FILES:
        for file in folder.glob(pattern):
            read_text(file, ModelError, REMEDY)


def check_tokenizer_json(folder: Path) -> None:
    """Check tokenizer.json, which may be large: after it could not be loaded.

    Raises:
        ModelError: it is no JSON object, or lacks a part that every tokenizer has.
    """
    file = folder / "tokenizer.json"
    if file.exists():
        found = json_object(file)
        for part, kind in (("model", dict), ("added_tokens", list)):
            if not isinstance(found.get(part), kind):
                raise ModelError(f"{file}: {part}: expected {'an object' if kind is dict else 'a list'}", REMEDY)


def json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a model.

    Raises:
        ModelError: the file is something else.
    """
    return read_json(file, ModelError, REMEDY)


def _check_index(file: Path, index: Mapping[str, Any]) -> None:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise ModelError(f"{file}: weight_map: expected weight names with the file of each", REMEDY)
    for place in sorted(set(places.values())):
        if Path(place).name != place or not place.endswith(".safetensors"):
            raise ModelError(f"{file}: names {place!r}, expected a .safetensors file next to it", NOT_UNPICKLED)
        if not (file.parent / place).is_file():
            raise ModelError(f"{file}: names {place}, which is not in the folder", "download the model again")


def _check_values(file: Path, config: Mapping[str, Any]) -> None:
    nested = config.get("text_config")
    for tree in (config, nested if isinstance(nested, dict) else {}):
        for key, value in tree.items():
            wanted = None if value is None else _wanted(key, value)
            if wanted is not None:
                raise ModelError(f"{file}: {key}: expected {wanted}, got {repr(value)[:60]}", REMEDY)
    pad, size = config.get("pad_token_id"), config.get("vocab_size")
    if isinstance(pad, int) and isinstance(size, int) and not -size <= pad < size:
        raise ModelError(f"{file}: pad_token_id: expected an id below vocab_size ({size}), got {pad}", REMEDY)


def _wanted(key: str, value: Any) -> str | None:
    """What a key's value should have been; None if it can be that."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if key in SIZES and not (isinstance(value, list) or (number and value == int(value) and value > 0)):
        return "a positive integer"
    if key.endswith(("_eps", "_epsilon")) and not (number and 0 <= value < 1):
        return "a number in [0, 1)"
    if key in SHARES and not (number and 0 <= value <= 1):
        return "a number between 0 and 1"
    if key in MAPPINGS and not isinstance(value, dict):
        return "an object"
    if key in LISTS and not isinstance(value, list):
        return "a list"
    if key in ("torch_dtype", "dtype") and isinstance(value, str) and value.removeprefix("torch.") not in DTYPES:
        return f"one of {', '.join(DTYPES)}"
    return None
