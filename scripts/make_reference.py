"""Write what documents say about keys from the code: docs/reference/, and the tables of docs/guides/coming-from.md.

Usage: python scripts/make_reference.py
"""

from __future__ import annotations

import re
from pathlib import Path

from tunelab.config import reference_markdown
from tunelab.config.study_reference import other_keys_markdown, study_markdown

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMING_FROM = DOCS / "guides" / "coming-from.md"
OTHER_TOOLS = re.compile(r"(<!-- other tools: .*? -->\n).*(<!-- end other tools -->)", re.DOTALL)


def pages() -> dict[Path, str]:
    """Path -> text of every page that has a part written from the code."""
    guide = COMING_FROM.read_text(encoding="utf-8")
    return {
        DOCS / "reference" / "recipe.md": reference_markdown(),
        DOCS / "reference" / "study.md": study_markdown(),
        COMING_FROM: OTHER_TOOLS.sub(lambda found: f"{found[1]}\n{other_keys_markdown()}\n{found[2]}", guide),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
