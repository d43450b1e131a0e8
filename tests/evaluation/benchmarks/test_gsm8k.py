"""GSM8K: prompts and verdicts are lm-evaluation-harness's; numbers are found as it finds them."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tunelab.errors import BadRow, DataError
from tunelab.evaluation.benchmark import Graded, Response
from tunelab.evaluation.benchmarks import gsm8k
from tunelab.evaluation.benchmarks.gsm8k import Options, flexible_answer, grade, items, strict_answer

GOLDEN = Path(__file__).parents[2] / "golden" / "gsm8k_2shot.txt"
TRAIN = [
    ("Ann has 3 pens and buys 4.  How many has she?", "She has 3+4=<<3+4=7>>7 pens.\n#### 7"),
    ("A ticket costs $1,200. What do two cost?", "Two cost 2*1200=$<<2*1200=2400>>2,400.\n#### 2,400"),
    ("Not among the first two?", "No.\n#### 0"),
]
TEST = [
    ("Ten birds sit on a wire and 4 leave. How many stay?", "10-4=<<10-4=6>>6 stay.\n#### 6"),
    ("Minus 3 and 1?", "-3+1=-2\n#### -2"),
]
# sha256 over all 1,319 prompts of openai/grade-school-math 3101c7d5, each followed by a zero byte. They were compared
# one by one, with 0, 5 and 8 shots, to those of lm_eval 0.4.13's task under its sampler "first_n": all equal.
ALL_PROMPTS = "91b5b5202a0674d2fb56254fd20f5e9ad6ef20f3c89874048df8c652ff3e7c56"


def rows(problems: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"question": question, "answer": answer} for question, answer in problems]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, problems in (("train", TRAIN), ("test", TEST)):
        lines = [json.dumps(row) + "\n" for row in rows(problems)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def response(text: str, target: Any = "So.\n#### 1,200", stop_reason: str = "stop", truncated: int = 0) -> Response:
    return Response("0", "", "q", target, text=text, stop_reason=stop_reason, truncated_tokens=truncated)


def verdicts(text: str, target: str = "So.\n#### 1,200") -> tuple[float, float]:
    values = grade(response(text, target), Options())
    assert set(values) == {"exact_strict", "exact_flexible"}
    return values["exact_strict"], values["exact_flexible"]


def test_prompts_equal_the_golden_one(folder: Path) -> None:
    first, second = items(folder, Options(shots=2))
    assert first.prompt.encode() == GOLDEN.read_bytes()
    assert first.examples == second.examples and first.examples.endswith("#### 2,400\n\n")
    assert (first.id, first.target, second.id, second.target) == ("0", TEST[0][1], "1", TEST[1][1])
    bare, _ = items(folder, Options(shots=0))
    assert bare.examples == "" and bare.prompt == first.question


def test_the_hubs_parquet_gives_the_same_items(folder: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    hub = tmp_path / "hub"
    (hub / "main").mkdir(parents=True)
    for split, problems in (("train", TRAIN), ("test", TEST)):
        table = pyarrow.Table.from_pylist(rows(problems))
        pyarrow.parquet.write_table(table, hub / "main" / f"{split}-00000-of-00001.parquet")
    assert items(hub, Options(shots=3)) == items(folder, Options(shots=3))


def test_all_real_prompts_are_the_harnesses(shared_data: Path) -> None:
    found = items(shared_data / "gsm8k", Options())
    assert len(found) == 1319
    digest = hashlib.sha256(b"".join(item.prompt.encode() + b"\0" for item in found))
    assert digest.hexdigest() == ALL_PROMPTS
    # Every reference solution is right about itself.
    assert {tuple(grade(response(one.target, one.target), Options()).values()) for one in found} == {(1.0, 1.0)}


def test_shots_that_cannot_be_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl: 3 rows, but shots=5") as caught:
        items(folder, Options())
    assert "gsm8k.shots=3" in caught.value.hint
    with pytest.raises(ValidationError, match="less than or equal to 8"):
        Options(shots=9)


def test_bad_files_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "test.jsonl").write_text('{"question": "How many?", "answer": "Seven."}\n', encoding="utf-8")
    with pytest.raises(BadRow, match=r"test\.jsonl: row 1: column 'answer' ends in 'Seven\.', expected \"#### NUMBER"):
        items(folder, Options(shots=0))
    (folder / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"contains no test\.jsonl and no main/test-\*\.parquet"):
        items(folder, Options(shots=0))


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (" That is $1,200.\n#### 1200", 1, 1),
        ("#### $1,200", 0, 1),  # the dollar sign is no part of the marked number
        ("The answer is $1,200.", 0, 1),
        ("#### 1200\n#### 7", 1, 0),  # strict takes the first mark, flexible the last number
        ("#### 1200.00", 0, 0),  # compared as text, not as a number
        ("#### 1200.", 1, 1),
        ("####1200", 0, 1),
        ("1200 ...", 0, 0),  # three periods look like a number, as they do to the harness
        ("#### -1200", 0, 0),
        ("no number", 0, 0),
        ("", 0, 0),
    ],
)
def test_verdicts_by_hand(text: str, strict: float, flexible: float) -> None:
    assert verdicts(text) == (strict, flexible)


def test_a_target_of_another_benchmark_is_refused() -> None:
    with pytest.raises(DataError, match="gsm8k: item 0: target is 3, expected the reference solution's text"):
        grade(response("#### 3", target=3), Options())


@given(st.integers(-(10**9), 10**9), st.text(max_size=20), st.booleans())
def test_a_marked_number_is_right_with_and_without_commas(number: int, before: str, commas: bool) -> None:
    target = f"So it is.\n#### {number}"
    answer = before.replace("#", "") + "\n#### " + (f"{number:,}" if commas else str(number))
    assert verdicts(answer, target) == (1.0, 1.0)
    assert verdicts(f"{answer}1", target) == (0.0, 0.0)


@given(st.text(alphabet="#0123456789.,$- \nabA", max_size=60))
def test_any_text_is_graded(text: str) -> None:
    values = grade(response(text), Options())
    assert set(values.values()) <= {0.0, 1.0}
    if strict_answer(text) is not None:
        assert flexible_answer(text) is not None, "a marked number is a number too"


def made_up_answers(n: int) -> list[str]:
    parts = ["#### ", "####", "$", ",", ".", "-", " ", "\n", "1200", "1,200", "7", "The answer is ", "x", "...", "0.5"]
    draw = random.Random(5)
    return ["".join(draw.choices(parts, k=draw.randint(0, 9))) for _ in range(n)]


def test_verdicts_agree_with_the_harness() -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics")
    from lm_eval.filters.extraction import RegexFilter

    config = harness_config()
    settings = {
        key: config["metric_list"][0][key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")
    }
    answers, seen = made_up_answers(600), set()
    for target in ("So.\n#### 1,200", "It is 7.\n#### 7", "#### .5."):
        columns = []
        for one in config["filter_list"]:
            regex = {key: value for key, value in one["filter"][0].items() if key != "function"}
            found = RegexFilter(**regex).apply([[answer] for answer in answers], [{}] * len(answers))
            columns.append([metrics.exact_match_hf_evaluate(one, [target], **settings)["exact_match"] for one in found])
        theirs = list(zip(*columns, strict=True))
        assert [verdicts(answer, target) for answer in answers] == theirs
        seen |= set(theirs)
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}, "the made-up answers reach every pair of verdicts"


def harness_config() -> dict[str, Any]:
    lm_eval = pytest.importorskip("lm_eval")
    config: dict[str, Any] = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
    return config


def test_prompts_stop_strings_and_limit_agree_with_the_harness(folder: Path) -> None:
    config = harness_config()
    datasets = pytest.importorskip("datasets")
    from lm_eval.api.task import ConfigurableTask

    assert tuple(config["generation_kwargs"]["until"]) == gsm8k.BENCHMARK.stop_strings
    data = {split: datasets.Dataset.from_list(rows(one)) for split, one in (("train", TRAIN), ("test", TEST))}
    config |= {"custom_dataset": lambda **_: data, "fewshot_config": {"sampler": "first_n", "split": "train"}}
    task = ConfigurableTask(config=config)
    for shots in (0, 1, 3):
        theirs = [task.fewshot_context(document, shots) for document in data["test"]]
        assert [item.prompt for item in items(folder, Options(shots=shots))] == theirs


def summary(responses: list[Response]) -> Any:
    options = Options(shots=3)
    return gsm8k.summarise([Graded(one, grade(one, options)) for one in responses], options)


def test_scores_have_errors_and_say_how_they_came_to_be() -> None:
    scored = summary([response("#### 1200"), response("it is 1200"), response("#### 1"), response("#### 1200")])
    strict, flexible = scored.scores
    assert (strict.name, strict.value, strict.n) == ("exact_strict", 0.5, 4)
    assert (flexible.name, flexible.value) == ("exact_flexible", 0.75)
    assert strict.error == pytest.approx((4 * 0.25 / 12) ** 0.5)
    assert strict.protocol["shots"] == 3 and "the first 3 rows of train" in strict.protocol["examples"]
    assert scored.warnings == []
    assert scored.facts == {
        "answers_cut": 0,
        "answers_without_marked_number": 1,
        "answers_without_number": 0,
        "prompts_truncated": 0,
    }


def test_cut_unmarked_and_truncated_answers_are_warned_of() -> None:
    many = [response("#### 1200")] * 18
    scored = summary([*many, response("Let", stop_reason="length"), response("#### 1200", truncated=4)])
    assert scored.facts["answers_cut"] == 1 and scored.facts["answers_without_number"] == 1
    assert scored.warnings == ["1 of 20 prompts exceed the model's context: their beginning was truncated"]
    scored = summary([*many, response("Let", stop_reason="length"), response("Let", stop_reason="context")])
    assert len(scored.warnings) == 1 and "2 of 20 answers were cut" in scored.warnings[0]
    scored = summary([response("1200"), response("1200"), response("#### 1200")])
    assert len(scored.warnings) == 1 and '2 of 3 answers have no "#### NUMBER"' in scored.warnings[0]
