"""keywords:*: what was put into a text is found, what was left out is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelab.errors import DataError
from tunelab.evaluation.instructions.keywords import existence, forbidden_words, frequency, letter_frequency

FILLER = st.lists(st.sampled_from(["the", "old", "tree", "by", "water."]), max_size=8)


@given(FILLER, st.lists(st.sampled_from(["Rain", "cloud", "sun"]), min_size=1, unique=True), st.randoms())
def test_keywords_that_were_put_in_exist(filler: list[str], keywords: list[str], random) -> None:
    words = [*filler, *keywords]
    random.shuffle(words)
    text = " ".join(words)
    assert existence(text.upper(), keywords=keywords)
    assert existence(text.replace(" ", ""), keywords=keywords)  # inside longer words too
    assert not existence(text, keywords=[*keywords, "snow"])


@given(FILLER, st.integers(0, 6), st.integers(0, 6))
def test_keywords_are_counted(filler: list[str], times: int, bound: int) -> None:
    text = " ".join([*filler, *["rainy RAIN"] * times])
    assert frequency(text, keyword=" rain ", frequency=bound, relation="at least") == (2 * times >= bound)
    assert frequency(text, keyword="rain", frequency=bound, relation="less than") == (2 * times < bound)


@given(FILLER)
def test_forbidden_words_are_whole_words(filler: list[str]) -> None:
    text = " ".join(filler)
    assert forbidden_words(text + " rainy", forbidden_words=["snow", "rain"])
    assert not forbidden_words(text + " Rain!", forbidden_words=["snow", "rain"])


@given(FILLER, st.sampled_from("abz#!.*é"), st.integers(0, 5), st.integers(0, 5))
def test_letters_are_counted_and_so_is_any_other_character(
    filler: list[str], letter: str, times: int, bound: int
) -> None:
    text = " ".join(filler)
    times += text.count(letter)
    text += letter.upper() * (times - text.count(letter))
    assert letter_frequency(text, letter=letter.upper(), let_frequency=bound, let_relation="at least") == (
        times >= bound
    )
    assert letter_frequency(text, letter=letter, let_frequency=bound, let_relation="less than") == (times < bound)


def test_keywords_are_regular_expressions() -> None:
    assert existence("colour", keywords=["colou?r"])
    assert frequency("a1 b2", keyword=r"\d", frequency=2, relation="at least")
    with pytest.raises(DataError, match=r"the keyword 'C\+\+\(' is not a valid regular expression: ") as caught:
        existence("x", keywords=["C++("])
    assert "write a backslash before" in caught.value.hint
