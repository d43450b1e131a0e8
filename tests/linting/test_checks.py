"""Promise: every check of the data has rows that trip it and rows like them that do not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import pytest
from tiny_tokenizers import END, START, begin_of_text_tokenizer, byte_tokenizer

from tunelab.data.loader import TokenTable
from tunelab.data.messages import Conversation, Example, Message, PretokenizedRow
from tunelab.data.template_date import with_fixed_date
from tunelab.data.templates import get_template
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import DataError, UsageError
from tunelab.linting import duplicates, text_checks
from tunelab.linting.benchmark_overlap import benchmark_overlap
from tunelab.linting.lint import CHECKS, Lint, check_allowed, lint, refuse_errors
from tunelab.linting.rows import LintedRows, TokenizedWith, together

QUESTION, ANSWER = "What is the color of the sky?", "The sky is blue on a clear day."
#: Two dozen different words, of which one may change.
LONG = "the old man who lived near the river walked every morning to the small market where he sold his bread and fish"
STRIPPING = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>\\n'}}{% endfor %}"
)


#: What Qwen3's template writes before the last answer, and into its generation prompt with enable_thinking=false alone.
EMPTY_THOUGHTS = "<think>\\n\\n</think>\\n\\n"


def prompting_tokenizer(in_prompt: str = "", in_turns: str = EMPTY_THOUGHTS) -> Any:
    """With a ChatML template that writes these before answers, and at the end of its generation prompt."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n'}}{% if m['role'] == 'assistant' %}"
        f"{{{{'{in_turns}'}}}}{{% endif %}}{{{{m['content'] + '<|im_end|>\n'}}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{'<|im_start|>assistant\n{in_prompt}'}}}}{{% endif %}}"
    )
    return tokenizer


def pair(prompt: str = QUESTION, answer: str = ANSWER) -> Conversation:
    return Conversation((Message("user", prompt), Message("assistant", answer)))


def texts(training: Sequence[Example], held_out: Sequence[Example] = ()) -> LintedRows:
    """Rows of which only the texts are known."""
    splits = {"training": range(len(training)), "held-out": range(len(training), len(training) + len(held_out))}
    rows = [*training, *held_out]
    return LintedRows(splits, [f"rows.jsonl row {number}" for number, _ in enumerate(rows, 1)], rows)


def tokenized(
    rows: Sequence[Example],
    *,
    tokenizer: Any = None,
    template: str = "plain",
    max_length: int = 500,
    thoughts: bool = False,
    **using: Any,
) -> LintedRows:
    """Training rows as the model sees them."""
    tokenizer = tokenizer or byte_tokenizer()
    encoder = RowEncoder(tokenizer, get_template(template, tokenizer, thoughts=thoughts))
    encoded = [encoder.fit(encoder.encode(row), max_length, "truncate") for row in rows]
    plain = texts(rows)
    return LintedRows(
        plain.splits,
        plain.origins,
        plain.examples,
        together([TokenTable.of([row for row in encoded if row is not None]), TokenTable.of([])]),
        TokenizedWith(tokenizer, encoder.template, encoder.stop_token_ids(), **{"loss_on": "completion", **using}),
    )


def token_row(ids: Sequence[int], answer_from: int = 2) -> PretokenizedRow:
    return PretokenizedRow(tuple(ids), tuple(place >= answer_from for place in range(len(ids))))


def fixed_date_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    dated = "{{ strftime_now('%Y') }}" + tokenizer.chat_template
    tokenizer.chat_template = with_fixed_date(dated, date(2026, 1, 2))
    return tokenizer


def stripping_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = STRIPPING
    return tokenizer


def thinking(answers: int) -> Conversation:
    turns = [(Message("user", f"Q{n}"), Message("assistant", f"A{n}", reasoning="hm")) for n in range(answers)]
    return Conversation(tuple(one for turn in turns for one in turn))


