"""Files are found under the names that are known, and a bad row stops with its file and number."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunelab.data.sources._source import text
from tunelab.errors import BadRow, DataError
from tunelab.evaluation.benchmark import Graded, Response
from tunelab.evaluation.benchmarks._rows import find_files, read_rows
from tunelab.evaluation.benchmarks._scores import cut_warnings, mean_score, truncated_warnings


def test_the_first_pattern_with_files_is_taken(tmp_path: Path) -> None:
    for name in ("b-1.parquet", "b-0.parquet", "c.json"):
        (tmp_path / name).touch()
    (tmp_path / "a.csv").mkdir()
    assert [path.name for path in find_files(tmp_path, ["a.csv", "b-*.parquet", "c.json"])] == [
        "b-0.parquet",
        "b-1.parquet",
    ]
    with pytest.raises(DataError, match=r"contains no a\.csv and no d\.json"):
        find_files(tmp_path, ["a.csv", "d.json"])
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_files(tmp_path / "nowhere", ["a.csv"])
    assert find_files(tmp_path / "c.json", ["a.csv", "c.json"]) == [tmp_path / "c.json"], "in place of its folder"
    with pytest.raises(DataError, match=r"c\.json: is a file, expected a folder, or a\.csv"):
        find_files(tmp_path / "c.json", ["a.csv"])


def test_rows_are_read_whole_or_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "one"}\n{"q": "two"}\n', encoding="utf-8")
    assert read_rows([path, path], lambda row: text(row, "q")) == ["one", "two", "one", "two"]
    path.write_text('{"q": "one"}\n{"q": 2}\n', encoding="utf-8")
    with pytest.raises(BadRow, match=r"a\.jsonl: row 2: column 'q' is a number, expected text"):
        read_rows([path], lambda row: text(row, "q"))
    path.write_text('{"q": "one"}\n{"q": \n', encoding="utf-8")
    with pytest.raises(BadRow, match=r"a\.jsonl: row 2: broken JSON") as caught:
        read_rows([path], lambda row: text(row, "q"))
    assert "fix it" in caught.value.hint
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl: no rows"):
        read_rows([path], lambda row: text(row, "q"))


def graded(*, cut: int, truncated: int, n: int = 20) -> list[Graded]:
    def response(place: int) -> Response:
        reason = ("length", "context")[place % 2] if place < cut else "stop"
        return Response(str(place), "", "q", None, stop_reason=reason, truncated_tokens=int(place < truncated))

    return [Graded(response(place), {}) for place in range(n)]


def test_cut_answers_and_truncated_prompts_are_told() -> None:
    assert cut_warnings(graded(cut=1, truncated=0)) == []
    assert "2 of 20 answers were cut" in cut_warnings(graded(cut=2, truncated=0))[0]
    assert truncated_warnings(graded(cut=0, truncated=0)) == []
    assert "1 of 20 prompts exceed the model's context" in truncated_warnings(graded(cut=0, truncated=1))[0]


def test_a_mean_has_the_error_of_the_mean() -> None:
    score = mean_score("share", [1.0, 0.0, 1.0, 1.0], {"a": 1}, higher_is_better=False)
    assert (score.value, score.n, score.unit, score.higher_is_better) == (0.75, 4, "0-1", False)
    # Deviations 0.25 three times and -0.75: sum of squares 0.75, over n (n - 1) = 12.
    assert score.error == pytest.approx((0.75 / 12) ** 0.5)
    assert mean_score("share", [1.0], {}).error is None
