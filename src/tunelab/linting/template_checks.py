"""Checks of the prompt template: is it the model's own, are its tokens whole, does it change the text."""

from __future__ import annotations

from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.control_tokens import control_tokens, split_tokens
from tunelab.data.messages import Conversation, Message
from tunelab.data.template_date import fixed_date
from tunelab.errors import BadRow, TunelabError
from tunelab.linting.finding import Check, Flagged
from tunelab.linting.rows import LintedRows
from tunelab.units import format_counted


def _everywhere(rows: LintedRows, what: str, shown: str) -> Flagged:
    """A finding about the template, which is that of every row."""
    return Flagged(what, range(len(rows)), lambda row: shown)


def split_template_tokens(rows: LintedRows) -> Flagged | None:
    """Control tokens of the chat template that the tokenizer splits."""
    using = rows.tokenized_with
    if using is None or using.splits_tokens_on_purpose or not isinstance(using.template, ChatTemplate):
        return None
    split = split_tokens(control_tokens(using.template), using.tokenizer)
    if not split:
        return None
    pieces = using.tokenizer.convert_ids_to_tokens(using.tokenizer(split[0], add_special_tokens=False)["input_ids"])
    what = f"the tokenizer splits the chat template's {', '.join(split)} into pieces"
    return _everywhere(rows, what, f"{split[0]} -> {' '.join(pieces)}")


def other_template(rows: LintedRows) -> Flagged | None:
    """Another template than the chat template that came with the model."""
    using = rows.tokenized_with
    if using is None or using.own_template is None:
        return None
    if not isinstance(using.template, ChatTemplate):
        what = f"the prompt template is {using.template.name}, but the model came with a chat template"
    elif using.tokenizer.chat_template != using.own_template:
        what = "the chat template is not the one that came with the model"
    else:
        return None
    return _everywhere(rows, what, "")


def trimmed_text(rows: LintedRows) -> Flagged | None:
    """Turns with white space at an end that the chat template removes."""
    using = rows.tokenized_with
    if using is None or not isinstance(using.template, ChatTemplate):
        return None
    trimmed = {role for role in ("user", "assistant") if _trims(using.template, role)}
    found = [
        row
        for row, example in enumerate(rows.examples)
        if isinstance(example, Conversation)
        and any(turn.role in trimmed and turn.text != turn.text.strip() for turn in example.messages)
    ]
    what = f"the chat template removes white space at the ends of turns in {format_counted(len(found), 'row')}"
    return Flagged(what, found, lambda row: _with_white_space(rows.examples[row]))


def _trims(template: ChatTemplate, role: str) -> bool:
    texts = {"user": "b", "assistant": "c"} | {role: "\n a \n"}
    try:
        text = template.applied([{"role": one, "content": content} for one, content in texts.items()])
    except BadRow:
        return False
    return "\n a \n" not in text


def _with_white_space(example: object) -> str:
    if not isinstance(example, Conversation):
        return ""
    turn = next(turn for turn in example.messages if turn.text != turn.text.strip())
    return f"{turn.role}: {turn.text[:40]!r} … {turn.text[-40:]!r}"


def dropped_thoughts(rows: LintedRows) -> Flagged | None:
    """Conversations of which the template leaves out earlier thoughts."""
    using = rows.tokenized_with
    if using is None or not isinstance(using.template, ChatTemplate) or not using.template.thoughts:
        return None
    found = [row for row, example in enumerate(rows.examples) if _drops_thoughts(using.template, example)]
    what = f"the chat template leaves out the thoughts of earlier answers in {format_counted(len(found), 'row')}"
    return Flagged(what, found, lambda row: rows.prompts[row])


def _drops_thoughts(template: ChatTemplate, example: object) -> bool:
    if not isinstance(example, Conversation) or sum(turn.role == "assistant" for turn in example.messages) < 2:
        return False
    return template.drops_thoughts(example)


def other_generation_prompt(rows: LintedRows) -> Flagged | None:
    """A chat template that puts something else before the rows' answers than its generation prompt ends with: Qwen3's
    writes an empty block of thoughts, others have that block in the prompt alone."""
    using = rows.tokenized_with
    if using is None or not isinstance(using.template, ChatTemplate) or using.template.prompt is None:
        return None
    turns = (Message("user", "a"), Message("assistant", "b"))
    try:
        trained = using.template.render(Conversation(turns))[0].segments[0].text
        asked = using.template.applied([{"role": "user", "content": "a"}], using.template.prompt).rstrip(" ")
    except TunelabError:
        return None  # rendering the rows says why
    if trained == asked:
        return None
    shared = next((n for n, pair in enumerate(zip(trained, asked, strict=False)) if pair[0] != pair[1]), None)
    shared = min(len(trained), len(asked)) if shared is None else shared
    what = (
        f"before an answer these rows have {trained[shared:]!r} where the chat template's generation prompt has "
        f"{asked[shared:]!r}"
    )
    return _everywhere(rows, what, "")


def date_in_template(rows: LintedRows) -> Flagged | None:
    """A chat template that writes a date."""
    using = rows.tokenized_with
    if using is None or not isinstance(using.template, ChatTemplate):
        return None
    day = fixed_date(using.tokenizer.chat_template)
    return None if day is None else _everywhere(rows, f"the chat template writes the date {day} into every row", "")


CHECKS = (
    Check(
        "split-template-tokens",
        "warning",
        "unless the model was tuned that way, it never saw these pieces as the marks of a turn",
        "set model.new_tokens=template to add and train these tokens",
        split_template_tokens,
    ),
    Check(
        "other-template",
        "warning",
        "what the model knows of turns is tied to its own template, and whoever serves it uses that one",
        "set data.template=chat; or serve the tuned model with the template that its run keeps",
        other_template,
    ),
    Check(
        "trimmed-text",
        "warning",
        "what is trained on differs from the file: indentation at the start of an answer is lost",
        "remove the white space from the rows, or use a text template (data.template=alpaca)",
        trimmed_text,
    ),
    Check(
        "dropped-thoughts",
        "warning",
        "only the last answer of such a row is in the loss",
        "set data.thoughts=each for one example per answer",
        dropped_thoughts,
    ),
    Check(
        "other-generation-prompt",
        "warning",
        "tunelab prompts as it trains; other programs prompt with the generation prompt, which the tuned model has not "
        "seen before an answer",
        "serve it with the template's option that writes the same (Qwen3's enable_thinking=false); if the rows have "
        "more, data.thoughts=last puts that into the loss",
        other_generation_prompt,
    ),
    Check(
        "date-in-template",
        "warning",
        "every row is trained with this day; a server writes its own",
        "set data.date, or use a template without a date",
        date_in_template,
    ),
)