def thinking_tokenizer() -> Any:
    """Its template shows the thoughts of the last answer only, as Qwen3's does."""
    tokenizer = byte_tokenizer()
    thought = "{% if m.reasoning_content and loop.last %}{{ '<t>' + m.reasoning_content + '</t>' }}{% endif %}"
    tokenizer.chat_template = (
        f"{{% for m in messages %}}{{{{ '{START}' + m.role + '\\n' }}}}{thought}{{{{ m.content + '{END}\\n' }}}}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{{{{ '{START}assistant\\n' }}}}{{% endif %}}"
    )
    return tokenizer


EOS, BOS = 256, begin_of_text_tokenizer().bos_token_id
BEGIN = begin_of_text_tokenizer()
CHAT = byte_tokenizer()
PIECES = byte_tokenizer()
PIECES.chat_template = CHAT.chat_template.replace("<|im_start|>", "<|turn|>")
LENGTHS = [pair(QUESTION + "!" * n) for n in range(60)]
ENGLISH = (
    "The committee met on Thursday and decided that the proposal should be sent back to the authors, who were asked to "
    "explain it {n} times."
)
GERMAN = (
    "Der Ausschuss hat am Donnerstag entschieden, den Vorschlag noch einmal an die Verfasser zu senden, damit sie ihn "
    "erklären, {n} mal."
)

QUOTED = pair("Write a function that adds two numbers", '"""Write a function that adds two numbers."""')

#: Check -> rows that trip it, rows that do not.
CASES: dict[str, tuple[LintedRows, LintedRows]] = {
    "no-end-token": (tokenized([token_row([1, 2, 3, 4])]), tokenized([token_row([1, 2, 3, EOS])])),
    "doubled-bos": (
        tokenized([token_row([BOS, BOS, 3, BEGIN.eos_token_id])], tokenizer=BEGIN),
        tokenized([pair()], tokenizer=BEGIN),
    ),
    "cut-answers": (
        tokenized([pair("Hi", "Yo"), pair("Hi", "Yo" * 40)], max_length=40),
        tokenized([pair("Hi", "Yo"), pair("Hi", "Yo" * 40)]),
    ),
    "prompts-in-loss": (tokenized([PretokenizedRow((1, 2, EOS))]), tokenized([token_row([1, 2, EOS])])),
    "split-template-tokens": (
        tokenized([pair()], tokenizer=PIECES, template="chat"),
        tokenized([pair()], tokenizer=PIECES, template="chat", splits_tokens_on_purpose=True),
    ),
    "other-template": (
        tokenized([pair()], own_template=CHAT.chat_template),
        tokenized([pair()], template="chat", own_template=CHAT.chat_template),
    ),
    "trimmed-text": (
        tokenized([pair(answer="    indented code")], tokenizer=stripping_tokenizer(), template="chat"),
        tokenized([pair(answer="    indented code")], template="chat"),
    ),
    "dropped-thoughts": (
        tokenized([thinking(2)], tokenizer=thinking_tokenizer(), template="chat", thoughts=True),
        tokenized([thinking(1)], tokenizer=thinking_tokenizer(), template="chat", thoughts=True),
    ),
    "other-generation-prompt": (
        tokenized([pair()], tokenizer=prompting_tokenizer(), template="chat"),
        tokenized([pair()], tokenizer=prompting_tokenizer(EMPTY_THOUGHTS), template="chat"),
    ),
    "date-in-template": (
        tokenized([pair()], tokenizer=fixed_date_tokenizer(), template="chat"),
        tokenized([pair()], template="chat"),
    ),
    "duplicates": (texts([pair(), pair(QUESTION.upper())]), texts([pair(), pair("Why?")])),
    "near-duplicates": (
        texts([pair(LONG, LONG), pair(LONG, LONG.replace("bread", "cakes"))]),
        texts([pair(LONG, "yes"), pair(" ".join(reversed(LONG.split())), "yes")]),
    ),
    "leaked-rows": (texts([pair()], [pair("what is the color of the sky", "Gray.")]), texts([pair()], [pair("Why?")])),
    "empty-answers": (
        texts([pair(answer="N/A"), pair(answer="...")]),
        texts([pair(answer=one) for one in ("None of the above", "答", ":-)", "+--+\n|  |\n+--+")]),
    ),
    "outlying-lengths": (texts([*LENGTHS, pair(answer=LONG * 100)]), texts(LENGTHS)),
    "other-languages": (
        texts([pair(answer=(GERMAN if n == 7 else ENGLISH).format(n=n)) for n in range(200)]),
        texts([pair(answer=ENGLISH.format(n=n)) for n in range(200)]),
    ),
    "secrets": (texts([pair(answer="Use AKIA" + "Z" * 16)]), texts([pair(answer="Use AKIA and sk-learn, hf_hub")])),
    "email-addresses": (texts([pair("Write to ann@corp.io")]), texts([pair("Write to ann@example.com")])),
    "refusals": (
        texts(
            [pair(answer="As an AI language model, I have no opinion."), pair(answer="I'm sorry, but I can't do it.")]
        ),
        texts([pair(answer="I am sorry for your loss."), pair(answer="You are as dull as an AI-generated insult.")]),
    ),
    "repeated-prompts": (texts([pair(answer=f"{QUESTION} It is blue.")]), texts([pair(), QUOTED])),
    "unfinished-answers": (
        texts([pair(answer=f"{LONG} and")]),
        texts([pair(answer=end) for end in (f"{LONG}.", "of", f"{LONG}\n\nSincerely,", f"{LONG} A")]),
    ),
}


