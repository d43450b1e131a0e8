"""Tokenized rows on disk: their tables, and where each row came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunelab.data.loader import TokenTable
from tunelab.files import write_text_atomically

ORIGINS = "origins.json"


def save_table(table: TokenTable, path: Path) -> None:
    """Write rows to a safetensors file."""
    from safetensors.numpy import save_file

    save_file(table.arrays(), path)


def load_table(path: Path) -> TokenTable:
    """The rows of save_table()."""
    from safetensors.numpy import load_file

    return TokenTable(**load_file(path))


def save_origins(origins: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Write split -> "FILE row N" of each of its rows."""
    write_text_atomically(folder / ORIGINS, json.dumps(origins, ensure_ascii=False))


def load_origins(folder: Path) -> dict[str, list[str]]:
    """What save_origins() wrote. Only checks of the data need it: it is as long as the data."""
    found: dict[str, list[str]] = json.loads((folder / ORIGINS).read_text(encoding="utf-8"))
    return found
