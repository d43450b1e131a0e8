"""Promise: a measured number has one source. Documents quote the newest dated results and are up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from scripts import quote_results, record_demo, record_study  # noqa: E402

KNOWN = {"demo": ("2026-01-02-demo", {"time": "3 s", "table": "\n```\na  1\n```\n"})}


def test_documents_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert quote_results.main(check=True) == 0, capsys.readouterr().out + "run python scripts/quote_results.py"


def test_the_demos_numbers_are_quoted() -> None:
    for name in ("README.md", "docs/guides/did-it-help.md"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert text.count("<!-- quote demo ") >= 3, name


def test_quotes_are_filled_on_one_line_and_on_several() -> None:
    document = (
        "took <!-- quote demo time -->9 s<!-- end quote --> ([all](benchmarks/results/2025-09-09-demo.md)).\n"
        "<!-- quote demo table -->\n<!-- end quote -->\nbenchmarks/results/2025-09-09-speed.md\n"
    )
    filled = quote_results.quoted(document, KNOWN)
    assert "took <!-- quote demo time -->3 s<!-- end quote --> ([all](benchmarks/results/2026-01-02-demo.md))" in filled
    assert "demo table -->\n```\na  1\n```\n<!-- end quote -->\n" in filled
    assert "benchmarks/results/2025-09-09-speed.md" in filled, "only links to what is quoted follow"
    assert quote_results.quoted(filled, KNOWN) == filled


def test_a_quote_without_a_block_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no block 'speed' in benchmarks/results/\*-demo\.md"):
        quote_results.quoted("<!-- quote demo speed --><!-- end quote -->", KNOWN)
    with pytest.raises(ValueError, match=r"no block 'time' in benchmarks/results/\*-other\.md"):
        quote_results.quoted("<!-- quote other time --><!-- end quote -->", KNOWN)
    with pytest.raises(ValueError, match="a quote has no <!-- end quote -->"):
        quote_results.quoted("<!-- quote demo time --> 3 s", KNOWN)


def test_check_names_what_is_out_of_date_and_a_run_fixes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "2026-01-02-demo.md").write_text("<!-- block time -->3 s<!-- end time -->\n", encoding="utf-8")
    (results / "2026-01-01-demo.md").write_text("<!-- block time -->8 s<!-- end time -->\n", encoding="utf-8")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- quote demo time --><!-- end quote -->\n", encoding="utf-8")
    assert quote_results.main(check=True, repository=tmp_path) == 1
    assert capsys.readouterr().out == "out of date: README.md\n"
    assert quote_results.main(check=False, repository=tmp_path) == 0
    assert quote_results.main(check=True, repository=tmp_path) == 0
    assert "-->3 s<!--" in readme.read_text(encoding="utf-8")
    (results / "2026-01-02-demo.md").write_text("<!-- block a -->1<!-- end a --><!-- block a -->2<!-- end a -->")
    with pytest.raises(ValueError, match=r"2026-01-02-demo\.md: two blocks have one name"):
        quote_results.main(check=True, repository=tmp_path)


def test_what_the_demo_prints_is_taken_apart() -> None:
    printed = "Does it? Yes.\nAnd this?\n  No.\n\nQuality\nArm  bleu\nbase    1\n\nCost\nArm  time\nbase  3 s"
    assert record_demo.sections(printed) == {
        "answers": "Does it? Yes.\nAnd this?\n  No.",
        "quality": "Arm  bleu\nbase    1",
        "cost": "Arm  time\nbase  3 s",
    }
    report = (
        "### full, seed 0\n\n- run: runs/a\n\n### lora, seed 0\n\n- run: runs/b\n\n### lora, seed 1\n\n- run: runs/c\n"
    )
    assert [record_demo.run_of(report, "lora", seed) for seed in (0, 1)] == ["runs/b", "runs/c"]
    with pytest.raises(RuntimeError, match=r"report\.md names no run of nf4 with seed 0"):
        record_demo.run_of(report, "nf4")


def test_long_sentences_are_wrapped_and_tables_are_not() -> None:
    table, sentence = "a   b\n1   2", "word " * 40 + "end"
    assert record_demo.fenced(table) == f"\n```\n{table}\n```\n"
    wrapped = record_demo.fenced(sentence)
    assert max(map(len, wrapped.splitlines())) <= record_demo.WIDTH and " ".join(wrapped.split()[1:-1]) == sentence


def test_a_command_that_fails_ends_the_recording(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="tunelab report missing: exit code"):
        record_demo.tunelab(tmp_path, "report", "missing")


def test_the_record_of_a_study_has_its_answers_and_no_list_of_items() -> None:
    report = (
        "**Small scale.**\n\n# LoRA or not\n\n2026-11-30 15:18 UTC\n\n**Is it better?** Not known.\n\n"
        "## Quality\n\n| Arm |\n\n## Flips\n\nitem 1\n\n## Caveats\n\n- one\n"
    )
    here = {"date": "2026-12-01", "processor": "CPU", "cores": 2, "python": "3.11", "libraries": {"torch": "2"}}
    page = record_study.page(report, "tunelab study run x", "One core was busy.", here)
    assert page == (
        "# LoRA or not, 2026-12-01\n\nCPU, 2 cores; python 3.11, torch 2. One core was busy.\n"
        "The sections below are those of the study's report.\n\n```\ntunelab study run x\n```\n\n## Answers\n\n"
        "<!-- block answers -->\n**Small scale.**\n\n**Is it better?** Not known.\n<!-- end answers -->\n\n"
        "## Quality\n\n<!-- block quality -->\n| Arm |\n<!-- end quality -->\n\n## Caveats\n\n- one\n"
    )
    with pytest.raises(ValueError, match=r"report\.md has no title: not the report of a study"):
        record_study.report_sections("no report")
