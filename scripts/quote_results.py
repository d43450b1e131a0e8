"""Copy numbers from dated results into documents, so that each number has one source.

Usage: python scripts/quote_results.py [--check]     (--check: change nothing; exit code 1 if a document is out of date)

A page of benchmarks/results marks what can be quoted, and a document says what it quotes (RESULT is the page's name
without .md). What is between a document's two markers is replaced, on one line or on several:

    <!-- block NAME --> ... <!-- end NAME -->              in the results
    <!-- quote RESULT NAME --> ... <!-- end quote -->      in the document
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- block (\S+) -->(.*?)<!-- end \1 -->", re.DOTALL)
QUOTE = re.compile(r"(<!-- quote (\S+) (\S+) -->).*?(<!-- end quote -->)", re.DOTALL)


def blocks(results: Path) -> dict[tuple[str, str], str]:
    """(page, name) -> text of every block in a folder of results.

    Raises:
        ValueError: a page has two blocks of one name.
    """
    found: dict[tuple[str, str], str] = {}
    for page in sorted(results.glob("*.md")):
        for name, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if (page.stem, name) in found:
                raise ValueError(f"{page.name}: two blocks are named {name!r}")
            found[page.stem, name] = text
    return found


def quoted(document: str, known: dict[tuple[str, str], str]) -> str:
    """A document with every quote filled from its block.

    Raises:
        ValueError: a quote names a block that does not exist, or a quote is not closed.
    """

    def filled(match: re.Match[str]) -> str:
        opening, page, name, closing = match.groups()
        if (page, name) not in known:
            raise ValueError(f"no block {name!r} in benchmarks/results/{page}.md")
        return f"{opening}{known[page, name]}{closing}"

    if document.count("<!-- quote ") != len(QUOTE.findall(document)):
        raise ValueError("a quote has no <!-- end quote -->")
    return QUOTE.sub(filled, document)


def documents(repository: Path) -> Iterator[Path]:
    """Every page that may quote results."""
    yield repository / "README.md"
    yield from sorted((repository / "docs").rglob("*.md"))


def main(check: bool, repository: Path = REPOSITORY) -> int:
    """Fill all quotes, or name the documents that are out of date."""
    known = blocks(repository / "benchmarks" / "results")
    stale = []
    for path in documents(repository):
        text = path.read_text(encoding="utf-8")
        if (new := quoted(text, known)) != text:
            stale.append(str(path.relative_to(repository)))
            if not check:
                path.write_text(new, encoding="utf-8")
    for name in stale:
        print(f"{'out of date' if check else 'updated'}: {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
