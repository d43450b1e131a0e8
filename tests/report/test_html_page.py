"""The page: one file, escaped, under its size, with every part that the report has."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_reports import example_flips, example_page, example_report, without_plots

from tunelab.errors import DataError
from tunelab.report.content import Arm, Flip, StudyReport
from tunelab.report.data_checks_content import DataChecks
from tunelab.report.html_page import PAGE_BYTES, html_page

REPORT = example_report()
VOID = {"meta", "link", "input", "br"}


class Outline(HTMLParser):
    """Checks that tags are nested; collects ids, links to parts, and what a browser would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.loads: list[str] = []
        self.scripts = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.scripts += tag == "script"
        self.loads += [f"{name}={values[name]}" for name in ("src", "srcset", "data", "action") if values.get(name)]
        self.loads += [f"event {name}" for name in values if name.startswith("on")]
        if (link := values.get("href")) is not None:
            (self.anchors if link.startswith("#") else self.loads).append(link)
        if "id" in values:
            self.ids.append(values["id"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    outline = Outline(example_page())
    assert outline.open == [] and outline.scripts == 1
    assert outline.loads == ["data:,"]
    assert len(outline.ids) == len(set(outline.ids))
    assert {anchor[1:] for anchor in outline.anchors} <= set(outline.ids)
    assert "default-src 'none'" in example_page()
    assert set(re.findall(r"url\(#([^)]*)\)", example_page())) <= set(outline.ids)
    assert not re.search(r"url\((?!#)|@import|https?://", example_page())


def test_what_the_data_checks_found_has_a_section() -> None:
    section = example_page().partition('<section id="data-checks"')[2].partition("</section>")[0]
    assert section.count("<article") == 3 and "(52,002 rows each): 3 findings." in section
    assert '<span class="tag worse">error, allowed</span>' in section
    assert '<span class="tag ">warning, qlora r128 nf4, seed 1</span>' in section
    for text in ("Why it matters: scores measure memory", "alpaca_gpt4_data.json row 7", "Which of &lt;these&gt;"):
        assert text in section
    report = dataclasses.replace(without_plots(example_report(1)), data_checks=DataChecks(("No findings.",)))
    assert "No findings." in (page := html_page(report)) and page.count("<article") == len(report.questions)
    assert 'id="data-checks"' not in html_page(dataclasses.replace(report, data_checks=None))


def test_it_opens_with_the_answers() -> None:
    order = [
        example_page().index(f'<section id="{name}"') for name in ("answers", "arms", "comparisons", "plots", "flips")
    ]
    order += [example_page().index(f'<section id="{name}"') for name in ("caveats", "provenance")]
    assert order == sorted(order)
    assert '<span class="tag no-difference-shown">no difference shown</span>' in example_page()
    assert "LoRA follows 28.7\u00a0% of IFEval&#39;s prompts" in example_page()


def test_no_line_ends_within_a_p_value() -> None:
    answer = "lora is worse than full (p < 0.001; p = 0.009 after Holm), as stop < 3 is not"
    asked = dataclasses.replace(REPORT.questions[0], answer=answer)
    page = html_page(dataclasses.replace(without_plots(REPORT), questions=(asked,)))
    assert "(p\u00a0&lt;\u00a00.001; p\u00a0=\u00a00.009 after Holm), as stop &lt; 3 is not" in page


def test_tables_say_what_they_are() -> None:
    assert re.search(
        r'<th scope="col" role="columnheader" class="number first">mmlu<span class="unit">', example_page()
    )
    assert re.search(
        r'<th scope="row" role="rowheader"><span class="value"><span class="main">base bf16<', example_page()
    )
    assert 'data-label="Peak memory"' in example_page()
    assert '<tr role="row" class="failed">' in example_page()
    assert "−0.0009 to +0.0143" in example_page() and "arXiv:2511.04214" in example_page()
    two = dataclasses.replace(REPORT, scores=tuple(one for one in REPORT.scores if one.benchmark in ("mmlu", "ifeval")))
    assert '<th scope="colgroup" colspan="2" role="columnheader" class="group">Quality</th>' in html_page(two)
    assert 'scope="colgroup"' not in example_page()


def test_failures_and_caveats_are_shown() -> None:
    caveats = example_page()[
        example_page().index('<section id="caveats"') : example_page().index('<section id="provenance"')
    ]
    assert "full bf16 failed and has no result: CUDA out of memory" in caveats
    assert "Two seeds an arm" in caveats and "train.batch_size" in caveats


EVIL = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>\"' & \x00\ud800"


WORDS_OF_OURS = {"done", "failed", "missing", "gained", "lost", "better", "worse", "no difference shown", "unknown"}
WORDS_OF_OURS |= {"error", "warning"}


def poisoned(value: Any, key: str = "") -> Any:
    """A stored report with the hostile text before every text and every free key."""
    if isinstance(value, dict):
        prefix = EVIL if key in ("provenance", "section", "values") else ""
        return {prefix + name: poisoned(one, "section" if key == "provenance" else name) for name, one in value.items()}
    if isinstance(value, list):
        return [poisoned(one, key) for one in value]
    return EVIL + value if isinstance(value, str) and value not in WORDS_OF_OURS else value


class Reader(HTMLParser):
    """Collects the texts by their tags, and the benchmark of a flip, which stands in an attribute."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.benchmark: str | None = None
        self.tag = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tag = tag
        self.benchmark = dict(attrs).get("data-benchmark", self.benchmark)

    def handle_data(self, data: str) -> None:
        self.texts[self.tag] = self.texts.get(self.tag, "") + data

    def handle_endtag(self, tag: str) -> None:
        self.tag = ""


@settings(deadline=None)  # the first example compiles the templates
@given(
    st.text(
        st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff") | st.sampled_from("<&\"'/\n"),
        min_size=1,
    )
)
def test_any_text_comes_back_from_the_page(text: str) -> None:
    one = dataclasses.replace(flip(0, 0), benchmark=text, question=f"({text})", text_a="", text_b="", target="")
    reader = Reader(html_page(StudyReport(text, "c", arms=ARMS, flips=(one,))))
    assert reader.texts["h1"] == reader.texts["title"] == text
    assert reader.texts["pre"] == f"({text})" and reader.benchmark == text


def test_texts_never_act_as_markup() -> None:
    page = html_page(StudyReport.from_json(poisoned(example_report(4).to_json())))
    outline = Outline(page)
    assert outline.scripts == 1 and outline.loads == ["data:,"] and outline.open == []
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(1)") > 50
    page.encode("utf-8")


def flip(place: int, size: int, **changes: str) -> Flip:
    values = {"a": "a", "b": "b", "benchmark": "mmlu", "item": str(place), "kind": "gained", "question": "q" * size}
    return Flip(**{**values, "text_a": "", "text_b": "x", "target": "t", **changes})  # type: ignore[arg-type]


ARMS = (Arm("a", "m", "none", "none", ""), Arm("b", "m", "none", "none", ""))


def shown_items(page: str) -> list[str]:
    return re.findall(r'class="item">[^<]* · (\w+)<', page)


def test_flips_are_cut_to_what_fits_and_counted() -> None:
    flips = tuple(flip(place, 1000) for place in range(200))
    report = StudyReport("t", "c", arms=ARMS, flips=flips, flips_left_out=7)
    page = html_page(report, most_bytes=150_000)
    kept = shown_items(page)
    assert len(page.encode()) < 150_000 and 50 < len(kept) < 150
    assert f"{len(kept)} items that only one of the two arms answered right" in page
    assert f"{200 - len(kept) + 7} more are left out" in page
    assert len(html_page(report, most_bytes=150_000).encode()) > 147_000


def test_flips_are_cut_in_turns_over_benchmarks_and_kinds() -> None:
    mmlu = [flip(place, 2000) for place in range(100)]
    others = [flip(900, 2000, benchmark="ifeval"), flip(901, 2000, kind="lost"), flip(902, 2000, b="a", a="b")]
    page = html_page(StudyReport("t", "c", arms=ARMS, flips=(*mmlu, *others)), most_bytes=120_000)
    kept = shown_items(page)
    assert kept[-3:] == ["900", "901", "902"]
    assert kept[:-3] == [str(place) for place in range(len(kept) - 3)]


def test_a_flip_that_is_too_large_does_not_keep_the_others_out() -> None:
    flips = (flip(0, 3_000_000), flip(1, 10))
    page = html_page(StudyReport("t", "c", arms=ARMS, flips=flips))
    assert shown_items(page) == ["1"] and "1 more are left out" in page


def test_the_real_limit_holds() -> None:
    report = dataclasses.replace(REPORT, flips=example_flips(4000), flips_left_out=0)
    page = html_page(report)
    assert 0.98 * PAGE_BYTES < len(page.encode()) < PAGE_BYTES


def test_a_report_that_is_too_large_without_flips_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"the page needs [\d,]+ bytes without flips, more than 50,000: answers"
    ) as caught:
        html_page(REPORT, most_bytes=50_000)
    assert "shorter provenance" in caught.value.hint


def test_long_provenance_is_cut_and_says_so() -> None:
    page = html_page(StudyReport("t", "c", provenance={"recipe": {"text": "y" * 25_000}}))
    assert "y" * 20_000 in page and "y" * 20_001 not in page
    assert "… 5,000 more characters are in the stored report" in page


def test_an_empty_report_is_a_page_too() -> None:
    page = html_page(StudyReport("Nothing yet", "today"))
    assert Outline(page).open == []
    assert "<h1>Nothing yet</h1>" in page and "has no questions" in page
    assert re.findall(r"<section id=\"([\w-]+)", page) == ["answers"]
