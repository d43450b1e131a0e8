"""language:* and change_case:*: texts in a language are told apart, always with the same verdict."""

from __future__ import annotations

import langdetect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab import languages
from tunelab.evaluation.instructions.language import english_capital, english_lowercase, response_language
from tunelab.languages import detect

TEXTS = {
    "en": "The weather is very nice today, and we are going for a walk in the park with our friends.",
    "de": "Das Wetter ist heute sehr schön, und wir gehen mit unseren Freunden im Park spazieren.",
    "fr": "Il fait très beau aujourd'hui et nous allons nous promener dans le parc avec nos amis.",
    "ru": "Сегодня очень хорошая погода, и мы идём гулять в парк вместе с нашими друзьями.",
    "hi": "आज मौसम बहुत अच्छा है और हम अपने दोस्तों के साथ पार्क में टहलने जा रहे हैं।",
    "ko": "오늘은 날씨가 아주 좋아서 우리는 친구들과 함께 공원에서 산책을 하려고 합니다.",
}


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told_apart(code: str) -> None:
    assert detect(TEXTS[code]) == code
    assert [one for one in TEXTS if response_language(TEXTS[code], language=one)] == [code]


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=60))
def test_the_same_text_has_one_language(text: str) -> None:
    first = detect(text)
    languages._detect_seeded.cache_clear()
    assert detect(text) == first
    assert detect(text, seeded=False) is None if first is None else isinstance(first, str)


def test_the_seed_of_other_users_of_langdetect_is_left_alone() -> None:
    detect(TEXTS["en"])
    assert langdetect.DetectorFactory.seed is None


def test_a_close_call_is_random_only_unseeded() -> None:
    close = "problem internet"  # Danish in 60 of 100 detections, Norwegian in 40
    assert len({detect(close, seeded=False) for _ in range(20)}) > 1
    seeded = set()
    for _ in range(4):
        languages._detect_seeded.cache_clear()
        seeded.add(detect(close))
    assert len(seeded) == 1


def test_a_close_call_goes_to_the_language_that_most_seeds_give(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter(["no", "da", "da", "no", "da", "no"])
    monkeypatch.setattr(languages, "_detect", lambda text, seed: next(given))
    languages._detect_seeded.cache_clear()
    assert detect("problem internet") == "da"
    assert next(given) == "no", "five seeds decide"
    languages._detect_seeded.cache_clear()


@pytest.mark.parametrize("text", ["", "1234 !?", "https://example.org"])
def test_a_text_without_letters_counts_as_followed(text: str) -> None:
    assert detect(text) is None
    assert response_language(text, language="de")
    assert not english_capital(text)  # nothing in it is a capital letter
    assert english_lowercase(text) == text.islower()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, len(TEXTS["en"])))
def test_one_letter_of_the_other_case_is_too_many(place: int) -> None:
    text = TEXTS["en"]
    assert english_lowercase(text.lower())
    assert english_capital(text.upper())
    assert not english_lowercase(text[:place].lower() + "A" + text[place:].lower())
    assert not english_capital(text[:place].upper() + "a" + text[place:].upper())


def test_capitals_of_another_language_fail() -> None:
    assert not english_capital(TEXTS["de"].upper())
    assert not english_lowercase(TEXTS["fr"].lower())
