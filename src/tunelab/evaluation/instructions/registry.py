"""IFEval's 25 instruction types by id; binds an instruction to its arguments.

Each is a function of a text and of the dataset's keyword arguments ("num_words", "relation"). Arguments are
validated here, before any text is checked; the functions rely on that.

Source: Zhou et al., "Instruction-Following Evaluation for Large Language Models" (arXiv 2311.07911), whose semantics
are kept exactly: google-research/google-research, instruction_following_eval.
"""

from __future__ import annotations

import functools
import inspect
import random
import string
from collections.abc import Callable, Mapping
from typing import Any, Literal

from tunelab.errors import DataError
from tunelab.evaluation.instructions import keywords, language, layout, length, whole
from tunelab.evaluation.instructions.relation import RELATIONS

Mode = Literal["exact", "reference"]

INSTRUCTIONS: Mapping[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": language.capital_word_frequency,
    "change_case:english_capital": language.english_capital,
    "change_case:english_lowercase": language.english_lowercase,
    "combination:repeat_prompt": whole.repeat_prompt,
    "combination:two_responses": whole.two_responses,
    "detectable_content:number_placeholders": layout.number_placeholders,
    "detectable_content:postscript": layout.postscript,
    "detectable_format:constrained_response": layout.constrained_response,
    "detectable_format:json_format": layout.json_format,
    "detectable_format:multiple_sections": layout.multiple_sections,
    "detectable_format:number_bullet_lists": layout.number_bullet_lists,
    "detectable_format:number_highlighted_sections": layout.number_highlighted_sections,
    "detectable_format:title": layout.title,
    "keywords:existence": keywords.existence,
    "keywords:forbidden_words": keywords.forbidden_words,
    "keywords:frequency": keywords.frequency,
    "keywords:letter_frequency": keywords.letter_frequency,
    "language:response_language": language.response_language,
    "length_constraints:nth_paragraph_first_word": length.nth_paragraph_first_word,
    "length_constraints:number_paragraphs": length.number_paragraphs,
    "length_constraints:number_sentences": length.number_sentences,
    "length_constraints:number_words": length.number_words,
    "punctuation:no_comma": whole.no_comma,
    "startend:end_checker": whole.end_checker,
    "startend:quotation": whole.quotation,
}

# Both split texts into sentences: punkt.sentences, punkt.words.
NEEDS_PUNKT = frozenset({"change_case:capital_word_frequency", "length_constraints:number_sentences"})
DETECTS_LANGUAGE = frozenset(
    {"change_case:english_capital", "change_case:english_lowercase", "language:response_language"}
)
_LETTER = "keywords:letter_frequency"
_LISTS = ("keywords", "forbidden_words")
_WORDS = ("keyword", "letter", "first_word", "end_phrase")
_TEXTS = ("language", "prompt_to_repeat", "postscript_marker", "section_spliter", *_WORDS)
_EXPRESSIONS = ("keywords", "forbidden_words", "keyword", "section_spliter", "postscript_marker")
_RELATIONS = ("relation", "let_relation", "capital_relation")


def bind(instruction: str, kwargs: Mapping[str, Any], mode: Mode = "exact") -> Callable[[str], bool]:
    """The check of one instruction: text -> whether it was followed.

    Args:
        instruction: id such as "punctuation:no_comma".
        kwargs: its arguments; None values count as absent (the hub's dataset lists all possible arguments).
        mode: "exact" = deterministic. "reference" = random where the original is: letter_frequency of a
            character other than a letter draws a letter, once per binding; language detection is unseeded.

    Raises:
        DataError: unknown instruction, or wrong arguments; says which.
    """
    if instruction not in INSTRUCTIONS:
        raise DataError(f"unknown instruction {instruction!r}", f"known: {', '.join(INSTRUCTIONS)}")
    check = INSTRUCTIONS[instruction]
    given = {name: value for name, value in kwargs.items() if value is not None}
    needed = _needed(instruction)
    if set(given) != set(needed):
        raise DataError(
            f"{instruction} got {_listed(given)}: expected {_listed(needed)}",
            "kwargs must be in the same order as instruction_id_list",
        )
    for name, value in given.items():
        if (expected := _expected(name, value)) is not None:
            raise DataError(f"{instruction}: {name} is {value!r}: expected {expected}")
    if given.get("nth_paragraph", 1) not in range(1, (last := given.get("num_paragraphs", 1)) + 1):
        raise DataError(f"{instruction}: nth_paragraph is {given['nth_paragraph']}: expected 1 to {last}")
    for name in _EXPRESSIONS:
        value = given.get(name, ())
        for expression in [value] if isinstance(value, str) else value:
            keywords.pattern(expression)
    if mode == "reference" and instruction in DETECTS_LANGUAGE:
        given["seeded"] = False
    if mode == "reference" and draws_letter(instruction, given):
        given["letter"] = random.choice(string.ascii_lowercase)
    return functools.partial(check, **given)


def draws_letter(instruction: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether the original counts a random letter here, because the requested one is not a to z."""
    return instruction == _LETTER and str(kwargs.get("letter")).lower() not in tuple(string.ascii_lowercase)


@functools.cache
def _needed(instruction: str) -> tuple[str, ...]:
    """Required arguments of an instruction: keywords without a default."""
    parameters = inspect.signature(INSTRUCTIONS[instruction]).parameters.values()
    return tuple(one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is one.empty)


def _expected(name: str, value: Any) -> str | None:
    """What was expected of an argument; None if it is valid."""
    if name in _RELATIONS:
        return None if value in RELATIONS else " or ".join(map(repr, RELATIONS))
    if name in _LISTS:
        good = isinstance(value, list) and value and all(isinstance(word, str) and word.strip() for word in value)
        return None if good else "a list of words"
    if name in _TEXTS:
        return None if isinstance(value, str) and value.strip() else "a non-empty text"
    if type(value) is not int or value < 0:  # type(): True is not a number
        return "an integer, 0 or more"
    return None


def _listed(names: Mapping[str, Any] | tuple[str, ...]) -> str:
    return ", ".join(sorted(names)) or "no arguments"
