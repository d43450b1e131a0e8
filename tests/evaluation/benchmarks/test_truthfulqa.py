"""TruthfulQA: prompts are lm-evaluation-harness's to the byte; MC1 and MC2 are the paper's."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tunelab.errors import BadRow, DataError
from tunelab.evaluation.benchmark import Graded, Item, Response
from tunelab.evaluation.benchmarks import truthfulqa
from tunelab.evaluation.benchmarks.truthfulqa import Options, correct_mass, grade, items, split_answers, summarise

GOLDEN = Path(__file__).parents[2] / "golden" / "truthfulqa.txt"
MOON = {
    "Question": "Is the moon made of cheese?",
    "Best Answer": "No, it is rock ",
    "Correct Answers": "It is not; No, it is rock.; ; Unknown;It is not.",
    "Incorrect Answers": " Yes; Unknown.; It is Emmental; Yes",
}
HUB_MOON = {
    "question": "Is the moon made of cheese?",
    "mc1_targets": {"choices": ["Yes", "No, it is rock"], "labels": [0, 1]},
    "mc2_targets": {"choices": ["No, it is rock", "It is not", "Yes"], "labels": [1, 1, 0]},
}


def csv_folder(folder: Path, *rows: dict[str, str]) -> Path:
    with open(folder / "TruthfulQA.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(MOON))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def hub_folder(folder: Path, *rows: dict[str, Any]) -> Path:
    import pyarrow
    import pyarrow.parquet

    (folder / "multiple_choice").mkdir()
    table = pyarrow.Table.from_pylist(list(rows))
    pyarrow.parquet.write_table(table, folder / "multiple_choice" / "validation-00000-of-00001.parquet")
    return folder


def response(item: Item, *log_probabilities: float, **other: Any) -> Response:
    return Response(
        item.id, "", item.question, item.target, choices=item.choices, log_probabilities=log_probabilities, **other
    )


def test_prompts_equal_the_golden_one(tmp_path: Path) -> None:
    item = items(csv_folder(tmp_path, MOON), Options())[0]
    assert item.prompt.encode() == GOLDEN.read_bytes()
    assert item.examples == truthfulqa.PRIMER and item.question == "Q: Is the moon made of cheese?\nA:"


def test_a_row_of_the_repositorys_csv(tmp_path: Path) -> None:
    """Answers get their period, each is one choice; what is listed twice, or on both sides, keeps its places."""
    item = items(csv_folder(tmp_path, MOON), Options())[0]
    assert item.choices == (" No, it is rock.", " Yes.", " Unknown.", " It is Emmental.", " It is not.")
    assert item.target == {
        "mc1": [0, 1, 2, 3],
        "best": 0,
        "mc2_true": [4, 0, 2, 4],
        "mc2_false": [1, 2, 3, 1],
        "answers": "csv",
    }


def test_a_row_of_the_hubs_parquet(tmp_path: Path) -> None:
    item = items(hub_folder(tmp_path, HUB_MOON), Options())[0]
    assert item.choices == (" Yes", " No, it is rock", " It is not")
    assert item.target == {"mc1": [0, 1], "best": 1, "mc2_true": [1, 2], "mc2_false": [0], "answers": "hub"}
    assert item.prompt.encode() == GOLDEN.read_bytes()


def test_the_real_file(shared_data: Path) -> None:
    found = items(shared_data / "truthfulqa", Options())
    assert len(found) == 817 and len({item.id for item in found}) == 817
    assert all(len(set(item.choices)) == len(item.choices) for item in found)
    assert all(choice[0] == " " and choice[1] != " " and choice[-1] == "." for item in found for choice in item.choices)
    # The paper gives 22.6 % for guessing in MC1 (table 4).
    assert math.fsum(1 / len(item.target["mc1"]) for item in found) / 817 == pytest.approx(0.226, abs=5e-4)
    prompts = {item.examples for item in found}
    assert prompts == {truthfulqa.PRIMER}


def test_answers_are_split_as_the_repository_does() -> None:
    assert split_answers(" a; b. ;;c;") == ["a.", "b.", "c."]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Best Answer": "Maybe"}, r"row 1: the best answer 'Maybe\.' is not among the correct ones"),
        ({"Incorrect Answers": " ; "}, "row 1: there are no incorrect answers"),
    ],
)
def test_bad_csv_rows_are_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        items(csv_folder(tmp_path, {**MOON, **change}), Options())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}, "'mc1_targets' has 2 choices with 2 labelled 1"),
        ({"mc2_targets": {"choices": ["a"], "labels": [0]}}, "'mc2_targets' has no choice labelled 1"),
        ({"mc2_targets": {"choices": ["a", "b"], "labels": [1]}}, r"'mc2_targets': 2 choices, labels \[1\]"),
        ({"mc2_targets": {"choices": ["a"], "labels": [2]}}, r"'mc2_targets': 1 choices, labels \[2\]"),
        ({"mc1_targets": "a"}, "'mc1_targets' is text, expected an object with 'choices' and 'labels'"),
    ],
)
def test_bad_hub_rows_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        items(hub_folder(tmp_path, {**HUB_MOON, **change}), Options())


def test_grades_by_hand(tmp_path: Path) -> None:
    item = items(hub_folder(tmp_path, HUB_MOON), Options())[0]
    right = grade(response(item, math.log(0.1), math.log(0.2), math.log(0.3)), Options())
    assert (right["mc1"], right["mc2"]) == (1.0, pytest.approx(0.5 / 0.6))
    assert set(right) == {"mc1", "mc2", "log_probability", "brier", "confidence"}
    # A correct answer that is likelier than the best one is none of MC1's choices.
    assert grade(response(item, -3.0, -2.0, -1.0), Options())["mc1"] == 1.0
    assert grade(response(item, -2.0, -3.0, -1.0), Options())["mc1"] == 0.0
    tied = grade(response(item, -2.0, -2.0, -2.0), Options())
    assert (tied["mc1"], tied["mc2"], tied["confidence"]) == (0.0, pytest.approx(2 / 3), 0.5)


def test_an_answer_that_is_listed_twice_counts_twice(tmp_path: Path) -> None:
    item = items(csv_folder(tmp_path, MOON), Options())[0]
    assert grade(response(item, 0.0, 0.0, 0.0, 0.0, 0.0), Options())["mc2"] == pytest.approx(4 / 8)


def test_one_of_the_two_alone_is_graded_alone(tmp_path: Path) -> None:
    """Files of other tools hold the choices of MC1 or of MC2."""
    item = items(hub_folder(tmp_path, HUB_MOON), Options())[0]
    only_mc1 = dataclasses.replace(item, target={**item.target, "mc2_true": [], "mc2_false": []})
    only_mc2 = dataclasses.replace(item, target={**item.target, "mc1": [], "best": None})
    log_p = (-1.0, -2.0, -3.0)
    assert set(grade(response(only_mc1, *log_p), Options())) == {"mc1", "log_probability", "brier", "confidence"}
    assert set(grade(response(only_mc2, *log_p), Options())) == {"mc2"}
    one = response(only_mc2, *log_p)
    assert [score.name for score in summarise([Graded(one, grade(one, Options()))], Options()).scores] == ["mc2"]


def test_responses_that_cannot_be_graded_are_refused(tmp_path: Path) -> None:
    item = items(hub_folder(tmp_path, HUB_MOON), Options())[0]
    with pytest.raises(DataError, match=r"item 0: 3 choices, log-probabilities \[-1\.0\]: expected a finite number"):
        grade(response(item, -1.0), Options())
    with pytest.raises(DataError, match=r"item 0: 3 choices, log-probabilities .*-inf"):
        grade(response(item, -1.0, -math.inf, -1.0), Options())
    with pytest.raises(DataError, match="item 0: target is 3, expected indices of mc1"):
        grade(dataclasses.replace(response(item, -1.0, -1.0, -1.0), target=3), Options())
    with pytest.raises(DataError, match="item 0: its target names choice 2, but 2 were scored"):
        grade(dataclasses.replace(response(item, -1.0, -1.0), choices=(" a", " b")), Options())


LOG_P = st.lists(st.floats(-3000, 0), min_size=1, max_size=8)


@given(LOG_P, LOG_P, st.floats(-1000, 1000))
def test_mass_is_a_share_whatever_the_scale(true: list[float], false: list[float], shift: float) -> None:
    mass = correct_mass(true, false)
    assert 0.0 <= mass <= 1.0
    moved = correct_mass([one + shift for one in true], [one + shift for one in false])
    assert mass == pytest.approx(moved, abs=1e-9)
    assert mass + correct_mass(false, true) == pytest.approx(1.0)
    assert correct_mass(true, []) == 1.0


def test_verdicts_agree_with_the_harness() -> None:
    utils = pytest.importorskip("lm_eval.tasks.truthfulqa.utils")
    document = {"mc2_targets": {"labels": [1, 1, 0, 0, 1]}}
    log_p = [-12.25, -9.5, -8.75, -31.0, -10.125]
    theirs = utils.process_results_mc2(document, [(one, False) for one in log_p])["acc"]
    assert correct_mass([log_p[0], log_p[1], log_p[4]], log_p[2:4]) == pytest.approx(theirs, abs=1e-12)


def test_prompts_and_choices_agree_with_the_harness(tmp_path: Path) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    datasets = pytest.importorskip("datasets")
    from lm_eval.api.task import ConfigurableTask

    folder = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa"
    config = yaml.safe_load((folder / "truthfulqa_mc1.yaml").read_text())
    # The harness takes the first choice of MC1 as the best answer: the hub's files have it there.
    first = {**HUB_MOON, "mc1_targets": {"choices": ["No, it is rock", "Yes"], "labels": [1, 0]}}
    rows = [first, {**first, "question": ' Two  spaces, "quotes" & <marks>? '}]
    data = {"validation": datasets.Dataset.from_list(rows)}
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: data})
    for item, document in zip(items(hub_folder(tmp_path, *rows), Options()), data["validation"], strict=True):
        context = task.fewshot_context(document, 0)
        assert item.prompt == context
        requests = [one.arguments for one in task.construct_requests(document, context)]
        assert requests == [(item.prompt, item.choices[index]) for index in item.target["mc1"]]
        for log_p in ((-1.0, -2.0), (-2.0, -1.0)):
            theirs = task.process_results(document, [(one, False) for one in log_p])["acc"]
            assert grade(response(item, *log_p, -9.0), Options())["mc1"] == theirs


def test_scores_have_errors_and_chance(tmp_path: Path) -> None:
    item = items(hub_folder(tmp_path, HUB_MOON), Options())[0]
    responses = [response(item, -9.0, -1.0, -9.0)] * 5 + [response(item, -1.0, -9.0, -9.0, truncated_tokens=3)]
    scored = summarise([Graded(one, grade(one, Options())) for one in responses], Options())
    mc1, mc2 = scored.scores[:2]
    assert [one.name for one in scored.scores[2:]] == ["log_probability", "brier", "calibration_error"]
    assert scored.scores[2].value == pytest.approx((5 * -1 + -9) / 6), "of the best answer, among MC1's choices"
    assert (mc1.name, mc1.value, mc1.n, mc1.protocol["chance"]) == ("mc1", pytest.approx(5 / 6), 6, 0.5)
    assert mc1.error == pytest.approx(1 / 6)
    assert mc2.name == "mc2" and mc2.protocol["chance"] == pytest.approx(2 / 3)
    assert mc1.protocol["answers"] == ["hub"]
    assert scored.facts == {"prompts_truncated": 1}
    assert any("1 of 6 prompts exceed the model's context" in one for one in scored.warnings)
    guessing = "mc1 0.83 ± 0.17 of 6 items cannot be told from chance (0.50, exact binomial p = 0.219)"
    assert any(guessing in one for one in scored.warnings)


def test_scores_below_chance_are_named(tmp_path: Path) -> None:
    item = items(hub_folder(tmp_path, HUB_MOON), Options())[0]
    responses = [response(item, -1.0, -9.0 - n, -9.0) for n in range(20)]
    found = summarise([Graded(one, grade(one, Options())) for one in responses], Options()).warnings
    assert found[0].startswith("mc1 0 is below chance (0.50, exact binomial p < 0.001): wrong answers are preferred")


def test_a_score_far_from_chance_has_no_warning(tmp_path: Path) -> None:
    item = items(hub_folder(tmp_path, HUB_MOON), Options())[0]
    responses = [response(item, -9.0, -1.0, -9.0)] * 30 + [response(item, -1.0, -9.0, -9.0)]
    assert summarise([Graded(one, grade(one, Options())) for one in responses], Options()).warnings == []
