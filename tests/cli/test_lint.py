"""`tunelab lint`: what it says of a recipe and of a file, and that `prepare` and `train` say it too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from verbs import Bench, Command

from tunelab.data.prepared import cache_directory
from tunelab.linting import lint as module

PLAIN = ["data.template=plain", "data.held_out=0"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    path = tmp_path / "doubled.jsonl"
    path.write_text('{"prompt": "Is it blue?", "completion": "Yes."}\n' * 2)
    return path


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """Rows of tokens without an end."""
    path = tmp_path / "endless.jsonl"
    rows = [{"input_ids": [60 + n, 61, 62], "completion_mask": [0, 1, 1]} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_finding_says_what_why_and_the_remedy_with_rows(tunelab: Command, bench: Bench, doubled: Path) -> None:
    said = tunelab("lint", "--model", bench.model, "--data", doubled, *PLAIN)
    assert said.code == 0
    assert said.out == (
        "warning: duplicates: 1 row with the same words as an earlier one of the same split\n"
        "  why: the model sees these rows more often than the others, and tends to repeat them word for word\n"
        "  remedy: remove them from the file\n"
        "  doubled.jsonl row 2: like doubled.jsonl row 1: Is it blue? → Yes.\n"
        "\n"
        "data checks: 1 warning in 2 rows\n"
    )
    assert "kept in " in said.err


def test_a_second_time_nothing_is_computed(
    tunelab: Command, bench: Bench, doubled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", bench.model, "--data", doubled, *PLAIN]
    first = tunelab("lint", *words)
    monkeypatch.setattr(module, "lint", lambda *given: pytest.fail("the checks ran again"))
    assert tunelab("lint", *words).out == first.out
    assert "data checks: 1 warning in 2 rows; `tunelab lint` shows examples:\n" in tunelab("prepare", *words).err


def test_a_damaged_result_is_computed_again(tunelab: Command, bench: Bench, doubled: Path) -> None:
    words = ["--model", bench.model, "--data", doubled, *PLAIN]
    first = tunelab("lint", *words)
    (kept,) = cache_directory().glob("*/lint.json")
    kept.write_text("{}")
    assert tunelab("lint", *words).out == first.out


def test_a_file_is_checked_without_a_model(tunelab: Command, doubled: Path) -> None:
    said = tunelab("lint", doubled)
    assert said.code == 0 and "duplicates" in said.out
    assert "tokens and template were not checked: no model is given" in said.err
    assert tunelab("lint", doubled, "--size", "1").code == 2, "flags need a recipe"


def test_a_file_with_a_model_is_its_data(tunelab: Command, bench: Bench, doubled: Path) -> None:
    said = tunelab("lint", doubled, "--model", bench.model, *PLAIN)
    assert "were not checked" not in said.err and "kept in " in said.err


def test_an_error_stops_prepare_and_train_unless_it_is_allowed(tunelab: Command, bench: Bench, endless: Path) -> None:
    words = ["--model", bench.model, "--data", endless, *PLAIN]
    assert tunelab("lint", *words).code == 1
    for verb in ("prepare", "train"):
        said = tunelab(verb, *words, *(["--out", "refused"] if verb == "train" else []))
        assert said.code == 1 and "no-end-token: no answer of 4 training rows ends with a stop token" in said.err
        assert "--allow no-end-token" in said.err
    assert tunelab("lint", *words, "--allow", "no-end-token").code == 0
    said = tunelab("train", *words, "--allow", "no-end-token", "--out", "run", "train.steps=1")
    assert said.code == 0 and "error, allowed: no answer of 4 training rows" in said.err
    checks = json.loads(Path("run/manifest.json").read_text())["data"]["checks"]
    assert checks["errors"] == {"no-end-token": 4} and checks["allowed"] == ["no-end-token"]
    assert json.loads(Path("run/lint.json").read_text())["findings"][0]["count"] == 4


def test_bad_rows_are_listed_and_do_not_stop_it(tunelab: Command, bench: Bench, doubled: Path) -> None:
    doubled.write_text(doubled.read_text() + '{"prompt": "a", "completion": ""}\n')
    said = tunelab("lint", "--model", bench.model, "--data", doubled, *PLAIN)
    assert "warning: bad-rows: 1 row that cannot be used" in said.out
    assert "  doubled.jsonl row 3: empty output: message 2 (assistant) has no text" in said.out


def test_a_page_is_written(tunelab: Command, bench: Bench, doubled: Path) -> None:
    said = tunelab("lint", "--model", bench.model, "--data", doubled, *PLAIN, "--html", "checks.html")
    assert "page: checks.html\n" in said.err
    page = Path("checks.html").read_text(encoding="utf-8")
    assert f"<h1>Is {doubled} what I think?</h1>" in page and "Length of answers" in page


def test_rows_of_a_benchmark_are_named(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    question = "Which of the following rivers is the longest one that flows through more than ten countries?"
    rows, items = tmp_path / "rows.jsonl", tmp_path / "mine.jsonl"
    rows.write_text(json.dumps({"prompt": question, "completion": "The Danube."}) + "\n")
    items.write_text(json.dumps({"id": "r1", "prompt": question, "answer": "Danube"}) + "\n")
    said = tunelab("lint", "--model", bench.model, "--data", rows, *PLAIN, "--benchmarks", items)
    assert said.code == 0, said.err
    assert "benchmark-overlap: 1 training row with 13 words in a row of 1 item of mine" in said.out
    assert f"rows.jsonl row 1: mine r1: {question[:40]}" in said.out


def test_json(tunelab: Command, bench: Bench, doubled: Path) -> None:
    said = tunelab("lint", "--model", bench.model, "--data", doubled, *PLAIN, "--json")
    found = json.loads(said.out)
    assert set(found) == {"path", "allowed", "rows", "findings", "notes", "lengths"}
    assert found["rows"] == {"training": 2, "held-out": 0}
    assert found["findings"][0]["rows"] == ["doubled.jsonl row 2"] and Path(found["path"]).is_file()


def test_an_unknown_check_is_wrong_usage(tunelab: Command, bench: Bench) -> None:
    said = tunelab("lint", bench.recipe, "--allow", "typos")
    assert said.code == 2 and "'typos' cannot be allowed" in said.err and "no-end-token, doubled-bos" in said.err
    said = tunelab("inspect", bench.recipe, "--allow", "no-end-token")
    assert said.code == 2 and "--allow: nothing is checked" in said.err
