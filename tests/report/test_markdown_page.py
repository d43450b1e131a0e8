"""The report as Markdown: tables that stay tables, texts that stay texts."""

from __future__ import annotations

import dataclasses

import pytest
from study_reports import example_report

from tunelab.report.content import StudyReport
from tunelab.report.markdown_page import markdown_page

REPORT = example_report()
PAGE = markdown_page(REPORT)


def test_parts_stand_in_order() -> None:
    headings = [line for line in PAGE.splitlines() if line.startswith(("# ", "## "))]
    assert headings == [
        "# Does QLoRA on Alpaca-GPT4 cost quality on Llama-2-7B?",
        *("## Quality", "## Cost", "## Comparisons", "## Published and measured", "## All scores", "## Flips"),
        *("## Data checks", "## Caveats", "## Differences between arms", "## Provenance"),
    ]
    assert PAGE.index("**Does fine-tuning help?** Yes on instructions") < PAGE.index("## Quality")


def test_tables_have_equal_rows() -> None:
    lines = PAGE.splitlines()
    start = lines.index("## Quality") + 4
    table = lines[start : start + 7]
    assert table[0].startswith("| Arm | mmlu<br>accuracy, 0-1 ↑ |")
    assert table[1] == "|---|---:|---:|---:|---:|---:|---:|"
    assert table[4].startswith(
        "| lora r128 bf16<br>meta-llama/Llama-2-7b-hf · lora · alpaca-gpt4 "
        "| 0.4194 ± 0.0042<br>SE across 2 seeds: 0.0021<br>published 0.45 |"
    )
    assert {line.count(" | ") for line in (table[0], *table[2:])} == {6}


def test_flips_are_few_and_the_others_counted() -> None:
    assert PAGE.count("\n### Gained") + PAGE.count("\n### Lost") == 20
    assert "1,236 more flips are left out here." in PAGE
    assert "more flips" not in markdown_page(dataclasses.replace(REPORT, flips_left_out=0), most_flips=60)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<script>", r"\<script\>"),
        ("*a* _b_ snake_case `c` [d](e) $f$", r"\*a\* \_b\_ snake_case \`c\` \[d\](e) \$f\$"),
        ("two\nlines", "two lines"),
        ("# no heading", r"\# no heading"),
        ("- no list", r"\- no list"),
        ("1. no list", r"1\. no list"),
        ("-0.5 is a number, 1.5 too", "-0.5 is a number, 1.5 too"),
    ],
)
def test_texts_stay_texts(text: str, shown: str) -> None:
    page = markdown_page(StudyReport("t", "c", not_proved=(text,)))
    assert f"\n- {shown}\n" in page


def test_fences_are_longer_than_what_they_hold() -> None:
    report = example_report(1)
    flip = dataclasses.replace(report.flips[0], text_a="```python\nx\n```", text_b="````")
    page = markdown_page(dataclasses.replace(report, flips=(flip,)))
    assert "````text\n```python\nx\n```\n````\n" in page
    assert "`````text\n````\n`````\n" in page


def test_provenance_keeps_lines() -> None:
    assert "- torch: 2.13.0\n" in PAGE
    assert "resolved:\n\n```text\nmodel:\n  name: meta-llama" in PAGE


def test_an_empty_report_is_a_page_too() -> None:
    assert markdown_page(StudyReport("Nothing", "today")) == "# Nothing\n\ntoday\n"
