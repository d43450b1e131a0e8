"""Scoring files of responses: the same on any machine with any number of processes, and never a silent gap."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sums_benchmark import write_benchmark, write_responses

from tunelab.allowed_code import allow_code
from tunelab.comparison.compare_runs import compared
from tunelab.errors import ConfigError, DataError, RunError, UsageError
from tunelab.evaluation.benchmark import Response, Score, Scored
from tunelab.scoring import grading, score
from tunelab.scoring.read_responses import ReadResponses, benchmark_of_file
from tunelab.scoring.score import ScoredFile, score_file

TEXTS = ["1", "2", "wrong", "4"]


@pytest.fixture
def benchmark(tmp_path: Path) -> str:
    return str(write_benchmark(tmp_path))


@pytest.fixture
def responses(tmp_path: Path, benchmark: str) -> Path:
    return write_responses(tmp_path / "arm" / "responses.jsonl", benchmark, TEXTS, items=4)


def written(found: ScoredFile) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(found.scores_path.read_text(encoding="utf-8"))
    return value


def test_a_file_and_its_folder_are_scored_and_the_scores_lie_beside(responses: Path, benchmark: str) -> None:
    for path in (responses, responses.parent):
        found = score_file(path)
        assert found.benchmark == benchmark == benchmark_of_file(path)
        (right,) = found.scored.scores
        # 3 of 4: deviations 0.25 three times, -0.75 once
        assert (right.value, right.error, right.n) == (0.75, pytest.approx(math.sqrt(0.75 / 12)), 4)
        assert found.scored.warnings == ["only sums"] and found.header["model"] == "m"
    stored = written(found)
    assert found.scores_path == responses.with_name("scores.json")
    assert stored["scores"] == [right.to_json()] and stored["facts"] == {"longest": 5}
    assert stored["options"] == {"strict": True, "shots": 0} and stored["header"] == found.header
    assert stored["tunelab"] and list(stored["responses"]) == ["responses.jsonl"]
    lines = [json.loads(line) for line in responses.with_name("grades.jsonl").read_text().splitlines()]
    assert [line["item"] for line in lines] == ["0", "1", "2", "3"]
    assert lines[2] == {"item": "2", "cluster": "", "values": {"right": 0.0, "length": [5]}}
    assert [one.values["right"] for one in found.graded] == [1, 1, 0, 1]


def test_the_scores_name_the_hash_of_the_grades_and_the_responses(responses: Path) -> None:
    import hashlib

    def digest(path: Path) -> str:
        return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()

    stored = written(score_file(responses))
    assert stored["grades"] == digest(responses.with_name("grades.jsonl"))
    assert stored["responses"] == {"responses.jsonl": digest(responses)}


def test_scoring_again_gives_the_same_bytes_and_changes_no_responses(responses: Path) -> None:
    before = responses.read_bytes()
    score_file(responses)
    files = {path.name: path.read_bytes() for path in responses.parent.iterdir()}
    assert set(files) == {"responses.jsonl", "scores.json", "grades.jsonl"}
    score_file(responses)
    assert {path.name: path.read_bytes() for path in responses.parent.iterdir()} == files
    assert files["responses.jsonl"] == before


def test_any_number_of_processes_gives_the_same(
    tmp_path: Path, benchmark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_responses(tmp_path / "responses.jsonl", benchmark, [str(n % 5) for n in range(23)])
    alone = score_file(path, workers=1)
    files = [alone.scores_path.read_bytes(), path.with_name("grades.jsonl").read_bytes()]
    asked = []
    real = grading._ask_worker
    monkeypatch.setattr(grading, "_pays", lambda seconds, left, workers: len(seconds) == 3)
    monkeypatch.setattr(grading, "_ask_worker", lambda *job: asked.append(len(job[2])) or real(*job))
    shared = score_file(path, workers=3)
    assert sorted(asked) == [6, 7], "two other processes and this one share 20"
    assert shared.scored == alone.scored and shared.graded == alone.graded
    assert [shared.scores_path.read_bytes(), path.with_name("grades.jsonl").read_bytes()] == files


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_benchmark_prints_is_no_data(
    workers: int, responses: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grading, "_pays", lambda seconds, left, workers: True)
    source = Path(benchmark_of_file(responses))
    source.write_text("print('imported')\n" + source.read_text().replace('"loud"', "response.text"))
    allow_code(source)
    capsys.readouterr()
    assert len(score_file(responses, workers=workers).graded) == 4
    assert capsys.readouterr().out.replace("imported\n", "") == ""


def test_others_help_where_it_pays_and_only_there() -> None:
    assert not grading._pays([0.001] * 512, 500, 2), "quick responses"
    assert grading._pays([0.2] * 4, 60, 2), "slow ones"
    assert not grading._pays([0.2] * 5, 60, 2), "asked again only when twice as much is done"
    assert not grading._pays([0.2] * 4, 5, 2), "few are left"
    loading = [3.0, 0.01, 0.01, 0.01]
    assert not grading._pays(loading, 500, 2) and grading._pays([0.01] * 4, 500, 2), "each would load it again"


def test_slow_grading_is_shared_without_being_asked(tmp_path: Path, benchmark: str) -> None:
    path = write_responses(tmp_path / "responses.jsonl", benchmark, ["sleep0.15"] * 24)
    found = score_file(path, workers=4)  # alone it would sleep for 3.6 s
    assert found.scored.scores[0].value == 0 and len(found.graded) == 24


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["1", "refuse", "break"], r"responses\.jsonl: line 3, item '1': this cannot be judged"),
        (["break", "refuse"], r"line 2, item '0': grade of benchmark .*sums\.py failed: KeyError: 'something' \(sums"),
        (["1", "2", "nothing"], r"line 4, item '2': grade of benchmark .* gave no number for 'right', but \{\}"),
        (["nan"], r"line 2, item '0': grade of benchmark .* failed: ValueError: Out of range float"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_response_that_cannot_be_graded_is_named(
    texts: list[str], message: str, workers: int, tmp_path: Path, benchmark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grading, "_pays", lambda seconds, left, workers: workers > 1)
    path = write_responses(tmp_path / "responses.jsonl", benchmark, texts)
    with pytest.raises(RunError, match=message) as caught:
        score_file(path, workers=workers)
    assert caught.value.hint == ("leave it out" if "refuse" in texts[:2] and texts[0] == "1" else "")
    assert not path.with_name("scores.json").exists()


def test_a_process_that_ends_is_told(tmp_path: Path, benchmark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "_pays", lambda seconds, left, workers: True)
    monkeypatch.setattr(grading, "WORKER", "raise SystemExit('no room')")
    path = write_responses(tmp_path / "responses.jsonl", benchmark, TEXTS)
    with pytest.raises(RunError, match="a grading process of 2 responses died: no room"):
        score_file(path, workers=2)


def test_an_unfinished_file_is_scored_with_a_warning(tmp_path: Path, benchmark: str) -> None:
    path = write_responses(tmp_path / "responses.jsonl", benchmark, TEXTS, items=7)
    warnings = score_file(path).scored.warnings
    assert warnings[0] == "the file has answers to 4 of 7 items: the evaluation is not finished"
    assert json.loads(path.with_name("scores.json").read_text())["warnings"] == warnings


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_torn_last_line_is_left_out_with_a_warning_and_not_repaired(cut: int, responses: Path) -> None:
    torn = responses.read_bytes()[:-cut]
    responses.write_bytes(torn)
    found = score_file(responses)
    assert len(found.graded) == 3 and responses.read_bytes() == torn
    assert (
        found.scored.warnings[0] == "the last line of responses.jsonl is incomplete and skipped: its writer was killed"
    )
    assert found.scored.warnings[1].startswith("the file has answers to 3 of 4 items")


def test_options_replace_those_of_the_header_and_are_told(tmp_path: Path, benchmark: str) -> None:
    path = write_responses(tmp_path / "responses.jsonl", benchmark, [" 1", "2"])
    assert score_file(path).scored.scores[0].value == 0.5
    found = score_file(path, options={"strict": "false"})
    assert found.scored.scores[0].value == 1 and written(found)["options"]["strict"] is False
    assert found.scored.warnings[0] == "sums.strict is False here; the responses were made with True"
    assert score_file(path, options={"strict": True, "data": "x"}).scored.warnings == ["only sums"]
    assert "data" not in written(found)["options"]


def test_wrong_options_are_refused_all_at_once(responses: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        score_file(responses, options={"strikt": "yes", "shots": 9})
    assert "options of sums: 2 problems" in caught.value.message
    assert "sums.strikt: unknown option" in caught.value.message and "did you mean 'strict'?" in caught.value.message
    assert "sums.shots: Input should be less than or equal to 3, got 9" in caught.value.message


def test_a_benchmark_that_lies_elsewhere_here_is_named_by_hand(tmp_path: Path, benchmark: str) -> None:
    path = write_responses(tmp_path / "responses.jsonl", "gone/sums.py", TEXTS)
    with pytest.raises(UsageError, match=r"gone/sums\.py: no such file"):
        score_file(path)
    assert score_file(path, benchmark=benchmark).scored.scores[0].value == 0.75


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", RunError, "responses.jsonl: is empty"),
        (b'{"bench', RunError, "line 1 is not JSON"),
        (b'{"benchmark": "BENCHMARK"}\n', RunError, "contains no responses yet"),
        (b'{"benchmark": "BENCHMARK"}\nbroken\n{"item": "0", "prompt_hash": ""}\n', RunError, "line 2 is not JSON"),
        (b'{"benchmark": "BENCHMARK"}\n{"item": "0", "item": "1"}\n', RunError, "line 2: duplicate key 'item' in one"),
        (b'{"benchmark": "BENCHMARK"}\n3\n', RunError, "line 2 is int, expected a JSON object"),
        (b'{"benchmark": "BENCHMARK"}\n{"item": "0", "prompt_hash": ""}\n', RunError, "line 2: Response record lacks"),
        (b'{"benchmark": "no-such"}\n', UsageError, "no benchmark named 'no-such'"),
        (b'{"model": "m", "decoding": {}}\n', RunError, "its header names no benchmark"),
        (b'{"a": 1}\n', DataError, r"line 1: unknown response format \(the line has a\)"),
    ],
)
def test_files_that_cannot_be_scored_are_refused(
    content: bytes, error: type[Exception], message: str, tmp_path: Path, benchmark: str
) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_bytes(content.replace(b"BENCHMARK", benchmark.encode()))
    with pytest.raises(error, match=message):
        score_file(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 5}, "line 3: Response record: text is 5, expected text"),
        ({"text": None}, "line 3: Response record: text is null, expected text"),
        ({"prompt_tokens": "12"}, "line 3: Response record: prompt_tokens is '12', expected an integer"),
        ({"log_probabilities": [0.5, "x"]}, r"line 3: log_probabilities\.1 is 'x': input should be a valid number"),
        ({"log_probabilities": [math.nan]}, "line 3: a number is NaN or infinite"),
        ({"target": {"value": math.inf}}, "line 3: a number is NaN or infinite"),
        ({"choices": "ab"}, "line 3: choices is 'ab': input should be a valid"),
    ],
)
def test_a_record_of_another_type_is_named_by_its_line(change: dict[str, Any], message: str, responses: Path) -> None:
    lines = responses.read_text(encoding="utf-8").splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **change})
    responses.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=message):
        score_file(responses)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": "four"}, "line 1: items is 'four', expected the number of items"),
        ({"items": 3}, "line 5: a response beyond the 3 items of line 1"),
        ({"benchmark_options": 5}, "line 1: benchmark_options is 5, expected an object"),
    ],
)
def test_a_header_that_was_edited_is_refused(change: dict[str, Any], message: str, responses: Path) -> None:
    head, *lines = responses.read_text(encoding="utf-8").splitlines(keepends=True)
    responses.write_text(json.dumps({**json.loads(head), **change}) + "\n" + "".join(lines), encoding="utf-8")
    with pytest.raises(RunError, match=message):
        score_file(responses)


@pytest.mark.parametrize("line", [0, 2])
def test_a_byte_order_mark_is_named_by_its_line(line: int, responses: Path) -> None:
    lines = responses.read_bytes().splitlines(keepends=True)
    lines[line] = b"\xef\xbb\xbf" + lines[line]
    responses.write_bytes(b"".join(lines))
    with pytest.raises(RunError, match=f"line {line + 1} begins with a byte-order mark"):
        score_file(responses)


def test_an_item_that_the_benchmark_lacks_is_named_by_its_line(tmp_path: Path) -> None:
    row = {"key": 7, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    (tmp_path / "input_data.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    target = {name: row[name] for name in ("instruction_id_list", "kwargs")}
    answers = [Response(key, "", "No commas.", target, text="A").to_json() for key in ("7", "8")]
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in ({"benchmark": "ifeval"}, *answers)), encoding="utf-8")
    assert score_file(path).scored.scores[0].n == 2
    with pytest.raises(RunError, match=r"line 3: item '8' is not one of the 1 in .*"):
        score_file(path, options={"data": str(tmp_path)})


def test_responses_of_another_tool_are_compared(tmp_path: Path) -> None:
    row = {"prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    rows = [{"key": number, **row, "prompt": f"No commas {number}."} for number in range(12)]
    (tmp_path / "input_data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    scored = []
    for name, text in (("a", "x, y"), ("b", "x"), ("copy", "x")):
        lines = [json.dumps({"prompt": one["prompt"], "response": text}) + "\n" for one in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        scored.append(score_file(tmp_path / f"{name}.jsonl", options={"data": str(tmp_path)}).scores_path.parent)
    first = compared(scored[0], scored[1])
    (found,) = first.comparisons
    assert (found.benchmark, found.n, found.difference) == ("ifeval", 12, 1.0) and first.same_responses == []
    assert score_file(scored[0]).scored.scores[0].value == 0  # the copy in our form gives the same scores
    (said,) = compared(scored[1], scored[2]).same_responses
    assert said.startswith("ifeval: the responses of") and said.endswith("are the same file, or a copy of it")
    with pytest.raises(UsageError, match="are the same"):
        compared(scored[0], scored[0])


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="gone: no such file"):
        score_file(tmp_path / "gone")
    with pytest.raises(RunError, match=r"contains no responses\.jsonl, samples_\*\.jsonl or annotations\.json"):
        score_file(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("no scores", "gave no score"), ("no summary", "nothing to summarise")])
def test_a_summary_that_fails_names_the_file(text: str, message: str, tmp_path: Path, benchmark: str) -> None:
    path = write_responses(tmp_path / "responses.jsonl", benchmark, [text, text])
    with pytest.raises(RunError, match=rf"responses\.jsonl: .*{message}"):
        score_file(path)


def test_where_nothing_can_be_written_is_told(responses: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(score, "write_text_atomically", refuse)
    with pytest.raises(RunError, match="arm: cannot be written: Permission denied") as caught:
        score_file(responses)
    assert caught.value.hint == "copy the responses to a writable directory"


def test_scoring_imports_no_torch_transformers_or_datasets(tmp_path: Path, responses: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tunelab.scoring.score import score_file; import tunelab\n"
        f"tunelab.allow_code({benchmark_of_file(responses)!r})\n"
        f"score_file(Path({str(responses)!r}))\n"
        "print(*sorted({'torch', 'transformers', 'datasets', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_an_error_of_zero_is_not_certainty(tmp_path: Path) -> None:
    class Alike:
        @staticmethod
        def summarise(graded: Any, options: Any) -> Scored:
            return Scored([Score("right", 0.0, 0.0, 60, "0-1", True), Score("length", 3.0, 0.0, 60, "tokens", True)])

    read = ReadResponses("sums", Alike, None, {}, [], [], None)  # type: ignore[arg-type]
    made = score._summarised(read, [], tmp_path)
    assert made.warnings == [
        "right: all 60 items have the same value: a standard error of 0 says nothing; up to 5.0 % of items may have "
        "the other value (95 % confidence)"
    ]
