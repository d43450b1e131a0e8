"""Promise: pages that are written from the code are current."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts import make_reference

PAGES = make_reference.pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == PAGES[path], "run: python scripts/make_reference.py"


def test_other_tools_keys_are_in_the_guide() -> None:
    assert "| `save_steps` | transformers, Axolotl | `train.save_every` |" in PAGES[make_reference.COMING_FROM]
