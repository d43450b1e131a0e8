"""AlpacaEval: the instructions go in as they stand, and come out as the file that alpaca_eval reads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tunelab.errors import BadRow, DataError
from tunelab.evaluation.benchmark import Graded, Item, Response
from tunelab.evaluation.benchmarks.alpacaeval import (
    Options,
    generator_name,
    grade,
    items,
    summarise,
    write_model_outputs,
    write_outputs,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "alpacaeval.txt"
ROWS = [
    {"dataset": "helpful_base", "instruction": GOLDEN.read_text(encoding="utf-8"), "output": "x", "generator": "old"},
    {"dataset": "vicuna", "instruction": " Wie spät ist es? ", "output": "y", "generator": "old"},
    {"instruction": "No set."},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "alpaca_eval.json").write_text(json.dumps(ROWS), encoding="utf-8")
    return tmp_path


def respond(item: Item, text: str, **other: Any) -> Response:
    return Response(item.id, "", item.question, item.target, text=text, **{"stop_reason": "stop", **other})


def test_the_prompt_is_the_instruction_to_the_byte(folder: Path) -> None:
    found = items(folder, Options())
    assert found[0].prompt.encode() == GOLDEN.read_bytes()
    assert [item.prompt for item in found] == [row["instruction"] for row in ROWS]
    assert [item.target for item in found] == [{"dataset": one} for one in ("helpful_base", "vicuna", "")]
    assert [item.id for item in found] == ["0", "1", "2"]


def test_any_one_file_of_instructions_will_do(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"instruction": "Hello?"}\n', encoding="utf-8")
    assert [item.question for item in items(tmp_path, Options())] == ["Hello?"]
    (tmp_path / "other.jsonl").write_text('{"instruction": "Hi?"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"contains mine\.jsonl, other\.jsonl: expected one file of instructions"):
        items(tmp_path, Options())
    assert [item.question for item in items(tmp_path / "other.jsonl", Options())] == ["Hi?"]


def test_blank_instructions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "alpaca_eval.json").write_text('[{"instruction": "Hi?"}, {"instruction": " "}]', encoding="utf-8")
    with pytest.raises(BadRow, match=r"alpaca_eval\.json: row 2: column 'instruction' is blank"):
        items(tmp_path, Options())


def test_what_needs_no_judge(folder: Path) -> None:
    first, second, third = items(folder, Options())
    responses = [
        respond(first, " Red, blue.\n", answer_tokens=4),
        respond(second, "\n ", answer_tokens=2),
        respond(third, "Twelve", answer_tokens=9, stop_reason="length"),
    ]
    scored = summarise([Graded(one, grade(one, Options())) for one in responses], Options())
    score = scored.scores[0]
    assert (score.name, score.value, score.n) == ("answered", pytest.approx(2 / 3), 3)
    assert score.error == pytest.approx(1 / 3) and "no win rate" in score.protocol["judge"]
    assert scored.facts["mean_characters"] == pytest.approx((10 + 0 + 6) / 3)
    assert scored.facts["mean_tokens"] == 5.0
    # Deviations -1, -3 and 4: sum of squares 26, over n (n - 1) = 6.
    assert scored.facts["mean_tokens_error"] == pytest.approx((26 / 6) ** 0.5)
    assert (scored.facts["answers_cut"], scored.facts["answers_empty"]) == (1, 1)
    assert "1 of 3 answers were cut" in scored.warnings[0]


def test_model_outputs_are_what_alpaca_eval_reads(folder: Path, tmp_path: Path) -> None:
    """A list of these four keys, in the items' order whatever the responses' order; place 10 comes after 9."""
    found = items(folder, Options())
    late = dataclasses.replace(found[2], id="10")
    responses = [respond(late, "c"), respond(found[1], " Zwölf Uhr. \n"), respond(found[0], "")]
    path = tmp_path / "results" / "model_outputs.json"
    write_model_outputs(responses, "tunelab-1", path)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert [list(row) for row in written] == [["dataset", "instruction", "output", "generator"]] * 3
    assert [row["output"] for row in written] == ["", "Zwölf Uhr.", "c"]
    assert [row["instruction"] for row in written] == [row["instruction"] for row in ROWS]
    assert [row["dataset"] for row in written] == ["helpful_base", "vicuna", ""]
    assert {row["generator"] for row in written} == {"tunelab-1"}


def test_outputs_that_cannot_be_written_are_refused(folder: Path, tmp_path: Path) -> None:
    path, first = tmp_path / "model_outputs.json", respond(items(folder, Options())[0], "a")
    with pytest.raises(DataError, match="there are no responses to write"):
        write_model_outputs([], "me", path)
    with pytest.raises(DataError, match="the generator has no name"):
        write_model_outputs([first], " ", path)
    with pytest.raises(DataError, match="item 0 has two responses"):
        write_model_outputs([first, first], "me", path)
    for foreign in (dataclasses.replace(first, item="virology/3"), dataclasses.replace(first, target=3)):
        with pytest.raises(DataError, match="is not from AlpacaEval"):
            write_model_outputs([foreign], "me", path)
    assert not path.exists()


HASH = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ({"model_name": "distilgpt2", "arm": "base"}, "distilgpt2-base"),
        ({"model_name": "owner/Llama-3", "arm": "tuned", "adapter": HASH}, "Llama-3-tuned-01234567"),
        ({"model_name": "gpt2", "weights": HASH.removeprefix("sha256:"), "arm": "tuned"}, "gpt2-tuned-01234567"),
        ({"arm": "base"}, ""),
    ],
)
def test_a_generator_is_named_after_its_model_and_arm(header: dict[str, str], name: str) -> None:
    assert generator_name(header) == name


def test_outputs_lie_in_the_folder_and_need_a_model(folder: Path, tmp_path: Path) -> None:
    responses = [respond(item, f"answer {item.id}") for item in items(folder, Options())]
    (path,) = write_outputs(responses, {"model_name": "gpt2", "arm": "base"}, tmp_path / "arm")
    assert path == tmp_path / "arm" / "model_outputs.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [row["output"] for row in rows] == ["answer 0", "answer 1", "answer 2"]
    assert {row["generator"] for row in rows} == {"gpt2-base"}
    with pytest.raises(DataError, match=r"model_outputs\.json: the generator has no name"):
        write_outputs(responses, {}, tmp_path)
