"""The guide's table of architectures is what the code does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from architectures import ARCHITECTURES

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts import make_models_page

REPOSITORY = Path(__file__).parents[2]


def test_every_architecture_is_in_the_table_and_counted() -> None:
    text = make_models_page.PAGE.read_text(encoding="utf-8")
    listed = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    wanted = [f"`{kind}`" + (f" ({variant})" if variant else "") for kind, _, variant in map(split, ARCHITECTURES)]
    assert listed[-len(wanted) :] == wanted, "run: python scripts/make_models_page.py"
    for file in ("README.md", "CHANGELOG.md"):
        assert f"{len(ARCHITECTURES)} architectures" in (REPOSITORY / file).read_text(encoding="utf-8")


def split(name: str) -> tuple[str, str, str]:
    return name.partition("@")


@pytest.mark.parametrize("name", ["cohere", "lfm2"])
def test_a_row_of_the_table_is_current(name: str) -> None:
    assert make_models_page.row(name) in make_models_page.PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_table_is_current() -> None:
    text = make_models_page.PAGE.read_text(encoding="utf-8")
    assert make_models_page.page() == text, "run: python scripts/make_models_page.py"
