"""All 25 instructions bind, give a bool for any text, and refuse arguments that are not theirs."""

from __future__ import annotations

import string
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.errors import DataError
from tunelab.evaluation.instructions import registry
from tunelab.evaluation.instructions.registry import DETECTS_LANGUAGE, INSTRUCTIONS, NEEDS_PUNKT, bind, draws_letter

KWARGS: dict[str, dict[str, Any]] = {
    "change_case:capital_word_frequency": {"capital_frequency": 2, "capital_relation": "at least"},
    "combination:repeat_prompt": {"prompt_to_repeat": "Say hello."},
    "detectable_content:number_placeholders": {"num_placeholders": 1},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 1},
    "detectable_format:number_bullet_lists": {"num_bullets": 1},
    "detectable_format:number_highlighted_sections": {"num_highlights": 1},
    "keywords:existence": {"keywords": ["rain", "sun"]},
    "keywords:forbidden_words": {"forbidden_words": ["rain"]},
    "keywords:frequency": {"keyword": "rain", "frequency": 2, "relation": "less than"},
    "keywords:letter_frequency": {"letter": "r", "let_frequency": 2, "let_relation": "less than"},
    "language:response_language": {"language": "de"},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "rain"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_sentences": {"num_sentences": 2, "relation": "at least"},
    "length_constraints:number_words": {"num_words": 2, "relation": "at least"},
    "startend:end_checker": {"end_phrase": "The end."},
}
WITHOUT_DATA = sorted(set(INSTRUCTIONS) - NEEDS_PUNKT)


def test_there_are_25_instructions() -> None:
    assert len(INSTRUCTIONS) == 25
    assert Counter(name.partition(":")[0] for name in INSTRUCTIONS)["detectable_format"] == 6
    assert all(name.partition(":")[2] == check.__name__ for name, check in INSTRUCTIONS.items())


@pytest.mark.parametrize("name", WITHOUT_DATA)
@settings(deadline=None, max_examples=40)
@given(text=st.text() | st.text("*-[]<>\"'{}#.,\n P.S1rainRAIN", max_size=80))
def test_any_text_gets_a_verdict(name: str, text: str) -> None:
    verdict = bind(name, KWARGS.get(name, {}))(text)
    assert type(verdict) is bool
    assert bind(name, KWARGS.get(name, {}))(text) == verdict
    assert type(bind(name, KWARGS.get(name, {}), "reference")(text)) is bool


@pytest.mark.parametrize("name", sorted(NEEDS_PUNKT))
def test_any_text_gets_a_verdict_where_punkt_is(name: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLTK_DATA", str(shared_data / "nltk_data"))
    check = bind(name, KWARGS[name])

    @settings(deadline=None, max_examples=60)
    @given(st.text() | st.text("ABc.!?'\"“”\n ", max_size=80))
    def verdicts(text: str) -> None:
        assert type(check(text)) is bool

    verdicts()


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_arguments_are_complete_and_no_others(name: str) -> None:
    kwargs = KWARGS.get(name, {})
    bind(name, {**kwargs, "unknown": None})  # the hub's rows name every argument, most of them null
    with pytest.raises(DataError, match=rf"{name} got .*unknown.*: expected "):
        bind(name, {**kwargs, "unknown": 1})
    for missing in kwargs:
        with pytest.raises(DataError, match=rf"{name} got .*: expected .*{missing}"):
            bind(name, {key: value for key, value in kwargs.items() if key != missing})


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, kwargs in KWARGS.items() for key in kwargs])
def test_arguments_of_another_type_are_refused(name: str, key: str) -> None:
    expected = {
        int: "an integer",
        str: "(a non-empty text|'less than' or 'at least')",
        list: "a list of words",
    }
    for bad in (True, -1, 1.5, "", " ", [], [""], ["x", 3], {"a": 1}):
        message = rf"{name}: {key} is .*: expected {expected[type(KWARGS[name][key])]}"
        with pytest.raises(DataError, match=message):
            bind(name, {**KWARGS[name], key: bad})


@pytest.mark.parametrize("place", [0, 3])
def test_the_nth_paragraph_is_one_of_them(place: int) -> None:
    name = "length_constraints:nth_paragraph_first_word"
    with pytest.raises(DataError, match=f"{name}: nth_paragraph is {place}: expected 1 to 2"):
        bind(name, {"nth_paragraph": place, "num_paragraphs": 2, "first_word": "a"})


def test_unknown_instructions_and_bad_expressions_are_refused() -> None:
    with pytest.raises(DataError, match="unknown instruction 'punctuation:no_comma '") as caught:
        bind("punctuation:no_comma ", {})
    assert "punctuation:no_comma, " in caught.value.hint
    with pytest.raises(DataError, match=r"the keyword '\(' is not a valid regular expression"):
        bind("keywords:existence", {"keywords": ["a", "("]})


def test_reference_mode_draws_a_letter_where_the_original_does(monkeypatch: pytest.MonkeyPatch) -> None:
    kwargs = {"letter": "#", "let_frequency": 3, "let_relation": "at least"}
    name = "keywords:letter_frequency"
    assert draws_letter(name, kwargs)
    assert not draws_letter(name, {**kwargs, "letter": "Q"})
    assert not draws_letter("startend:quotation", {})
    assert bind(name, kwargs)("###")
    monkeypatch.setattr(registry.random, "choice", lambda letters: letters[-1])
    check = bind(name, kwargs, "reference")
    assert not check("###")
    assert check(string.ascii_letters * 2)
    assert check("zZz")
    assert bind(name, {**kwargs, "letter": "Q"}, "reference")("qqQ")


@pytest.mark.parametrize("name", sorted(DETECTS_LANGUAGE))
def test_reference_mode_detects_languages_unseeded(name: str) -> None:
    assert bind(name, KWARGS.get(name, {}), "reference").keywords["seeded"] is False  # type: ignore[attr-defined]
    assert "seeded" not in bind(name, KWARGS.get(name, {})).keywords  # type: ignore[attr-defined]


def test_grading_starts_light() -> None:
    code = (
        "import sys, tunelab.evaluation.benchmarks.ifeval as b; b.grade(b.EXAMPLE.right, b.Options()); "
        "print({'torch', 'transformers', 'nltk', 'langdetect', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
