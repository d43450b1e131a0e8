"""The 100 items are recognised in every kind of file, prompts are MMLU's or the hub's, estimates need parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Graded, Item
from tunelab.evaluation.benchmarks import mmlu, tinymmlu
from tunelab.evaluation.benchmarks.tinymmlu import PLACE_OF_DIGEST, Options
from tunelab.evaluation.item_response import estimate_accuracy, load_parameters

PLACES = list(PLACE_OF_DIGEST.values())


def stand_ins() -> list[Item]:
    """Items of the 100 ids without their texts: what scoring needs."""
    items = []
    for place in PLACES:
        subject, number = tinymmlu.subject_and_number(place)
        items.append(Item(f"{subject}/{number}", "q", 0, choices=mmlu.CHOICES, cluster=subject))
    return items


def graded(items: list[Item], right: int) -> list[Graded]:
    """The first `right` items answered A, which is right, the others B, C, D in turn."""
    found = []
    for place, item in enumerate(items):
        values = [-2.0] * 4
        values[0 if place < right else 1 + place % 3] = -1.0
        response = mmlu.example_response(item, *values)
        found.append(Graded(response, tinymmlu.grade(response, Options())))
    return found


def parameter_file(path: Path, anchors: list[int]) -> Path:
    random = np.random.default_rng(0)
    counts = [count for _, count in mmlu.SUBJECTS.values()]
    np.savez(
        path,
        A=random.normal(0.8, 0.3, (2, 14_042)),
        B=random.normal(0, 0.5, (2, 14_042)),
        seen_examples=np.array(anchors),
        examples_weights=np.full(len(anchors), 1 / len(anchors)),
        optimal_lambda=np.array(0.4),
        subscenario=np.repeat(np.arange(57), counts),
    )
    return path


def test_the_index_is_100_places_of_mmlu(shared_data: Path) -> None:
    index = json.loads((shared_data / "tinybenchmarks" / "tinymmlu_index.json").read_text())
    assert index["index_in_mmlu_test_alphabetical"] == PLACES
    assert len(set(PLACES)) == 100


def test_places_are_counted_through_the_subjects() -> None:
    assert tinymmlu.subject_and_number(0) == ("abstract_algebra", 0)
    assert tinymmlu.subject_and_number(100) == ("anatomy", 0)
    assert tinymmlu.subject_and_number(14_041) == ("world_religions", 170)
    with pytest.raises(DataError, match="MMLU has no test question 14042: expected 0 to 14041"):
        tinymmlu.subject_and_number(14_042)


def test_items_from_mmlus_files_are_mmlus(shared_data: Path) -> None:
    folder = shared_data / "mmlu"
    for shots in (0, 5):
        whole = {item.id: item for item in mmlu.items(folder, mmlu.Options(shots=shots))}
        made = tinymmlu.items(folder, Options(shots=0 if shots == 0 else 5))
        assert made == [whole[item.id] for item in made]
        assert list(whole)[PLACES[0]] == made[0].id
        assert len(made) == 100


def test_items_from_their_own_json_lines_are_the_same(shared_data: Path, tmp_path: Path) -> None:
    expected = tinymmlu.items(shared_data / "mmlu", Options(shots=0))
    assert tinymmlu.items(shared_data / "tinybenchmarks", Options(shots=0)) == expected
    with pytest.raises(DataError, match="has no dev questions of MMLU"):
        tinymmlu.items(shared_data / "tinybenchmarks", Options())


def json_lines(folder: Path, rows: list[Any]) -> Path:
    (folder / "tiny_mmlu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def hub_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    (folder / "all").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "all" / "test-00000-of-00001.parquet")
    return folder


def own_rows(shared_data: Path) -> list[dict[str, Any]]:
    text = (shared_data / "tinybenchmarks" / "sixcat_tiny_mmlu.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_hubs_prompts_are_kept_to_the_byte(shared_data: Path, tmp_path: Path) -> None:
    expected = tinymmlu.items(shared_data / "mmlu", Options())
    rows = [
        {**row, "subject": item.cluster, "input_formatted": item.prompt.replace("about ", "about  ", 1)}
        for row, item in zip(own_rows(shared_data), expected, strict=True)
    ]
    rows[7]["input_formatted"] = "Written otherwise.\nAnswer:"
    folder = hub_file(tmp_path, rows[::-1])  # the order of the file does not matter
    made = tinymmlu.items(folder, Options())
    assert [item.prompt for item in made] == [row["input_formatted"] for row in rows]
    assert [item.id for item in made] == [item.id for item in expected]
    assert [item.question for item in made[:7]] == [item.question for item in expected[:7]]
    assert made[7].examples == ""
    assert tinymmlu.items(folder, Options(shots=0)) == tinymmlu.items(shared_data / "mmlu", Options(shots=0))
    rows[3]["input_formatted"] = None
    with pytest.raises(DataError, match=f"{expected[3].id} has no input_formatted: expected its prompt"):
        tinymmlu.items(hub_file(tmp_path, rows), Options())


def test_mmlus_parquet_is_taken_as_mmlu(shared_data: Path, tmp_path: Path) -> None:
    tests = mmlu.read_questions(shared_data / "mmlu", "test")
    rows = [
        {"question": one.question, "subject": one.subject, "choices": list(one.choices), "answer": one.answer}
        for questions in tests.values()
        for one in questions
    ]
    assert tinymmlu.items(hub_file(tmp_path, rows), Options(shots=0)) == tinymmlu.items(
        shared_data / "mmlu", Options(shots=0)
    )
    with pytest.raises(DataError, match="question 197 of high_school_statistics is not tinyMMLU's"):
        tinymmlu.items(hub_file(tmp_path, rows[::-1]), Options(shots=0))


def test_other_items_are_refused(tmp_path: Path) -> None:
    good = {"question": "q", "choices": ["a", "b", "c", "d"], "answer": 0}
    for rows, message in (
        ([good], r"tiny_mmlu\.jsonl: row 1 is not one of tinyMMLU's 100 items: 'q'"),
        ([{"question": "q"}], r"row 1 lacks answer, choices"),
        ([3], "row 1 lacks everything: it is not an object"),
        ([{**good, "choices": "abcd"}], "row 1: choices is 'abcd', expected a list of four texts"),
        ([], r"has 0 of tinyMMLU's 100 items"),
    ):
        with pytest.raises(DataError, match=message):
            tinymmlu.items(json_lines(tmp_path, rows), Options(shots=0))
    (tmp_path / "tiny_mmlu.jsonl").write_text("{")
    with pytest.raises(DataError, match="row 1 is not JSON"):
        tinymmlu.items(tmp_path, Options(shots=0))
    (tmp_path / "tiny_mmlu.jsonl").unlink()
    hub_file(tmp_path, [{**good, "subject": "virology"}])
    with pytest.raises(DataError, match="question 197 of high_school_statistics is not tinyMMLU's"):
        tinymmlu.items(tmp_path, Options(shots=0))


def test_an_item_that_is_there_twice_is_refused(shared_data: Path, tmp_path: Path) -> None:
    rows = own_rows(shared_data)
    with pytest.raises(DataError, match="row 3 is a duplicate"):
        tinymmlu.items(json_lines(tmp_path, [rows[0], rows[1], rows[0]]), Options(shots=0))


def test_without_a_parameter_file_it_is_the_accuracy_of_100_items() -> None:
    scored = tinymmlu.summarise(graded(stand_ins(), 60), Options())
    assert [(score.name, score.value, score.n) for score in scored.scores[:2]] == [
        ("accuracy", 0.6, 100),
        ("accuracy_clustered", 0.6, 100),
    ]
    assert [score.name for score in scored.scores[2:]] == ["log_probability", "brier", "calibration_error"]
    estimate = scored.scores[0].protocol["estimate"]
    assert estimate == "accuracy of 100 items, no IRT estimate: no parameter file"
    assert sum(part[0].n for part in scored.groups.values()) == 100
    assert set(scored.groups) == {f"category {name}" for name in ("humanities", "other", "social_sciences", "stem")}


def test_estimates_with_a_parameter_file_in_another_order(tmp_path: Path) -> None:
    path = parameter_file(tmp_path / "p.npz", sorted(PLACES))
    answered = graded(stand_ins(), 60)
    scored = tinymmlu.summarise(answered, Options(parameters=str(path)))
    assert [score.name for score in scored.scores] == [
        "accuracy",
        "accuracy_clustered",
        "accuracy_irt",
        "accuracy_p_irt",
        "accuracy_gp_irt",
        "log_probability",
        "brier",
        "calibration_error",
    ]
    right = set(PLACES[:60])
    correct = np.array([float(place in right) for place in sorted(PLACES)])
    expected = estimate_accuracy(correct, load_parameters(path, "mmlu"))
    for score, estimate in zip(scored.scores[2:5], (expected.irt, expected.p_irt, expected.gp_irt), strict=True):
        assert (score.value, score.error, score.n) == (estimate.value, estimate.error, 100)
    assert scored.scores[4].protocol["published_mean_absolute_error"] == 0.016
    assert len(scored.facts["ability"]) == 2


def test_estimates_are_not_told_where_they_would_be_wrong(tmp_path: Path) -> None:
    path = parameter_file(tmp_path / "p.npz", PLACES)
    options = Options(parameters=str(path))
    part = tinymmlu.summarise(graded(stand_ins()[:99], 60), options)
    names = ["accuracy", "accuracy_clustered", "log_probability", "brier", "calibration_error"]
    assert [one.name for one in part.scores] == names
    assert "no IRT estimate: 1 of the 100 items, each representing many, were not answered" in part.warnings
    perfect = tinymmlu.summarise(graded(stand_ins(), 100), options)
    assert [score.error for score in perfect.scores[2:5]] == [None, None, None]
    assert any(warning.startswith("the answers do not determine an ability") for warning in perfect.warnings)
    other = parameter_file(tmp_path / "other.npz", [*PLACES[:99], 0])
    with pytest.raises(DataError, match=r"other\.npz: 99 of its 100 anchors are among tinyMMLU's 100 items"):
        tinymmlu.summarise(graded(stand_ins(), 60), Options(parameters=str(other)))


def test_the_example_is_graded() -> None:
    assert tinymmlu.grade(tinymmlu.EXAMPLE.right, Options())["accuracy"] == 1.0
    assert tinymmlu.grade(tinymmlu.EXAMPLE.wrong, Options())["accuracy"] == 0.0
