"""Numbers that people read are formatted in one place, tunelab.units: the same fact has the same digits everywhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tunelab"
ROOMS = ("answering", "cli", "comparison", "evaluation", "report", "scoring", "studies", "training")


def formats_a_float(node: ast.AST) -> bool:
    """Whether it is {value:SPEC} in an f-string with a SPEC for floats, such as .3f, +.2e or .0%."""
    if not isinstance(node, ast.FormattedValue) or not isinstance(node.format_spec, ast.JoinedStr):
        return False
    last = node.format_spec.values[-1]
    return isinstance(last, ast.Constant) and str(last.value)[-1:] in tuple("eEfFgG%")


@pytest.mark.parametrize("room", ROOMS)
def test_no_float_is_formatted_by_hand(room: str) -> None:
    by_hand = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in sorted((SOURCE / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if formats_a_float(node)
    ]
    assert not by_hand, f"format these with tunelab.units (format_number, format_with_error, ...): {by_hand}"


@pytest.mark.parametrize(
    ("code", "found"), [('f"{x:.3f}"', 1), ('f"{x:+.{n}f}"', 1), ('f"{x:,}"', 0), ('f"{x:>9}"', 0)]
)
def test_the_search_finds_them(code: str, found: int) -> None:
    assert sum(map(formats_a_float, ast.walk(ast.parse(code)))) == found
