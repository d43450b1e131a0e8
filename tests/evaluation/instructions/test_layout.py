"""detectable_content:* and detectable_format:*: marks that were put into a text are counted."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunelab.evaluation.instructions import layout

PLAIN = st.text("ab .\n", max_size=20)


def counted(check, text: str, name: str, highest: int = 40) -> list[int]:
    """All numbers below `highest` for which the check holds."""
    return [number for number in range(highest) if check(text, **{name: number})]


@given(PLAIN, st.integers(0, 5))
def test_placeholders_are_counted(filler: str, times: int) -> None:
    text = filler.join(["[name]"] * times)
    assert counted(layout.number_placeholders, text, "num_placeholders") == list(range(times + 1))


@given(st.text("[] a\n\r\u2028", max_size=40))
@example("[a\r]")
def test_placeholders_are_those_of_the_original_expression(text: str) -> None:
    number = len(re.findall(r"\[.*?\]", text))
    assert counted(layout.number_placeholders, text, "num_placeholders") == list(range(number + 1))


@given(st.text("*- a\n\t\r", max_size=40))
@example("*\n* a")
@example("*\n\n* a")
@example("- *\n*")
def test_bullets_are_those_of_the_original_expressions(text: str) -> None:
    stars = re.findall(r"^\s*\*[^\*].*$", text, flags=re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, flags=re.MULTILINE)
    assert counted(layout.number_bullet_lists, text, "num_bullets") == [len(stars) + len(dashes)]


@given(st.lists(st.sampled_from(["* one", "- two", "  * three"]), max_size=6), st.sampled_from(["Well:\n", "** no\n"]))
def test_bullets_that_were_put_in_are_counted_exactly(bullets: list[str], opening: str) -> None:
    assert counted(layout.number_bullet_lists, opening + "\n".join(bullets), "num_bullets") == [len(bullets)]


@pytest.mark.parametrize(
    ("text", "number"), [("*a* b *c*", 2), ("**a**", 1), ("** **", 0), ("*a\nb*", 0), ("***a***", 2), ("* *", 0)]
)
def test_highlights_are_counted(text: str, number: int) -> None:
    assert counted(layout.number_highlighted_sections, text, "num_highlights") == list(range(number + 1))


@given(st.integers(0, 5), st.sampled_from(["Section", "SECTION", "Day"]))
def test_sections_are_counted(times: int, word: str) -> None:
    text = "\n".join(f"{word} {place}\ntext" for place in range(times))
    number = [n for n in range(9) if layout.multiple_sections(text, section_spliter=f" {word} ", num_sections=n)]
    assert number == list(range(times + 1))
    assert not layout.multiple_sections(text.swapcase(), section_spliter=word, num_sections=1)


@given(PLAIN, PLAIN)
def test_postscripts_are_found(before: str, after: str) -> None:
    assert layout.postscript(f"{before}\nP.S. {after}", postscript_marker="P.S.")
    assert layout.postscript(f"{before}\np. s.{after}", postscript_marker=" P.S. ")
    assert layout.postscript(f"{before} P. P. S {after}", postscript_marker="P.P.S")
    assert layout.postscript(f"{before} Note: {after}", postscript_marker="NOTE")
    for marker in ("P.S.", "P.P.S", "Note"):
        assert not layout.postscript(before + after, postscript_marker=marker)


@given(PLAIN, st.sampled_from(["My answer is yes.", "My answer is no.", "My answer is maybe."]))
def test_one_of_three_answers(filler: str, answer: str) -> None:
    assert layout.constrained_response(filler + answer)
    assert not layout.constrained_response(filler + answer.lower())


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(JSON, st.sampled_from(["", "```", "```json\n", "```Json", "```JSON "]))
def test_json_bare_and_fenced(value: object, fence: str) -> None:
    text = fence + json.dumps(value) + "\n```" * bool(fence)
    assert layout.json_format(f"\n{text} ")
    assert not layout.json_format(f"Here it is: {text}")


def test_json_that_cannot_be_read_is_none() -> None:
    assert not layout.json_format("[" * 100_000)
    assert not layout.json_format("1" * 10_000)


@given(PLAIN)
def test_titles_stand_in_double_angular_brackets(filler: str) -> None:
    assert layout.title(f"{filler}<<poem of joy>>{filler}")
    assert not layout.title(f"{filler}<poem of joy>{filler}<<\n>><<  >>")


@pytest.mark.parametrize("text", ["[" * 20_000, "<" * 20_000, "\n" * 20_000, "*" * 20_000, "- " * 10_000])
def test_a_model_that_is_stuck_is_graded_in_time(text: str) -> None:
    began = time.process_time()
    layout.number_placeholders(text, num_placeholders=1)
    layout.number_bullet_lists(text, num_bullets=1)
    layout.number_highlighted_sections(text, num_highlights=1)
    layout.title(text)
    assert time.process_time() - began < 2
