"""Write docs/reference/recipe.md from the recipe tree. Usage: python scripts/make_reference.py"""

from __future__ import annotations

from pathlib import Path

from tunelab.config import reference_markdown

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "recipe.md"

if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(reference_markdown(), encoding="utf-8")
