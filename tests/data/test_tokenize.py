"""Tokens and target masks: borders that tokens span, rows that are cut, rows of ids, and every refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_tokenizers import begin_of_text_tokenizer, byte_tokenizer, dummy_prefix_tokenizer

from tunelab.data.messages import Conversation, Message, PretokenizedRow
from tunelab.data.templates import get_template
from tunelab.data.tokenize import EncodedRow, RowEncoder, answer_runs, leading_special_ids
from tunelab.data.vocabulary import spells_everything
from tunelab.errors import BadRow, ModelError

BYTES = byte_tokenizer()


def ask(*turns: str) -> Conversation:
    """User and assistant in turn, from the user on."""
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[number % 2], text) for number, text in enumerate(turns)))  # type: ignore[arg-type]


def encoder(template: str = "alpaca", tokenizer: Any = BYTES) -> RowEncoder:
    return RowEncoder(tokenizer, get_template(template, tokenizer))


def spelled(row: EncodedRow, tokenizer: Any = BYTES) -> list[str]:
    """The text of each stretch of targets, special tokens written out."""
    return [tokenizer.decode(row.input_ids[start:end]) for start, end in answer_runs(row.answer_mask)]


# Borders


def test_a_token_that_spans_prompt_and_answer_is_split() -> None:
    tokenizer = byte_tokenizer([("Ċ", "Y")])
    whole = tokenizer("Response:\nYes")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(whole)[9] == "ĊY", "the tokenizer does merge over the border"
    row = encoder(tokenizer=tokenizer).encode(ask("Is it?", "Yes"))
    assert spelled(row, tokenizer) == ["Yes<eos>"]
    assert tokenizer.decode(row.input_ids).endswith("### Response:\nYes<eos>")
    assert tokenizer.get_vocab()["ĊY"] not in row.input_ids


def test_the_guard_of_a_split_is_one_that_does_not_merge_either() -> None:
    tokenizer = byte_tokenizer([("Ċ", "Y"), (".", "Y"), ("a", "Y")])
    row = encoder(tokenizer=tokenizer).encode(ask("Is it?", "Yes"))
    assert spelled(row, tokenizer) == ["Yes<eos>"]


def test_a_token_that_no_guard_can_split_refuses_the_row() -> None:
    tokenizer = byte_tokenizer([("Ċ", "Y"), (".", "Y"), ("a", "Y"), ("0", "Y"), (")", "Y")])
    with pytest.raises(
        BadRow, match="a token spans the boundary between prompt and answer, and cannot be split"
    ) as error:
        encoder(tokenizer=tokenizer).encode(ask("Is it?", "Yes"))
    assert "another template" in error.value.hint
    assert spelled(encoder("plain", tokenizer).encode(ask("Is it?", "Yes")), tokenizer) == [" Yes<eos>"]


def test_a_split_that_spells_something_else_refuses_the_row() -> None:
    tokenizer = byte_tokenizer([("Ċ", "Y")], strips=True)  # the prompt alone loses the line break at its end
    with pytest.raises(BadRow, match="a token spans the boundary between prompt and answer, and cannot be split"):
        encoder(tokenizer=tokenizer).encode(ask("Is it?", "Yes"))


def test_a_character_that_the_tokenizer_drops_from_an_answer_refuses_the_row() -> None:
    tokenizer = byte_tokenizer(replaced=("☃", ""))
    assert spells_everything(tokenizer)
    with pytest.raises(BadRow, match="the tokenizer drops '☃' from an answer") as error:
        encoder(tokenizer=tokenizer).encode(ask("Snow?", "A ☃ there"))
    assert error.value.hint == "use another tokenizer"


@pytest.mark.parametrize("template", ["alpaca", "plain"])
def test_a_dummy_prefix_stands_at_the_start_of_a_text_only(template: str) -> None:
    tokenizer = dummy_prefix_tokenizer()
    assert tokenizer.convert_ids_to_tokens(tokenizer("Yes")["input_ids"])[0] == "▁"
    row = encoder(template, tokenizer).encode(ask("Is it?", "Yes"))
    learned = tokenizer.convert_ids_to_tokens(row.input_ids[row.answer_mask].tolist())
    assert learned == [*(["▁"] if template == "plain" else []), "Y", "e", "s", "<eos>"]


def test_a_dummy_prefix_is_not_put_before_a_split_answer() -> None:
    tokenizer = dummy_prefix_tokenizer([("\n", "Y")])
    assert "\nY" in tokenizer.convert_ids_to_tokens(tokenizer("Response:\nYes")["input_ids"])
    row = encoder(tokenizer=tokenizer).encode(ask("Is it?", "Yes"))
    learned = tokenizer.convert_ids_to_tokens(row.input_ids[row.answer_mask].tolist())
    assert learned == ["Y", "e", "s", "<eos>"]
    assert tokenizer.decode(row.input_ids).endswith("### Response:\nYes<eos>")


def test_a_character_of_several_tokens_belongs_wholly_to_the_answer() -> None:
    row = encoder("plain").encode(ask("é?", "é😀"))
    assert spelled(row) == [" é😀<eos>"]
    assert int(row.answer_mask.sum()) == len(" é😀".encode()) + 1


# Special tokens


def test_leading_special_ids_are_those_that_the_tokenizer_puts_before_a_text() -> None:
    assert leading_special_ids(BYTES) == []
    tokenizer = begin_of_text_tokenizer()
    assert leading_special_ids(tokenizer) == [tokenizer.bos_token_id]


def test_a_text_template_begins_with_them_once_and_a_chat_template_brings_its_own() -> None:
    tokenizer = begin_of_text_tokenizer()
    row = encoder("plain", tokenizer).encode(ask("A", "b", "C", "d"))
    assert row.input_ids[0] == tokenizer.bos_token_id
    assert (row.input_ids == tokenizer.bos_token_id).sum() == 1
    assert tokenizer.bos_token_id not in encoder("chat", tokenizer).encode(ask("A", "b")).input_ids


def test_stop_token_ids_are_what_closes_an_answer() -> None:
    eos, end = BYTES.convert_tokens_to_ids(["<eos>", "<|im_end|>"])
    assert encoder("alpaca").stop_token_ids() == [eos]
    assert encoder("chat").stop_token_ids() == sorted([eos, end])


def test_a_chat_answer_is_closed_by_the_templates_own_token() -> None:
    row = encoder("chat").encode(ask("A", "b", "C", "d"))
    assert spelled(row) == ["b<|im_end|>", "d<|im_end|>"]


def test_a_tokenizer_without_end_of_sequence_can_do_chat_alone() -> None:
    tokenizer = byte_tokenizer(eos=None)
    with pytest.raises(ModelError, match="the tokenizer has no end-of-sequence token: nothing would teach") as error:
        encoder("alpaca", tokenizer)
    assert "data.template=chat" in error.value.hint
    chat = encoder("chat", tokenizer)
    assert chat.stop_token_ids() == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_a_special_tokens_text_in_the_data_is_text_or_refuses_the_row() -> None:
    row = encoder("plain").encode(ask("What is <eos>?", "It is <eos>."))
    assert (row.input_ids == BYTES.eos_token_id).sum() == 1 and row.input_ids[-1] == BYTES.eos_token_id
    with pytest.raises(BadRow, match=r"message 2 \(assistant\) contains '<eos>', which the chat template's tokenizer"):
        encoder("chat").encode(ask("What?", "It is <eos>."))


# Rows too long


def test_a_row_that_fits_is_the_row_itself() -> None:
    row = encoder().encode(ask("Is it?", "Yes"))
    for on_overflow in ("drop", "truncate"):
        assert encoder().fit(row, len(row.input_ids), on_overflow) is row  # type: ignore[arg-type]
    assert encoder().fit(row, len(row.input_ids) - 1, "drop") is None


def test_a_cut_answer_has_no_end_of_sequence() -> None:
    row = encoder().encode(ask("Is it?", "Yes, it is"))
    for cut in (1, 4):
        kept = encoder().fit(row, len(row.input_ids) - cut, "truncate")
        assert kept is not None and kept.truncated and len(kept.input_ids) == len(row.input_ids) - cut
        assert BYTES.eos_token_id not in kept.input_ids
        assert spelled(kept) == ["Yes, it is"[: 11 - cut]]
        assert kept.reference == "Yes, it is", "it is measured against the whole answer"
    assert not row.truncated


def test_a_row_cut_before_its_first_target_is_dropped() -> None:
    row = encoder().encode(ask("Is it?", "Yes"))
    assert encoder().fit(row, row.prompt_length, "truncate") is None
    assert encoder().fit(row, row.prompt_length + 1, "truncate") is not None


def test_a_row_that_loses_its_last_answer_is_asked_and_measured_at_the_one_before() -> None:
    row = encoder("plain").encode(ask("A", "first", "B", "second"))
    assert row.reference == "second"
    first_end = answer_runs(row.answer_mask)[0][1]
    kept = encoder("plain").fit(row, first_end + 3, "truncate")
    assert kept is not None
    assert kept.reference == "first"
    assert BYTES.decode(kept.input_ids[: kept.prompt_length]) == "Instruction: A\nResponse:"
    assert spelled(kept) == [" first<eos>"], "an earlier answer did end there, and keeps its end"


# Rows of ids


@pytest.mark.parametrize("template", ["plain", "alpaca"])
def test_the_reference_is_the_last_answer_in_the_loss(template: str) -> None:
    turns = list(ask("Hi", "Yo", "And?", "No", "So?", "Ok").messages)
    turns[5] = Message("assistant", "Ok", in_loss=False)
    row = encoder(template).encode(Conversation(tuple(turns)))
    assert [text.strip() for text in spelled(row)] == ["Yo<eos>", "No<eos>"]
    assert (row.reference, row.earlier_answers) == ("No", ("Yo",))
    assert BYTES.decode(row.input_ids[row.prompt_length :]).strip().startswith("No<eos>")
    cut = encoder(template).fit(row, row.prompt_length, "truncate")
    assert cut is not None and (cut.reference, cut.earlier_answers) == ("Yo", ())


def test_rows_of_ids_pass_through_untouched() -> None:
    ids = BYTES("what? this")["input_ids"]
    mask = [False] * 6 + [True] * (len(ids) - 6)
    for template in ("alpaca", "chat"):
        row = encoder(template).encode(PretokenizedRow(tuple(ids), tuple(mask), "here"))
        assert row.input_ids.tolist() == ids and row.answer_mask.tolist() == mask
        assert row.reference == "this" and row.origin == "here" and row.prompt_length == 6


def test_rows_of_ids_without_a_mask_are_learned_wholly() -> None:
    row = encoder().encode(PretokenizedRow((1, 2, 3)))
    assert row.answer_mask.all() and row.prompt_length == 0


def test_rows_of_ids_that_are_cut_keep_the_reference_of_their_last_answer() -> None:
    ids = BYTES("Q1 a1 Q2 a2")["input_ids"]
    mask = [place in (3, 4, 9, 10) for place in range(11)]
    row = encoder().encode(PretokenizedRow(tuple(ids), tuple(mask)))
    assert row.reference == "a2"
    kept = encoder().fit(row, 8, "truncate")
    assert kept is not None and kept.reference == "a1"


@pytest.mark.parametrize("id", [len(BYTES), 2**31, 2**70])
def test_ids_that_the_tokenizer_does_not_have_refuse_the_row(id: int) -> None:
    largest = max(BYTES.get_vocab().values())
    with pytest.raises(BadRow, match=f"input_ids holds {id}, but the tokenizer's largest id is {largest}$") as error:
        encoder().encode(PretokenizedRow((1, id)))
    assert "own tokenizer" in error.value.hint
    encoder().encode(PretokenizedRow((1, largest)))


@pytest.mark.parametrize("mask", [(False, False), (True, False)])
def test_a_row_without_targets_is_refused(mask: tuple[bool, ...]) -> None:
    with pytest.raises(BadRow, match="zero target tokens: no token of the row belongs to an answer"):
        encoder().encode(PretokenizedRow((1, 2), mask))


def test_answer_runs_are_the_stretches_of_the_mask() -> None:
    def runs(mask: list[int]) -> list[tuple[int, int]]:
        return answer_runs(np.asarray(mask, dtype=np.bool_))

    assert runs([0, 1, 1, 0, 1]) == [(1, 3), (4, 5)]
    assert runs([1]) == [(0, 1)]
    assert runs([0, 0]) == [] and runs([]) == []
