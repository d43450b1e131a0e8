"""Prompts for a model: texts, or the lines of a file, as turns that end with the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab.data.messages import Conversation, Example, Message
from tunelab.data.sources import alpaca, messages, prompt_completion
from tunelab.data.tables import file_rows
from tunelab.data.templates import Template
from tunelab.data.unread_columns import ReadRow, examples_of
from tunelab.errors import BadRow, DataError

#: Placeholder for the answer while a prompt is read and rendered.
PLACEHOLDER = "a"
EXPECTED = '{"prompt": "..."}, {"messages": [...]} or {"instruction": "...", "input": "..."}'
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: turns that end with the user's, and a name that the answer is stored under.

    Args:
        item: unique among the prompts of one file.
        origin: where it comes from ("prompts.jsonl line 3"), for messages about it.
    """

    item: str
    messages: tuple[Message, ...]
    origin: str


def read_prompts(path: Path | str) -> list[Prompt]:
    """The prompts of a JSON Lines file (or of any other file that tunelab reads rows from), one per line.

    A line has `prompt`, `messages`, or `instruction` with an optional `input`, each as in training data but without
    its answer. A column that would change the prompt and is not read is refused; others are not read. `id`, a string or
    an integer, names the answer; else the line number does.

    Raises:
        DataError: the file cannot be read, has no prompts, or has lines that cannot be used: all are listed at once.
    """
    path = Path(path)
    unit = "line" if {".jsonl", ".ndjson"} & set(path.suffixes) else "row"
    prompts: list[Prompt] = []
    bad: list[str] = []
    places: dict[str, str] = {}
    number = 0
    for number, row in file_rows(path):
        origin = f"{path} {unit} {number}"
        try:
            if isinstance(row, BadRow):
                raise row
            prompt = Prompt(_item(row, number), _turns(row), origin)
            if prompt.item in places:
                raise BadRow(f"id {prompt.item!r} is already at {places[prompt.item]}")
        except BadRow as reason:
            bad.append(f"{origin}: {in_words(reason)}")
            continue
        places[prompt.item] = f"{unit} {number}"
        prompts.append(prompt)
    if bad:
        raise bad_prompts(bad, len(prompts) + len(bad))
    if not prompts:
        raise DataError(f"{path}: the file has no prompts", f"expected one per line: {EXPECTED}")
    return prompts


def as_prompts(prompts: Sequence[str | Prompt | Mapping[str, Any]]) -> list[Prompt]:
    """Prompts from texts (one user turn) and from mappings as in a file, named by their position from 1.

    Raises:
        DataError: a text is blank, a mapping cannot be used, or two prompts have one name.
    """
    made: list[Prompt] = []
    names: set[str] = set()
    for number, prompt in enumerate(prompts, 1):
        if isinstance(prompt, str):
            if not prompt.strip():
                raise DataError(f"prompt {number} has no text")
            prompt = Prompt(f"{number:06d}", (Message("user", prompt),), f"prompt {number}")
        elif isinstance(prompt, Mapping):
            try:
                prompt = Prompt(_item(prompt, number), _turns(prompt), f"prompt {number}")
            except BadRow as reason:
                raise DataError(f"prompt {number}: {in_words(reason)}", f"expected a text, {EXPECTED}") from None
        elif not isinstance(prompt, Prompt):
            raise DataError(f"prompt {number} is {type(prompt).__name__}", f"expected a text, {EXPECTED}")
        if prompt.item in names:
            raise DataError(f"two prompts are named {prompt.item!r}", "answers are stored under their prompts' names")
        names.add(prompt.item)
        made.append(prompt)
    return made


def leading_text(template: Template) -> str:
    """What a template itself writes at the start of an answer: a space, or a place for thoughts."""
    shown = []
    for answer in ("a", "b"):
        asked = Conversation((Message("user", "x"), Message("assistant", answer)))
        segments = template.render(asked)[-1].segments
        shown.append(next(segment.text for segment in segments if segment.is_answer))
    first, second = shown
    return first[: next(place for place, one in enumerate(first) if one != second[place])]


def prompt_columns(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """How each prompt is stored next to its answer: `prompt`, the text of the last user turn; and, if any of them has
    several turns, `messages`, all turns as {"role", "content"}. All have the same columns, as tables require.
    """
    has_turns = any(len(prompt.messages) > 1 for prompt in prompts)
    columns: list[dict[str, Any]] = []
    for prompt in prompts:
        columns.append({"prompt": prompt.messages[-1].text})
        if has_turns:
            columns[-1]["messages"] = [{"role": turn.role, "content": turn.text} for turn in prompt.messages]
    return columns


def bad_prompts(bad: Sequence[str], of: int) -> DataError:
    """The error for prompts that cannot be used: "where: why" of each."""
    shown = "".join(f"\n  {line}" for line in bad[:MOST_SHOWN])
    more = f"\n  and {len(bad) - MOST_SHOWN:,} more" if len(bad) > MOST_SHOWN else ""
    return DataError(f"{len(bad):,} of {of:,} prompts cannot be used:{shown}{more}", "nothing was generated; fix them")


def in_words(reason: BadRow) -> str:
    """Reason and remedy in one line."""
    return f"{reason.message} ({reason.hint})" if reason.hint else reason.message


def _item(row: Mapping[str, Any], number: int) -> str:
    value = row.get("id")
    if value is None:
        return f"{number:06d}"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(f"'id' is {value!r}, expected a string or an integer")
    return str(value)


def _turns(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The turns before the answer, read by the same sources that read training data."""
    found = [name for name in ("prompt", "messages", "instruction") if name in row]
    if len(found) != 1:
        held = " and ".join(map(repr, found)) or f"has {', '.join(map(repr, row)) or 'no columns'}"
        raise BadRow(f"expected {EXPECTED}; it {f'has {held}' if found else held}")
    examples: list[Example]
    if found == ["prompt"]:
        whole = ReadRow({**row, "completion": PLACEHOLDER})
        examples = examples_of(prompt_completion, whole, prompt_completion.Options())
    elif found == ["instruction"]:
        examples = examples_of(alpaca, ReadRow({**row, "output": PLACEHOLDER}), alpaca.Options())
    else:
        whole = ReadRow({**row, "messages": _asking(row["messages"])})
        examples = examples_of(messages, whole, messages.Options())
    (conversation,) = examples
    assert isinstance(conversation, Conversation)  # these three sources give nothing else
    if conversation.has_tools:
        raise BadRow("prompts with tools are not supported", "tunelab eval RUN answers held-out rows with tools")
    return conversation.messages[:-1]


def _asking(turns: Any) -> Any:
    """The turns with a placeholder answer; what is not a list of turns is left for the source to refuse."""
    if not isinstance(turns, list):
        return turns
    last = turns[-1] if turns else None
    if isinstance(last, Mapping) and last.get("role") == "assistant":
        raise BadRow("the last turn is the assistant's, expected the user's: there is nothing to answer")
    return [*turns, {"role": "assistant", "content": PLACEHOLDER}]
