"""Promise: what people read uses the field's words. docs/style.md lists phrases that we do not write; none occurs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "style.md").read_text(encoding="utf-8")


def forbidden(page: str, section: str) -> list[str]:
    """The phrases in backticks in the second column of a section's table."""
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [phrase for row in rows[2:] for phrase in re.findall(r"`([^`]+)`", row[1])]


def found(text: str, phrases: list[str]) -> list[str]:
    """The phrases that occur in a text, whatever its case and line breaks; "flat row" is not in "flat rows"."""
    flat = " ".join(text.split())
    folded = flat.casefold()  # finding is much faster than matching; few phrases are left to match
    near = [one for one in phrases if one.casefold() in folded]
    return [one for one in near if re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", flat, re.IGNORECASE)]


def strings(source: str) -> str:
    """Strings and docstrings of a Python source; the values in f-strings are left out."""
    constants = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return "\n".join(node.value for node in constants if isinstance(node.value, str))


def documents() -> Iterator[Path]:
    yield from (REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"))
    yield from sorted(path for path in (REPOSITORY / "docs").rglob("*.md") if path.name not in ("style.md", "log.md"))
    yield from sorted([*REPOSITORY.glob("recipes/*.yaml"), *REPOSITORY.glob("studies/*.yaml")])


SOURCES = sorted((REPOSITORY / "src" / "tunelab").rglob("*.py")) + sorted((REPOSITORY / "src").rglob("*.yaml"))
DOCUMENTS = list(documents())
#: Decisions tell what a name was before.
NAMED = [path for path in DOCUMENTS if path.parent.name != "decisions"]


def where(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def read(path: Path) -> str:
    """What a person reads of a file: its text, or a Python file's strings."""
    text = path.read_text(encoding="utf-8")
    return strings(text) if path.suffix == ".py" else text


def found_in(paths: Iterable[Path], section: str) -> dict[str, list[str]]:
    """The forbidden phrases of each file that has any, by its path in the repository."""
    phrases = forbidden(PAGE, section)
    return {where(path): said for path in paths if (said := found(read(path), phrases))}


def test_no_phrase_that_we_do_not_say() -> None:
    assert len(DOCUMENTS) > 50 and len(SOURCES) > 300
    assert found_in([*DOCUMENTS, *SOURCES], "Phrases") == {}


def test_no_old_name() -> None:
    assert len(NAMED) > 20
    assert found_in(NAMED, "Names") == {}


def test_the_page_is_read() -> None:
    phrases, names = forbidden(PAGE, "Phrases"), forbidden(PAGE, "Names")
    assert len(phrases) > 60 and {"flat row", "by commas", "wanted tokens"} <= set(phrases)
    assert len(names) > 20 and {"rows_per_step", "--but-for"} <= set(names)
    assert len(phrases) == len(set(phrases)) and len(names) == len(set(names))


def test_what_counts_as_found() -> None:
    assert found("A Flat\n  row is read.", ["flat row", "by commas"]) == ["flat row"]
    assert found("flat rows", ["flat row"]) == []
    assert found("use --but-for KEYS, not --but-forget", ["--but-for"]) == ["--but-for"]
    assert found("supervised", ["per"]) == []
    assert strings('"""Doc."""\nx = f"read {1} rows"  # by commas') == "Doc.\nread \n rows"
