"""Promise: a measured number has one source. Documents quote dated results, and the quotes are up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from scripts import quote_results  # noqa: E402

KNOWN = {("2026-01-02-demo", "time"): "3 s", ("2026-01-02-demo", "table"): "\n```\na  1\n```\n"}


def test_documents_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert quote_results.main(check=True) == 0, capsys.readouterr().out + "run python scripts/quote_results.py"


def test_the_demos_numbers_are_quoted() -> None:
    for name, least in {"README.md": 3, "docs/guides/did-it-help.md": 3}.items():
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert text.count("<!-- quote 2026-11-21-demo ") >= least, name


def test_quotes_are_filled_on_one_line_and_on_several() -> None:
    document = (
        "took <!-- quote 2026-01-02-demo time -->9 s<!-- end quote -->.\n"
        "<!-- quote 2026-01-02-demo table -->\n<!-- end quote -->\n"
    )
    filled = quote_results.quoted(document, KNOWN)
    assert "took <!-- quote 2026-01-02-demo time -->3 s<!-- end quote -->.\n" in filled
    assert "demo table -->\n```\na  1\n```\n<!-- end quote -->\n" in filled
    assert quote_results.quoted(filled, KNOWN) == filled


def test_a_quote_without_a_block_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no block 'speed' in benchmarks/results/2026-01-02-demo\.md"):
        quote_results.quoted("<!-- quote 2026-01-02-demo speed --><!-- end quote -->", KNOWN)
    with pytest.raises(ValueError, match="a quote has no <!-- end quote -->"):
        quote_results.quoted("<!-- quote 2026-01-02-demo time --> 3 s", KNOWN)


def test_check_names_what_is_out_of_date_and_a_run_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "2026-01-02-demo.md").write_text("<!-- block time -->3 s<!-- end time -->\n", encoding="utf-8")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- quote 2026-01-02-demo time --><!-- end quote -->\n", encoding="utf-8")
    assert quote_results.main(check=True, repository=tmp_path) == 1
    assert capsys.readouterr().out == "out of date: README.md\n"
    assert quote_results.main(check=False, repository=tmp_path) == 0
    assert quote_results.main(check=True, repository=tmp_path) == 0
    assert "-->3 s<!--" in readme.read_text(encoding="utf-8")
    (results / "2026-01-02-demo.md").write_text("<!-- block a -->1<!-- end a --><!-- block a -->2<!-- end a -->")
    with pytest.raises(ValueError, match=r"2026-01-02-demo\.md: two blocks are named 'a'"):
        quote_results.main(check=True, repository=tmp_path)
