"""Fixtures of the workflow tests: tiny models and rows on disk, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import FAMILIES, model_folder, rows_file


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a model and a tokenizer for each family."""
    root = tmp_path_factory.mktemp("models")
    return {family: model_folder(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 24 rows."""
    return rows_file(tmp_path_factory.mktemp("rows") / "rows.jsonl")
