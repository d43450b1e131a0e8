"""Which characters a tokenizer drops, found one by one and named in one sentence."""

from __future__ import annotations

from tiny_tokenizers import byte_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tunelab.data.vocabulary import Vocabulary, dropped_characters, dropped_from_template, spells_everything


def ascii_tokenizer(unknown: str | None = None) -> PreTrainedTokenizerFast:
    """Knows ASCII alone; anything else is dropped, or becomes the unknown token."""
    vocabulary = {chr(code): code for code in range(128)} | ({unknown: 128} if unknown else {})
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=unknown))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown)


def test_characters_are_found_in_order_with_repetitions() -> None:
    vocabulary = Vocabulary(ascii_tokenizer())
    assert not vocabulary.spells_everything
    assert vocabulary.lost("röd и ö") == "öиö" and vocabulary.lost("red\n\t") == "" and vocabulary.lost("") == ""


def test_what_becomes_an_unknown_token_is_lost_too() -> None:
    assert Vocabulary(ascii_tokenizer("<unk>")).lost("röd и") == "öи"


def test_accents_that_are_composed_are_kept() -> None:
    vocabulary = Vocabulary(byte_tokenizer(replaced=("\u20ac", "")))
    assert not vocabulary.spells_everything
    assert vocabulary.lost("5 \u20ac: cafe\u0301, \u4e2d, \U0001f600") == "\u20ac"


def test_a_vocabulary_of_bytes_loses_nothing() -> None:
    assert spells_everything(byte_tokenizer()) and Vocabulary(byte_tokenizer()).lost("и \u2603") == ""


def test_the_sentence_has_a_count_and_the_most_frequent() -> None:
    told = "is not in the tokenizer's vocabulary and dropped from 1 of 2 rows: U+0007"
    assert dropped_characters({"\a": 1}, 1, "1 of 2 rows") == f"1 character {told}"
    many = {chr(ord("A") + place): 30 - place for place in range(12)}
    found = dropped_characters(many, 1_234, "9 of 10 prompts")
    assert found.startswith("1,234 characters are not in the tokenizer's vocabulary and dropped from 9 of 10 prompts: ")
    assert found.endswith(": A (30), B (29), C (28), D (27), E (26), F (25), G (24), H (23), I (22), J (21), ...")
    assert dropped_from_template("#(#") == (
        "the prompt template's own #, ( are not in the tokenizer's vocabulary and dropped from every prompt"
    )
