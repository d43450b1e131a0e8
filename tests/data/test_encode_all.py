"""Rows encoded together are those encoded one by one, to the bit, and so are the reasons of bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import EOS, START, begin_of_text_tokenizer, byte_tokenizer, dummy_prefix_tokenizer

from tunelab.data import tokenize
from tunelab.data.answer_mask import SpecialIds, answer_tokens
from tunelab.data.messages import Conversation, Example, Message, PretokenizedRow
from tunelab.data.templates import get_template
from tunelab.data.tokenize import EncodedRow, RowEncoder
from tunelab.errors import BadRow

TOKENIZERS = {
    "bytes": byte_tokenizer(),
    "merges": byte_tokenizer([("Ċ", "Y"), ("a", "Ġ"), ("Ġ", "a")]),
    "strips": byte_tokenizer(strips=True),
    "replaces": byte_tokenizer(replaced=("!", "")),
    "begin": begin_of_text_tokenizer(),
    "dummy": dummy_prefix_tokenizer(),
}


def ask(*turns: str, **of_answers: Any) -> Conversation:
    messages = [
        Message("assistant", text, **of_answers) if number % 2 else Message("user", text)
        for number, text in enumerate(turns)
    ]
    return Conversation(tuple(messages))


ODD: list[Example] = [
    ask("Why?", "So."),
    Conversation((Message("system", "Be kind."), Message("user", "a ", "with input"), Message("assistant", " a "))),
    ask("x", "Yes!", "y", "é 😀"),
    Conversation((*ask("x", "A", in_loss=False).messages, *ask("y", "B").messages)),
    ask(f"{START} of a token", "refused by chat templates"),
    ask("x", EOS),
    ask("x", "y", reasoning="thought"),
    Conversation(ask("x", "y").messages, tools=({"type": "function", "function": {}},)),
    PretokenizedRow((1, 2, 3), (False, True, True)),
    PretokenizedRow((1, 2), (True, False)),
    PretokenizedRow((1, 2, 10**6)),
]


def one_by_one(encoder: RowEncoder, examples: Sequence[Example]) -> list[EncodedRow | BadRow]:
    found: list[EncodedRow | BadRow] = []
    for example in examples:
        try:
            found.append(encoder.encode(example))
        except BadRow as reason:
            found.append(reason)
    return found


def plain(found: Sequence[EncodedRow | BadRow]) -> list[Any]:
    """Rows as values that can be compared; of what was refused, the words."""
    return [
        (one.message, one.hint)
        if isinstance(one, BadRow)
        else (
            one.input_ids.tolist(),
            one.answer_mask.tolist(),
            one.reference,
            one.origin,
            one.lost,
            one.earlier_answers,
        )
        for one in found
    ]


@pytest.mark.parametrize(
    ("name", "template"),
    [
        *((name, template) for name in TOKENIZERS for template in ("alpaca", "plain")),
        *((name, "chat") for name in TOKENIZERS if name != "dummy"),  # which has no chat template
    ],
)
def test_rows_together_are_those_one_by_one(name: str, template: str) -> None:
    tokenizer = TOKENIZERS[name]
    encoder = RowEncoder(tokenizer, get_template(template, tokenizer))
    alone, together = one_by_one(encoder, ODD), encoder.encode_all(ODD)
    assert plain(together) == plain(alone)
    assert any(isinstance(one, BadRow) for one in together) and any(isinstance(one, EncodedRow) for one in together)
    assert all(
        one.input_ids.dtype == np.int32 and one.answer_mask.dtype == np.bool_
        for one in together
        if isinstance(one, EncodedRow)
    )


def test_a_template_that_refuses_one_of_them_names_that_one() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['content'] == 'no' %}{{ raise_exception('never') }}{% endif %}" + tokenizer.chat_template
    )
    encoder = RowEncoder(tokenizer, get_template("chat", tokenizer))
    asked = [ask(text, "y") for text in ("a", "no", "b")]
    together = encoder.encode_all(asked)
    assert plain(together) == plain(one_by_one(encoder, asked))
    assert [str(one) for one in together if isinstance(one, BadRow)] == [
        "the chat template refuses the conversation: never"
    ]


def test_texts_too_long_for_one_call_are_tokenized_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = RowEncoder(TOKENIZERS["bytes"], get_template("plain", TOKENIZERS["bytes"]))
    expected = plain(encoder.encode_all(ODD))
    monkeypatch.setattr(tokenize, "LONGEST_TOGETHER", 10)
    monkeypatch.setattr(
        encoder, "_call", lambda text, call=encoder._call: call(text) if isinstance(text, str) else 1 / 0
    )
    assert plain(encoder.encode_all(ODD)) == expected


def test_batches_in_turn_are_those_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "LONGEST_MEANWHILE", 40)  # for some batches one waits, for others not
    encoder = RowEncoder(TOKENIZERS["bytes"], get_template("chat", TOKENIZERS["bytes"]))
    batches = [ODD[start : start + 2] for start in range(0, len(ODD), 2)]
    assert [plain(one) for one in encoder.encode_in_turn(batches)] == [
        plain(one_by_one(encoder, batch)) for batch in batches
    ]
    assert list(encoder.encode_in_turn([])) == []


def test_what_fails_while_a_batch_is_tokenized_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = RowEncoder(TOKENIZERS["bytes"], get_template("chat", TOKENIZERS["bytes"]))
    monkeypatch.setattr(encoder, "_call", lambda texts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(encoder.encode_in_turn([ODD[:2], ODD[2:4]]))


TRIMS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}[E]{% endfor %}"
#: Templates and how often they render four conversations of the same roles: once each, and the outline; and twice more
#: one that holds a mark, and one whose text is not foreseen.
RENDERED = {
    TRIMS: 7,
    TRIMS.replace(" | trim", ""): 7,
    "{% if messages[0]['content'] == 'shout' %}!{% endif %}" + TRIMS: 9,
}


@pytest.mark.parametrize("text", RENDERED)
def test_a_conversation_is_rendered_once_where_the_template_only_puts_text_around_it(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = text.replace("[E]", tokenizer.eos_token)
    encoder = RowEncoder(tokenizer, get_template("chat", tokenizer))
    asked = [ask("a ", "b"), ask("shout", " c "), ask("x\ue0001\ue001", "d"), ask("<assistant>e", "e")]
    expected = plain(one_by_one(encoder, asked))
    apply, calls = tokenizer.apply_chat_template, [0]

    def counted(turns: list[Any], **settings: Any) -> Any:
        calls[0] += len(turns) if isinstance(turns[0], list) else 1
        return apply(turns, **settings)

    monkeypatch.setattr(tokenizer, "apply_chat_template", counted)
    encoder = RowEncoder(tokenizer, get_template("chat", tokenizer))
    assert plain(encoder.encode_all(asked)) == expected
    assert calls[0] == RENDERED[text]


def mask_by_hand(
    text: str,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    special: set[int],
) -> list[bool] | str | None:
    """For each token whether an answer has it; None if one spans a border; lost characters of an answer."""
    mask, covered = [], [False] * len(text)
    for id, (start, end) in zip(ids, offsets, strict=True):
        if id in special:
            core = text[start:end].strip()
            start = text.index(core, start, end)
            end = start + len(core)
        if any(start < border < end for span in spans for border in span):
            return None
        inside = any(first <= start and end <= last and start < last for first, last in spans)
        mask.append(inside)
        covered[start:end] = [inside or known for known in covered[start:end]]
    lost = ("".join(text[n] for n in range(*span) if not covered[n] and text[n].strip()) for span in spans)
    return next(filter(None, lost), None) or mask


@settings(deadline=None, max_examples=300)
@given(st.text("ab \n\u00e9", max_size=12), st.data())
def test_the_mask_is_the_one_by_hand(text: str, data: st.DataObject) -> None:
    places = st.integers(0, len(text))
    offsets = data.draw(st.lists(st.tuples(places, places).map(lambda pair: (min(pair), max(pair))), max_size=8))
    ids = data.draw(st.lists(st.integers(254, 259), min_size=len(offsets), max_size=len(offsets)))
    borders = sorted(data.draw(st.sets(places, max_size=4)))
    spans = list(zip(borders[::2], borders[1::2], strict=False))
    special = sorted(RowEncoder(TOKENIZERS["bytes"], get_template("plain", TOKENIZERS["bytes"])).special_ids)
    expected = mask_by_hand(text, ids, offsets, spans, set(special))
    try:
        found = answer_tokens(text, ids, offsets, spans, SpecialIds(special))
    except BadRow as reason:
        assert isinstance(expected, str) and reason.message == f"the tokenizer drops {expected!r} from an answer"
        return
    assert expected == (None if found is None else found.tolist())


def test_the_tokenizers_threads_start_before_a_template_renders_within_its_limit_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each thread reserves address space: on many cores more than the limit, which aborts the process."""
    encoder, seen = RowEncoder(TOKENIZERS["bytes"], get_template("plain", TOKENIZERS["bytes"])), []
    call, render = encoder._call, encoder._sections
    monkeypatch.setattr(encoder, "_call", lambda texts: (seen.append(len(texts)), call(texts))[1])
    monkeypatch.setattr(encoder, "_sections", lambda batch: (seen.append("renders"), render(batch))[1])
    assert len(list(encoder.encode_in_turn([[ask("Why?", "So.")]]))) == 1
    assert seen[:2] == [tokenize.THREADS_START_WITH, "renders"]
