"""Markup that a text must contain: the instructions detectable_content:* and detectable_format:*."""

from __future__ import annotations

import json
import re

from tunelab.evaluation.instructions.keywords import pattern

_HIGHLIGHT = re.compile(r"\*[^\n*]*\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*[^\n*]*\*\*")
_TITLE = re.compile(r"<<[^\n]+>>")
_POSTSCRIPTS = {"P.P.S": re.compile(r"p\.\s?p\.\s?s"), "P.S.": re.compile(r"p\.\s?s\.")}
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_FENCES = ("```json", "```Json", "```JSON", "```")


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    """At least `num_placeholders` placeholders in square brackets, each on one line."""
    # Every "]" closes a placeholder if its line has a "[" since the last "]": the same count as \[.*?\], but in
    # linear instead of quadratic time (for a model that is stuck on "[").
    closed = (part for line in text.split("\n") for part in line.split("]")[:-1])
    return sum("[" in part for part in closed) >= num_placeholders


def postscript(text: str, *, postscript_marker: str) -> bool:
    """The postscript marker occurs anywhere; "P.S." and "P.P.S" may have spaces after the periods."""
    marker = postscript_marker.strip()
    expression = _POSTSCRIPTS.get(marker) or pattern(marker.lower(), flags=0)
    return expression.search(text.lower()) is not None


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    """Exactly `num_bullets` lines that start with "-", or with one "*" followed by other text.

    As in the original, a lone "*" on a line swallows the next line: both are one bullet.
    """
    lines = [line.lstrip() for line in text.split("\n")]
    bullets = sum(line.startswith("-") for line in lines)
    swallowed = False
    for place, line in enumerate(lines):
        if swallowed:
            swallowed = False
        elif line == "*":
            swallowed = place + 1 < len(lines)
            bullets += swallowed
        elif line.startswith("*") and line[1] != "*":
            bullets += 1
    return bullets == num_bullets


def constrained_response(text: str) -> bool:
    """The text contains one of the three allowed answers (yes, no, maybe), case-sensitive."""
    return any(answer in text for answer in _ANSWERS)


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """At least `num_highlights` non-empty *highlights* or **highlights**, each on one line."""
    single = sum(bool(found.strip("*").strip()) for found in _HIGHLIGHT.findall(text))
    double = sum(bool(found[2:-2].strip()) for found in _DOUBLE_HIGHLIGHT.findall(text))
    return single + double >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least `num_sections` headings such as "SECTION 1", case-sensitive."""
    heading = pattern(rf"\s?{section_spliter.strip()}\s?\d+\s?", flags=0)
    return sum(1 for _ in heading.finditer(text)) >= num_sections


def json_format(text: str) -> bool:
    """The whole text is JSON, with or without a Markdown fence."""
    text = text.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):  # RecursionError: thousands of nested brackets, as from a model stuck on "["
        return False
    return True


def title(text: str) -> bool:
    """A title in <<double angle brackets>>, not empty and on one line."""
    return any(found.lstrip("<").rstrip(">").strip() for found in _TITLE.findall(text))
