"""Markup: data can never act as markup."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from tunelab.report.markup import Markup, element, escape, join, number


def test_elements() -> None:
    assert element("p", "a < b", element("b", "c"), class_="x y", data_kind='"') == (
        '<p class="x y" data-kind="&quot;">a &lt; b<b>c</b></p>'
    )
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert element("div", hidden="", id=None) == '<div hidden=""></div>'
    assert element("circle", cx=1.005, cy=-0.001, r=5, stroke_width=2.5) == (
        '<circle cx="1" cy="0" r="5" stroke-width="2.5"></circle>'
    )
    assert join("<", Markup("<br>"), between=" & ") == "&lt; &amp; <br>"


def test_numbers_are_short() -> None:
    assert [number(value) for value in (10, 100.0, 0.126, -0.004, -2.5)] == ["10", "100", "0.13", "0", "-2.5"]


def test_what_cannot_be_shown_is_replaced() -> None:
    assert escape("a\x00b\x1b\ud800\uffff\n\tc") == "a\ufffdb\ufffd\ufffd\ufffd\n\tc"


class Reader(HTMLParser):
    """Collects the tags and the text of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.title: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.title = dict(attrs)["title"]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(
    st.text(
        st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff") | st.sampled_from("<&\"'/\n")
    )
)
def test_any_text_comes_back_from_html_and_xml(text: str) -> None:
    whole = element("p", text, title=text)
    reader = Reader()
    reader.feed(whole)
    reader.close()
    assert (reader.text, reader.title) == (text, text)
    assert (ElementTree.fromstring(whole).text or "") == text
