"""Prompts for a model: texts, or the lines of a file, as turns that end with the user's, or with a tool's result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunelab.data.messages import PLACEHOLDER, Conversation, Example, Message
from tunelab.data.sources import alpaca, messages, prompt_completion
from tunelab.data.sources._tools import tools_of
from tunelab.data.tables import file_rows
from tunelab.data.templates import Template
from tunelab.data.unread_columns import ReadRow, examples_of
from tunelab.errors import BadRow, DataError
from tunelab.files import parse_json, read_text

EXPECTED = '{"prompt": "..."}, {"messages": [...]} or {"instruction": "...", "input": "..."}'
TOOLS = 'expected a list such as [{"name": "weather", "parameters": {...}}]'
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: turns that end with the user's, or a tool's, and a name that the answer is stored under.

    Args:
        item: unique among the prompts of one file.
        origin: where it comes from ("prompts.jsonl line 3"), for messages about it.
        tools: the functions that may be called, as in a Conversation.
    """

    item: str
    messages: tuple[Message, ...]
    origin: str
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @property
    def conversation(self) -> Conversation:
        return Conversation(self.messages, self.origin, self.tools)

    @property
    def text(self) -> str:
        """All that is given to the template: the turns' texts, then tools and calls as JSON."""
        called = [call for turn in self.messages for call in turn.tool_calls]
        return "".join(turn.text for turn in self.messages) + "".join(
            json.dumps(one, ensure_ascii=False) for one in (*self.tools, *called)
        )


def read_prompts(path: Path | str) -> list[Prompt]:
    """The prompts of a JSON Lines file (or of any other file that tunelab reads rows from), one per line.

    A line has `prompt`, `messages` (maybe with `tools`), or `instruction` with an optional `input`, each as in training
    data but without its answer. A column that would change the prompt and is not read is refused; others are not read.
    `id`, a string or an integer, names the answer; else the line number does.

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
            prompt = _prompt(row, number, origin)
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
                prompt = _prompt(prompt, number, f"prompt {number}")
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
    """How each prompt is stored next to its answer: `prompt`, the text of the last turn; and, if any of them has
    several turns or tools, `messages`, all turns as {"role", "content"} with their calls, and `tools`. All have the
    same columns, as tables require.
    """
    has_turns = any(len(prompt.messages) > 1 for prompt in prompts)
    has_tools = any(prompt.conversation.has_tools for prompt in prompts)
    columns: list[dict[str, Any]] = []
    for prompt in prompts:
        columns.append({"prompt": prompt.messages[-1].text})
        if has_turns or has_tools:
            columns[-1]["messages"] = [turn_columns(turn) for turn in prompt.messages]
        if has_tools:
            columns[-1]["tools"] = list(prompt.tools)
    return columns


def turn_columns(turn: Message) -> dict[str, Any]:
    """A turn as a file of rows has it."""
    calls = {"tool_calls": list(turn.tool_calls)} if turn.tool_calls else {}
    return {"role": turn.role, "content": turn.text, **calls, **turn.of_tool}


def read_tools(path: Path | str) -> tuple[Mapping[str, Any], ...]:
    """The functions in a JSON file: a list of them, bare or in OpenAI's frame.

    Raises:
        DataError: it cannot be read, or is no list of functions with names.
    """
    path = Path(path)
    try:
        found = parse_json(read_text(path, DataError, TOOLS))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "give a JSON file of functions") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}", TOOLS) from None
    if not (tools := as_tools(found, str(path))):
        raise DataError(f"{path}: has no functions", TOOLS)
    return tools


def as_tools(found: Any, where: str = "tools") -> tuple[Mapping[str, Any], ...]:
    """Functions in OpenAI's frame, from a list of them, bare or in it.

    Raises:
        DataError: it is no list of functions with names.
    """
    try:
        return tools_of({"tools": list(found) if isinstance(found, tuple) else found})
    except BadRow as reason:
        raise DataError(f"{where}: {in_words(reason)}", TOOLS) from None


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


def _prompt(row: Mapping[str, Any], number: int, origin: str) -> Prompt:
    item, asked = _item(row, number), _asked(row)
    return Prompt(item, asked.messages[:-1], origin, asked.tools)


def _asked(row: Mapping[str, Any]) -> Conversation:
    """The turns with a placeholder for the answer, read by the same sources that read training data."""
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
    return conversation


def _asking(turns: Any) -> Any:
    """The turns with a placeholder answer; what is not a list of turns is left for the source to refuse."""
    if not isinstance(turns, list):
        return turns
    last = turns[-1] if turns else None
    if isinstance(last, Mapping) and last.get("role") == "assistant":
        raise BadRow("the last turn is the assistant's, expected the user's: there is nothing to answer")
    return [*turns, {"role": "assistant", "content": PLACEHOLDER}]
