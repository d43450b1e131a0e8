"""Promise: a link in a document leads to a file that exists, and a heading that it names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "benchmarks").rglob("*.md")]


def links(page: str) -> list[str]:
    """Relative targets of Markdown links and images outside code."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page, flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"[a-z]+:", target)]


def anchors(page: str) -> set[str]:
    """GitHub's names of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(path: Path) -> Iterator[str]:
    for link in links(path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            yield link


def test_links_lead_somewhere() -> None:
    assert len(PAGES) > 50
    found = {str(path.relative_to(REPOSITORY)): list(broken(path)) for path in PAGES}
    assert {page: links for page, links in found.items() if links} == {}


def test_what_counts_as_broken(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# On `it`: a test\n[a](gone.md) [b](#on-it-a-test) [c](#none) [d](https://x.y) `[e](no.md)`\n")
    assert list(broken(page)) == ["gone.md", "#none"]
