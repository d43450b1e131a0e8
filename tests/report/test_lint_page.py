"""The page of the data checks: it has what was found, escaped, and asks the network for nothing."""

from __future__ import annotations

from tunelab.linting.finding import Finding, ShownRow
from tunelab.linting.lint import Histogram, Lint
from tunelab.report.lint_page import lint_page


def test_it_shows_lengths_findings_and_examples() -> None:
    examples = (ShownRow("rows.jsonl row 7", "<script>alert(1)</script>"),)
    finding = Finding("no-end-token", "error", "no answer ends", 1200, "it never stops", "add the token", examples)
    histogram = Histogram("answers", "tokens", (1.0, 10.0, 101.0), (40, 2))
    page = lint_page(
        Lint({"training": 1200}, (finding,), ("near-duplicates were not looked for",), (histogram,)), "A & B"
    )
    assert "<h1>A &amp; B</h1>" in page and "<title>A &amp; B</title>" in page
    assert "Data checks: 1 error in 1,200 rows." in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script>alert" not in page
    for text in ("No answer ends.", "Why it matters: it never stops.", "Remedy: add the token.", "1 of 1,200"):
        assert text in page
    assert 'aria-label="Length of answers: 42 rows, 1 to 100 tokens."' in page and page.count("<svg") == 1
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_nothing_found_is_said() -> None:
    page = lint_page(Lint({"training": 3}, ()), "rows.jsonl")
    assert "Data checks: nothing found in 3 rows." in page and "Nothing was found." in page and "Lengths" not in page