def found_in(rows: LintedRows) -> dict[str, Any]:
    return {one.check: one for one in lint(rows).findings}


def test_every_check_is_tried() -> None:
    assert list(CASES) == [check.name for check in CHECKS]


@pytest.mark.parametrize("name", CASES)
def test_it_finds_what_it_should_and_leaves_the_rest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = (one for one in CHECKS if one.name == name)
    monkeypatch.setattr(text_checks, "SAMPLE", 200)
    tripping, quiet = CASES[name]
    finding = check.find(tripping)
    assert finding is not None and len(finding.rows), "the rows that trip it"
    assert finding.what and isinstance(finding.show(finding.rows[0]), str)
    left = check.find(quiet)
    assert left is None or not len(left.rows), "the rows that do not"


def test_a_secret_and_an_address_are_counted_and_never_shown() -> None:
    key = "AKIA" + "Z" * 16
    found = lint(texts([pair(f"{key} {key}", "Write to ann@corp.io")]))
    said = str(found.to_json())
    assert "2 AWS access keys (not shown)" in said and "1 e-mail address (not shown)" in said
    kept = {name: one for name, one in found_in(texts([pair(key, "ann@corp.io")])).items()}
    shown = [row.shown for one in kept.values() if one.check in ("secrets", "email-addresses") for row in one.examples]
    assert not any(key in one or "ann@" in one for one in shown)


def test_tables_are_joined_also_where_one_is_empty() -> None:
    table, none = tokenized([pair(), pair("Why?")]).table, TokenTable.of([])
    assert table is not None
    joined = together([table, none, table])
    assert len(joined) == 4 and joined.lengths == table.lengths * 2
    assert joined.row(3)[0].tolist() == table.row(1)[0].tolist() and together([none, none]).lengths == []


def test_rows_are_named_and_three_are_shown() -> None:
    finding = found_in(texts([pair()] * 5))["duplicates"]
    assert finding.count == 4
    assert [one.row for one in finding.examples] == [f"rows.jsonl row {number}" for number in (2, 3, 4)]
    assert finding.examples[0].shown.startswith("like rows.jsonl row 1: What is the color")
    assert finding.rows[-1] == "rows.jsonl row 5"


