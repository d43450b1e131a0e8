"""Win rates are the mean preference over instructions, and errors say what a directory of annotations lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunelab.errors import BadRow, DataError
from tunelab.evaluation.win_rate import win_rate

HEADER = ",win_rate,standard_error,n_total,mode,avg_length,length_controlled_winrate,lc_standard_error\n"


def annotation(instruction: str, preference: Any, **other: Any) -> dict[str, Any]:
    return {
        "dataset": "helpful_base",
        "instruction": instruction,
        "output_1": "a",
        "generator_1": "baseline",
        "output_2": "b",
        "generator_2": "mine",
        "annotator": "judge",
        "preference": preference,
        **other,
    }


def write(folder: Path, *rows: dict[str, Any], leaderboard: str = "") -> Path:
    (folder / "annotations.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    if leaderboard:
        (folder / "leaderboard.csv").write_text(HEADER + leaderboard, encoding="utf-8")
    return folder


ROWS = [annotation("a", 2), annotation("b", 1.0), annotation("c", 1.5), annotation("d", 1.7), annotation("e", None)]


def test_the_win_rate_is_the_mean_preference(tmp_path: Path) -> None:
    scored = win_rate(write(tmp_path, *ROWS))
    score = scored.scores[0]
    assert (score.name, score.value, score.n, score.unit) == ("win_rate", pytest.approx(55.0), 4, "0-100")
    # 100, 0, 50, 70: deviations 45, -55, -5, 15, sum of squares 5300, over n (n - 1) = 12.
    assert score.error == pytest.approx((5300 / 12) ** 0.5)
    assert score.protocol["baseline"] == ["baseline"] and score.protocol["annotators"] == ["judge"]
    assert scored.facts == {"model": "mine", "instructions": 4, "wins": 2, "losses": 1, "ties": 1, "missing": 1}
    assert scored.warnings[0] == "1 of 5 rows have no preference: the win rate is over the others"
    assert "no length-controlled win rate: " in scored.warnings[1] and "does not exist" in scored.warnings[1]


def test_an_old_files_zero_is_a_draw(tmp_path: Path) -> None:
    scored = win_rate(write(tmp_path, annotation("a", 0), annotation("b", 2)))
    assert scored.scores[0].value == 75.0 and scored.facts["ties"] == 1


def test_two_judges_of_one_instruction_are_one_cluster(tmp_path: Path) -> None:
    rows = [
        annotation(name, preference, annotator=judge) for name, preference in (("a", 2), ("b", 1)) for judge in "xy"
    ]
    score = win_rate(write(tmp_path, *rows)).scores[0]
    assert score.error == pytest.approx(50.0), "the error of two instructions, not of four rows"
    assert score.protocol["annotators"] == ["x", "y"]


def test_the_leaderboards_length_controlled_win_rate(tmp_path: Path) -> None:
    leaderboard = "other,1,1,805,community,9,1,1\nmine,55.0,21.0,4,community,1234,48.25,3.5\n"
    scored = win_rate(write(tmp_path, *ROWS, leaderboard=leaderboard))
    controlled = scored.scores[1]
    assert (controlled.name, controlled.value, controlled.error) == ("length_controlled_win_rate", 48.25, 3.5)
    assert controlled.n == 4 and "leaderboard.csv" in controlled.protocol["error"]
    assert len(scored.warnings) == 1, "only the missing preference"


@pytest.mark.parametrize(
    ("leaderboard", "name", "reason"),
    [
        ("other,1,1,805,community,9,1,1\n", None, "has no row named 'mine'; it has other"),
        ("mine,55.0,21,4,community,9,,\n", None, "gives none for 'mine'"),
        ("mine,55.0,21,4,community,9,1,1\n", "renamed", "has no row named 'renamed'; it has mine"),
    ],
)
def test_why_there_is_no_length_controlled_win_rate(
    tmp_path: Path, leaderboard: str, name: str | None, reason: str
) -> None:
    scored = win_rate(write(tmp_path, *ROWS, leaderboard=leaderboard), name=name)
    assert len(scored.scores) == 1
    assert scored.warnings[1].startswith("no length-controlled win rate: ") and reason in scored.warnings[1]


def test_a_row_under_another_name(tmp_path: Path) -> None:
    folder = write(tmp_path, *ROWS, leaderboard="Mine 2.0,55.004,21,4,community,9,40,\n")
    controlled = win_rate(folder, name="Mine 2.0").scores[1]
    assert (controlled.value, controlled.error) == (40.0, None)


def test_a_leaderboard_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, *ROWS, leaderboard="mine,70.5,1.3,805,community,9,1,1\n")
    with pytest.raises(DataError, match=r"'mine' has win_rate 70\.500, but annotations\.json gives 55\.000"):
        win_rate(folder)
    folder = write(tmp_path, *ROWS, leaderboard="mine,55.0,1.3,805,community,9,many,1\n")
    with pytest.raises(DataError, match="'mine' has length_controlled_winrate 'many', expected a number"):
        win_rate(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (annotation("b", 2.5), r"annotations\.json: row 2: 'preference' is 2\.5, expected 1 \(the baseline\) to 2"),
        (annotation("b", float("nan")), "row 2: 'preference' is nan, expected 1"),
        (annotation("b", "2"), "row 2: 'preference' is text, expected a number from 1 to 2, or null"),
        (annotation("b", True), "row 2: 'preference' is true or false, expected a number"),
        ({"instruction": "b", "generator_2": "mine"}, "row 2: no column 'preference'"),
        ({"preference": 1, "generator_2": "mine"}, "row 2: no column 'instruction'"),
        ({"preference": 1, "instruction": "b"}, "row 2: no column 'generator_2'"),
    ],
)
def test_malformed_annotations_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        win_rate(write(tmp_path, annotation("a", 2), row))


def test_annotations_that_make_no_win_rate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains annotations of 2 models"):
        win_rate(write(tmp_path, annotation("a", 2), annotation("a", 1, generator_2="yours")))
    with pytest.raises(DataError, match="none of its 1 rows has a preference"):
        win_rate(write(tmp_path, annotation("a", None)))


def test_a_directory_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations\.json: no such file; expected a directory") as caught:
        win_rate(tmp_path)
    assert "run alpaca_eval" in caught.value.hint
    below = tmp_path / "weighted_alpaca_eval_gpt4_turbo"
    below.mkdir()
    write(below, *ROWS)
    with pytest.raises(DataError, match="no such file") as caught:
        win_rate(tmp_path)
    assert caught.value.hint == f"did you mean {below}?"
