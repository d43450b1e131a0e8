"""Copy numbers from dated results into documents, so that each number has one source.

Usage: python scripts/quote_results.py [--check]     (--check: change nothing; exit code 1 if a document is out of date)

A page benchmarks/results/DATE-KIND.md marks what can be quoted, and a document says what it quotes. The newest page of
a kind counts. What is between a document's two markers is replaced, on one line or on several, and the document's links
to pages of that kind are set to the newest:

    <!-- block NAME --> ... <!-- end NAME -->            in the results
    <!-- quote KIND NAME --> ... <!-- end quote -->      in the document
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = re.compile(r"(\d{4}-\d\d-\d\d)-(.+)")
BLOCK = re.compile(r"<!-- block (\S+) -->(.*?)<!-- end \1 -->", re.DOTALL)
QUOTE = re.compile(r"(<!-- quote (\S+) (\S+) -->).*?(<!-- end quote -->)", re.DOTALL)

#: Kind -> the newest page's name, and its blocks by name.
Known = Mapping[str, tuple[str, dict[str, str]]]


def newest_blocks(results: Path) -> Known:
    """What can be quoted from a folder of results.

    Raises:
        ValueError: a page has two blocks of one name.
    """
    known: dict[str, tuple[str, dict[str, str]]] = {}
    for page in sorted(results.glob("*.md")):
        name = PAGE.fullmatch(page.stem)
        found = BLOCK.findall(page.read_text(encoding="utf-8"))
        if name is None or not found:
            continue
        if len(found) != len(dict(found)):
            raise ValueError(f"{page.name}: two blocks have one name")
        known[name[2]] = page.stem, dict(found)
    return known


def quoted(document: str, known: Known) -> str:
    """A document with every quote filled from its block, and its links to the quoted pages up to date.

    Raises:
        ValueError: a quote names a block that does not exist, or a quote is not closed.
    """
    kinds = set()

    def filled(match: re.Match[str]) -> str:
        opening, kind, name, closing = match.groups()
        if name not in known.get(kind, ("", {}))[1]:
            raise ValueError(f"no block {name!r} in benchmarks/results/*-{kind}.md")
        kinds.add(kind)
        return f"{opening}{known[kind][1][name]}{closing}"

    if document.count("<!-- quote ") != len(QUOTE.findall(document)):
        raise ValueError("a quote has no <!-- end quote -->")
    document = QUOTE.sub(filled, document)
    for kind in kinds:
        link = rf"benchmarks/results/\d{{4}}-\d\d-\d\d-{re.escape(kind)}\.md"
        document = re.sub(link, f"benchmarks/results/{known[kind][0]}.md", document)
    return document


def documents(repository: Path) -> Iterator[Path]:
    """Every page that may quote results."""
    yield repository / "README.md"
    yield from sorted((repository / "docs").rglob("*.md"))


def main(check: bool, repository: Path = REPOSITORY) -> int:
    """Fill all quotes, or name the documents that are out of date."""
    known = newest_blocks(repository / "benchmarks" / "results")
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