def test_a_split_is_compared_with_the_others_and_not_with_itself() -> None:
    near = pair("Why?", LONG.replace("bread", "cakes"))
    found = found_in(texts([pair("Why?", LONG)], [pair("Why?", LONG), near]))
    assert set(found) == {"leaked-rows"}
    assert found["leaked-rows"].what.startswith(
        "2 held-out or validation rows of which another split has the same words (1)"
    )


def test_without_the_library_exact_duplicates_are_found_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "has_library", lambda: False)
    found = lint(texts([pair("Why?", LONG), pair("Why?", LONG), pair("Why?", LONG.replace("bread", "cakes"))]))
    assert [one.check for one in found.findings] == ["duplicates"]
    assert "pip install 'tunelab[near-duplicates]'" in found.notes[-1]


def test_loss_on_all_says_how_much_of_the_loss_is_prompt() -> None:
    finding = found_in(tokenized([pair("Hi", "Yo")], loss_on="all"))["prompts-in-loss"]
    assert finding.what == "data.loss_on=all: 86% of the target tokens are prompt and template"


def test_rows_that_share_thirteen_words_with_an_item_are_found_by_name() -> None:
    shared = LONG.partition(" the small")[0] + " to the small market"  # 16 words
    items = [("virology/3", f"Question: {shared}"), ("short", "Why?")]
    found = benchmark_overlap(texts([pair(), pair(f"They say {shared.upper()}!")]), "mmlu", items)
    assert found is not None and found.rows == ("rows.jsonl row 2",)
    expected = (
        "1 training row with 13 words in a row of 1 item of mmlu (1 of its 2 items are shorter and cannot be found)"
    )
    assert found.what == expected and found.examples[0].shown.startswith("mmlu virology/3: They say THE OLD MAN")
    assert benchmark_overlap(texts([pair(" ".join(shared.split()[:12]))]), "mmlu", items) is None


def test_the_frame_of_all_items_is_no_overlap() -> None:
    items = [(str(number), f"{LONG} {number}") for number in range(11)]
    assert benchmark_overlap(texts([pair(LONG)]), "mine", items) is None


def test_what_was_found_comes_back_from_json() -> None:
    found = lint(tokenized([pair(), pair()]))
    assert Lint.from_json(found.to_json()) == found
    assert [one.name for one in found.lengths] == ["rows", "answers"]
    assert sum(found.lengths[0].counts) == 2


def test_an_error_stops_unless_it_is_allowed() -> None:
    found = lint(tokenized([token_row([1, 2, 3, 4])]))
    with pytest.raises(DataError, match=r"found 1 error:\n  no-end-token: no answer of 1 training row ends") as caught:
        refuse_errors(found, [])
    assert caught.value.hint.endswith("to train nevertheless: --allow no-end-token")
    refuse_errors(found, ["no-end-token"])
    assert found.counts(["no-end-token"])["allowed"] == ["no-end-token"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("bad-rows", "such rows cannot be tokenized"), ("duplicates", "no check of this name stops a training")],
)
def test_only_errors_can_be_allowed(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_allowed([name])


@pytest.mark.parametrize("in_turns", [EMPTY_THOUGHTS, ""])
def test_training_may_differ_from_the_generation_prompt_in_both_directions(in_turns: str) -> None:
    thoughts = "<think>\n\n</think>\n\n"
    in_prompt = "" if in_turns else EMPTY_THOUGHTS
    rows = tokenized([pair()], tokenizer=prompting_tokenizer(in_prompt, in_turns), template="chat")
    (found,) = [one for one in lint(rows).findings if one.check == "other-generation-prompt"]
    here, there = (thoughts, "") if in_turns else ("", thoughts)
    said = f"before an answer these rows have {here!r} where the chat template's generation prompt has {there!r}"
    assert said in found.what
    trained = tokenized([pair()], tokenizer=prompting_tokenizer("", EMPTY_THOUGHTS), template="chat", thoughts=True)
    assert "other-generation-prompt" not in [one.check for one in lint(trained).findings]  # all of it is in the loss
