"""A file of items is a benchmark: what each match rule accepts, how bad lines are named, what identifies it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunelab.answering.benchmark_items import load_benchmarks
from tunelab.errors import ConfigError, DataError, UsageError
from tunelab.evaluation import items_file
from tunelab.evaluation.benchmark import Graded, Response
from tunelab.evaluation.items_file import Options, grade, items, summarise
from tunelab.evaluation.match_rules import Match, last_number, matches, normalized


def written(folder: Path, *lines: Any, name: str = "mine.jsonl") -> Path:
    path = folder / name
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


ASKED = {"prompt": "What is the capital of France?", "answer": "Paris"}
CHOSEN = {"prompt": "The capital of France is", "choices": ["Lyon", "Paris"], "answer": "Paris"}


@pytest.mark.parametrize(
    ("match", "answer", "right", "wrong"),
    [
        ("exact", "Paris", [" Paris\n"], ["paris", "Paris.", "It is Paris", ""]),
        ("normalized", "The Paris", ["the  paris!", " “The Paris”."], ["Paris", "the paris x", ""]),
        ("normalized", "-5", ["-5.", "(-5)"], ["5", "+5"]),
        ("normalized", "3.5", ["3.5.", " 3.5,"], ["35"]),
        ("normalized", "don't", ["Don't."], ["dont"]),
        ("number", "1200", ["$1,200.00.", "first 3, then 1200", "1,200 dollars"], ["1200 of 1300", "", "1", "12,00"]),
        ("number", "-3.50", ["it is -3.5", "\u22123.5"], ["3.5", "7-3.5"]),
        ("number", "0.5", [".5", "50e-2", "0.50%"], ["5", "1/2"]),
        ("number", "20", ["10-20", "x = 20"], ["-20", "2.0"]),
        ("contains", "paris", ["It is PARIS, of course", "Parisian"], ["Lyon", ""]),
        ("contains", "New  York", ["in new\nyork"], ["newyork"]),
        ("contains", "巴黎", ["答案是巴黎。"], ["里昂"]),
        ("regex", r"\b[Pp]aris\b", ["It is paris."], ["Parisian", "PARIS"]),
    ],
)
def test_a_match_rule(match: Match, answer: str, right: list[str], wrong: list[str]) -> None:
    for text in right:
        assert matches(text, [answer], match), text
        assert matches(text, ["another 999", answer], match), "any of several answers is right"
    for text in wrong:
        assert not matches(text, [answer], match), text


def test_parts_of_the_rules() -> None:
    assert normalized("  «ÉTÉ»,  e\u0301te\u0301! ") == "été été"
    assert last_number("nothing") is None and last_number("1,2,3") == 3 and last_number("version 1.2.3") is not None
    assert last_number("1e99999999999999999999") is None and not matches("1e-99999999999999999999", ["0"], "number")


def test_a_line_becomes_an_item(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {**ASKED, "match": "contains", "group": "geography", "metadata": {"source": "me"}},
        "",
        {"prompt": "2 + 2 =", "answer": [4, "four"], "id": "sum"},
    )
    first, second = items(path, Options())
    assert (first.id, first.prompt, first.cluster) == ("1", ASKED["prompt"], "geography")
    assert first.target == {"answers": ["Paris"], "match": "contains"} and first.choices == ()
    assert (second.id, second.cluster) == ("sum", "") and second.target == {"answers": ["4", "four"], "match": "exact"}
    assert items_file.about([first], Options(stop="\n")).stop_strings == ("\n",)


def test_choices_follow_the_prompt(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        CHOSEN,
        {"prompt": "Answer:\n", "choices": ["a", "b", "c"], "answer": 2},
        {"prompt": "1 +", "choices": [" 1", " 2"], "answer": "1"},
    )
    made = items(path, Options())
    assert [one.choices for one in made] == [(" Lyon", " Paris"), ("a", "b", "c"), (" 1", " 2")]
    assert [one.target for one in made] == [1, 2, 0]
    about = items_file.about(made, Options())
    assert (about.kind, about.max_new_tokens, about.chat) == ("likelihood", 0, True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"prompt": "a", "answer": "b", "answer": "c"}',
            "not JSON: duplicate key 'answer' in one object, with 'b' and 'c'",
        ),
        ("{", "not JSON: .*one JSON object per line"),
        ("[1]", "is list, expected a JSON object"),
        ({"answer": "x"}, "has no 'prompt'"),
        ({"prompt": " ", "answer": "x"}, "'prompt' is ' ', expected a text"),
        ({"question": "?", "answer": "x"}, "unknown field 'question' .did you mean 'prompt'"),
        ({"prompt": "?", "target": "x"}, "unknown field 'target' .did you mean 'answer'"),
        ({**ASKED, "macth": "contains"}, "unknown field 'macth' .did you mean 'match'"),
        ({**ASKED, "difficulty": 3}, "unknown field 'difficulty' .put what is not evaluated under 'metadata'"),
        ({"prompt": "?"}, "has no 'answer' .add the expected answer, or choices"),
        ({"prompt": "?", "answer": []}, "'answer' is an empty list"),
        ({"prompt": "?", "answer": ""}, "'answer' has '', expected a text or a number"),
        ({"prompt": "?", "answer": True}, "'answer' has True, expected a text or a number"),
        ({**ASKED, "match": "normalised"}, "no match rule 'normalised' .did you mean 'normalized'"),
        ({**ASKED, "match": 3}, "no match rule 3 .known: exact, normalized, number, contains, regex"),
        ({**ASKED, "match": "number"}, "'answer' is 'Paris', which is not a number"),
        ({"prompt": "?", "answer": "3,14", "match": "number"}, "'answer' is '3,14', which is not a number"),
        ({"prompt": "?", "answer": float("nan"), "match": "number"}, "'answer' is nan, which is not a number"),
        (
            {"prompt": "?", "answer": "?!", "match": "normalized"},
            "'answer' is '[?]!': nothing is left of it without punctuation",
        ),
        ({"prompt": "?", "answer": "(", "match": "regex"}, r"'answer' is '\(', not a regular expression"),
        ({**ASKED, "id": 1.5}, "'id' is 1.5, expected a string or an integer"),
        ({**ASKED, "id": "first"}, "id 'first' is already at line 1"),
        ({**ASKED, "group": 3}, "'group' is 3, expected a text"),
        (CHOSEN, "has choices, other lines have none"),
    ],
)
def test_a_bad_line_is_named_with_its_file(line: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, {**ASKED, "id": "first"}, line)
    with pytest.raises(DataError, match=f"1 line cannot be used:\n  {re.escape(str(path))}: line 2: {message}"):
        items(path, Options())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": ["a"]}, "'choices' is .*, expected a list of 2 to 26 texts"),
        ({"choices": ["a"] * 27}, "'choices' is .*, expected a list of 2 to 26 texts"),
        ({"choices": ["a", 2]}, "'choices' has 2, expected a text .put numbers in quotes"),
        ({"choices": ["Paris", "Paris "]}, "'choices' has 'Paris' twice"),
        ({"answer": "B"}, "'answer' is 'B', which is not one of the choices .give the text of the right choice"),
        ({"answer": 2}, "'answer' is 2, which is not one of the choices .*index from 0 to 1"),
        ({"answer": True}, "'answer' is True, which is not one of the choices"),
        (
            {"choices": ["1", "2", "3"], "answer": 1},
            "'answer' is 1, which is the text of choice 0 and the index of another .put it in quotes",
        ),
        ({"match": "exact"}, "has choices and 'match'"),
        ({"choices": None}, "has no choices, other lines do"),
    ],
)
def test_a_bad_line_of_choices_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"line 2: {message}"):
        items(written(tmp_path, CHOSEN, {**CHOSEN, **changes}), Options())


def test_all_bad_lines_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"25 lines cannot be used:(?s:.*)line 20: not JSON(?s:.*)and 5 more"):
        items(written(tmp_path, *["{"] * 25), Options())


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    with pytest.raises(DataError, match="no such file"):
        load_benchmarks([str(path)])
    path.write_text("\n\n")
    with pytest.raises(DataError, match="has no items"):
        load_benchmarks([str(path)])
    path.write_bytes(b'{"prompt": "a", "answer": "b"}\n{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        load_benchmarks([str(path)])
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        items(tmp_path, Options())


def test_options(tmp_path: Path) -> None:
    path = str(written(tmp_path, ASKED))
    (loaded,) = load_benchmarks([path], {"mine": {"match": "contains", "stop": "\n"}})
    assert loaded.items[0].target["match"] == "contains" and loaded.about.stop_strings == ("\n",)
    with pytest.raises(ConfigError, match=r"mine.match: .*'normalized'.* got 'fuzzy'"):
        load_benchmarks([path], {"mine": {"match": "fuzzy"}})
    chosen = str(written(tmp_path, CHOSEN, name="chosen.jsonl"))
    with pytest.raises(UsageError, match="compared by likelihood: match and stop do not apply"):
        load_benchmarks([chosen], {"chosen": {"match": "contains"}})


def test_its_content_identifies_it_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    there, here = written(tmp_path / "other", ASKED), written(tmp_path, ASKED)
    headers = [load_benchmarks([str(path)])[0].header for path in (there, here)]
    assert headers[0] == headers[1] and headers[0]["benchmark"] == "mine.jsonl"
    written(tmp_path, {**ASKED, "group": "geography"})  # the same prompts and targets
    changed = load_benchmarks([str(here)])[0].header
    assert changed["items_sha256"] == headers[0]["items_sha256"] and changed != headers[0]
    sha256 = headers[0]["benchmark_options"]["sha256"]
    with pytest.raises(DataError, match="the file changed"):
        load_benchmarks([str(here)], {"mine": {"sha256": sha256}})
    assert load_benchmarks([str(there)], {"mine": {"sha256": sha256}})[0].header == headers[0]


def asked(place: int, text: str, group: str = "", match: Match = "exact") -> Graded:
    response = Response(str(place), "", "?", {"answers": ["Paris"], "match": match}, group, text=text)
    return Graded(response, grade(response, Options()))


def test_scores_have_errors_groups_and_warnings() -> None:
    graded = [asked(n, text, "ab"[n % 2]) for n, text in enumerate(["Paris", "It is Paris.", "Paris!", "Lyon"])]
    found = summarise(graded, Options())
    assert [(one.name, one.value, one.n) for one in found.scores] == [
        ("accuracy", 0.25, 4),
        ("accuracy_clustered", 0.25, 4),
    ]
    assert found.scores[0].error == pytest.approx(0.25) and found.groups["group a"][0].value == 0.5
    assert any("2 of 4 answers contain the expected one but do not equal it" in one for one in found.warnings)
    assert not summarise([asked(0, "Paris"), asked(1, "Lyon")], Options()).warnings


def test_choices_are_scored_with_and_without_their_length() -> None:
    def chosen(place: int, *log_probabilities: float) -> Graded:
        response = Response(str(place), "", "?", 1, choices=(" no", " certainly"), log_probabilities=log_probabilities)
        return Graded(response, grade(response, Options()))

    values = chosen(0, -2.0, -3.0).values
    assert (values["accuracy"], values["accuracy_norm"], values["tied"]) == (0.0, 1.0, 0.0)
    found = summarise([chosen(n, -3.0, -2.0 - n) for n in range(4)], Options())
    assert [(one.name, one.value) for one in found.scores[:2]] == [("accuracy", 0.25), ("accuracy_norm", 1.0)]
    assert [one.name for one in found.scores[2:]] == ["log_probability", "brier", "calibration_error"]
    assert found.facts["chance"] == 0.5 and found.facts["ties"] == 1
    assert "0.25 ± 0.25 of 4 items cannot be told from chance (0.50, exact binomial p = 0.625)" in found.warnings[0]
    below = summarise([chosen(n, -1.0, -2.0) for n in range(12)], Options())
    assert below.warnings[0].startswith("accuracy 0 is below chance (0.50, exact binomial p < 0.001): wrong answers")


def test_a_response_of_another_benchmark_is_refused() -> None:
    wrong = replace(items_file.EXAMPLE.right, target="Paris")
    with pytest.raises(DataError, match="target is 'Paris', expected answers and a match rule"):
        grade(wrong, Options())
    assert grade(items_file.EXAMPLE.right, Options()) == {"accuracy": 1.0}
    assert grade(items_file.EXAMPLE.wrong, Options()) == {"accuracy": 0.0}
