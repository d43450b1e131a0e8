"""Where a model's config.json comes from: a folder, the table of common models that ships, or the hub."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tunelab.errors import ModelError
from tunelab.hub import hub_access

CONFIG = "config.json"

#: Configurations of common models, without what the planner does not read.
TABLE = Path(__file__).resolve().parents[1] / "assets" / "known_models.json"


@dataclass(frozen=True, slots=True)
class Config:
    """A model's configuration.

    Args:
        name: the model's, as it was given, or in full if the table has it by a shorter one.
        source: "folder", "table" or "hub".
    """

    name: str
    values: Mapping[str, Any]
    source: str


def config_of(name: str, revision: str | None = None) -> Config:
    """The configuration of a model.

    The table is used for the names in it, without asking the hub, and for the last part of such a name alone
    ("Llama-3.2-1B"), unless a revision is given.

    Raises:
        ModelError: there is no such folder or model, or the hub cannot be reached and the table does not have it.
    """
    folder = Path(name)
    if folder.is_dir():
        return Config(name, _read(folder / CONFIG, name), "folder")
    if name.lower().endswith(".gguf"):
        raise ModelError(
            f"{name}: a GGUF file has no {CONFIG}, which is what a plan reads",
            "name the model that it was made from: tunelab dequantizes the file, so that the plan is the same",
        )
    if revision is None and (found := _by_any_name().get(name.lower())):
        return Config(found[0], found[1], "table")
    return Config(name, _from_hub(name, revision), "hub")


def known_names() -> list[str]:
    """Hub names of the models in the table."""
    return list(_table())


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = TABLE.read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return table


@cache
def _by_any_name() -> dict[str, tuple[str, Mapping[str, Any]]]:
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name, entry in _table().items():
        for own in (name, *entry["also"]):
            found[own.lower()] = found[own.lower().rpartition("/")[2]] = (own, entry["config"])
    return found


def _read(path: Path, name: str) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{name}: the folder has no {CONFIG}", "give a model's folder, or its name on the hub"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} is not JSON: {error}", "download it again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is not a JSON object", "download it again")
    return values


def _from_hub(name: str, revision: str | None) -> Mapping[str, Any]:
    from huggingface_hub import hf_hub_download

    try:
        with hub_access(name):
            path = hf_hub_download(name, CONFIG, revision=revision)
    except Exception as error:  # offline, gated, missing, or no name of a model at all
        near = difflib.get_close_matches(name.lower().rpartition("/")[2], _by_any_name(), n=1)
        meant = f"did you mean {_by_any_name()[near[0]][0]}? " if near else ""
        raise ModelError(
            f"{name}: no {CONFIG} in a folder, in the table of common models, or on the hub ({type(error).__name__})",
            f"{meant}give a folder with a {CONFIG}, or check the name and the connection",
        ) from error
    return _read(Path(path), name)
