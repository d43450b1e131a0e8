"""Tokenize a benchmark's items: as raw text, or as one user turn in a chat template; each choice with its prompt.

Text is tokenized line by line where the tokenizer allows it, so that few-shot examples shared by thousands of prompts
are tokenized once. LineEncoder says when that is exact, and checks it against tokenizing whole texts before using it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from tunelab.answering.responder import Responder
from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.messages import PLACEHOLDER, Conversation, Message
from tunelab.data.prompts import Prompt, bad_prompts, in_words, leading_text
from tunelab.data.templates import Template
from tunelab.data.tokenize import leading_special_ids
from tunelab.errors import BadRow, DataError, ModelError
from tunelab.evaluation.benchmark import Item
from tunelab.evaluation.choice_question import ChoiceQuestion, choice_question, ending_question
from tunelab.progress import Progress, silent

#: Items whose texts are tokenized together: tokenizers process the texts of a batch in parallel.
ITEMS_AT_ONCE = 256

#: At most this many prompts are used to compare line by line with whole texts: one of each few-shot part.
COMPARED = 64

#: Cut between lines, where no token or pre-token can cross: after a line break that follows a non-space character,
#: before a letter or digit.
_CUT = re.compile(r"(?<=\S\n)(?=[A-Za-z0-9])")
_SPANS_CUT = re.compile("[\nĊ][A-Za-z0-9]")  # byte-level vocabularies write a line break as Ċ
_NORMALIZERS = {"NFC", "Prepend", "Replace"}
_PRE_TOKENIZERS = {"ByteLevel", "Split", "Digits", "Metaspace"}


#: A text in parts; a prefix of parts that several texts share is split into lines once.
Text = tuple[str, ...]


class _Piece(NamedTuple):
    """A unit of tokenization: some lines of a text, and whether they are its beginning."""

    is_first: bool
    text: str


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Token ids of a prompt, and how many tokens were truncated from its beginning."""

    ids: list[int]
    truncated: int = 0


def generation_prompts(
    responder: Responder, benchmark: str, items: Sequence[Item], max_new_tokens: int
) -> list[EncodedPrompt]:
    """The prompt of each item, in the responder's prompt template (or raw).

    A raw prompt is truncated on the left so that at least max_new_tokens, or half of the context if that is less,
    remain for the answer. Leading special tokens are kept.

    Raises:
        DataError: lists every item whose prompt cannot be rendered or fills the context.
    """
    if not responder.raw:
        prompts = [Prompt(item.id, (Message("user", item.prompt),), _origin(benchmark, item)) for item in items]
        return [EncodedPrompt(ids) for ids in responder.encode(prompts)]
    leading = leading_special_ids(responder.tokenizer)
    encoder = LineEncoder(responder.tokenizer, [(item.examples, item.question) for item in _one_of_each(items)])
    context, encoded = responder.context, []
    for batch in _batches(items):
        encoder.learn((item.examples, item.question) for item in batch)
        for item in batch:
            responder.note_prompt(item.prompt)
            ids = encoder.ids((item.examples, item.question))
            cut = 0
            if context is not None:
                room = context - min(max_new_tokens, context // 2) - len(leading)
                cut = max(0, len(ids) - room)
            encoded.append(EncodedPrompt([*leading, *ids[cut:]], cut))
    return encoded


def choice_questions(
    responder: Responder, benchmark: str, items: Sequence[Item], *, progress: Progress = silent
) -> list[ChoiceQuestion]:
    """Each item's prompt with its choices. Prompt and choice are tokenized together as one text.

    In a template the prompt is the user's turn, and a choice is the assistant's answer, stripped of white space. If an
    item has an ending, each choice is part of the user's turn and the ending is the answer.

    Raises:
        DataError: lists every item whose prompt cannot be rendered or whose choices cannot be scored.
    """
    texts = _ChoiceTexts(responder, benchmark)
    sample = [text for item in _one_of_each(items) for text in texts.of(item)]
    encoder = LineEncoder(responder.tokenizer, sample, split_special_tokens=texts.split_special_tokens)
    questions: list[ChoiceQuestion] = []
    bad: list[str] = []
    for batch in _batches(items):
        known = [(item, texts.of(item, bad)) for item in batch]
        encoder.learn(text for _, of_item in known for text in of_item)
        for item, of_item in known:
            if not of_item:
                continue
            responder.note_prompt("".join((item.prompt, *item.choices, item.ending)))
            encoded = [[*texts.leading, *encoder.ids(text)] for text in of_item]
            of_choices = len(encoded) - len(item.choices)
            prompts, wholes = encoded[:of_choices], encoded[of_choices:]
            try:
                if item.ending:
                    questions.append(ending_question(prompts, wholes, context=responder.context))
                else:
                    questions.append(choice_question(prompts[0], wholes, context=responder.context))
            except (DataError, ModelError) as reason:
                bad.append(f"{_origin(benchmark, item)}: {reason.message}")
        progress("tokenizing prompts", len(questions) + len(bad), len(items))
    if bad:
        raise bad_prompts(bad, len(items))
    return questions


class _ChoiceTexts:
    """The texts of an item in its prompt template: the prompt, then prompt + choice for every choice; with an ending
    prompt + choice for every choice, then each with the ending."""

    def __init__(self, responder: Responder, benchmark: str) -> None:
        self.benchmark = benchmark
        template = None if responder.raw else responder.encoder.template
        self.template = template
        #: Raw text parses special tokens that it spells out; a text template treats such strings as ordinary text.
        self.split_special_tokens = template is not None and not template.parses_special_tokens
        has_own = isinstance(template, ChatTemplate)
        self.leading = [] if has_own else leading_special_ids(responder.tokenizer)

    def of(self, item: Item, bad: list[str] | None = None) -> list[Text]:
        """Empty if the template cannot render the item; the reason is appended to `bad`."""
        if self.template is None:
            return _raw_texts(item)
        asked = [item.prompt + choice for choice in item.choices] if item.ending else [item.prompt]
        try:
            prompts = [self._prompt(self.template, text) for text in asked]
        except BadRow as reason:
            if bad is not None:
                bad.append(f"{_origin(self.benchmark, item)}: {in_words(reason)}")
            return []
        if item.ending:
            return [*((prompt,) for prompt in prompts), *((one, self._lead + item.ending.strip()) for one in prompts)]
        return [(prompts[0],), *((prompts[0], self._lead + choice.strip()) for choice in item.choices)]

    def _prompt(self, template: Template, text: str) -> str:
        """What the template puts before the answer to a user's text."""
        (section,) = template.render(Conversation((Message("user", text), Message("assistant", PLACEHOLDER))))
        place = next(number for number, segment in enumerate(section.segments) if segment.is_answer)
        return "".join(segment.text for segment in section.segments[:place])

    @cached_property
    def _lead(self) -> str:
        """What the template puts before every choice; the same for all items."""
        return leading_text(self.template) if self.template is not None else ""


def _raw_texts(item: Item) -> list[Text]:
    """As in lm-evaluation-harness, spaces that end a prompt belong to what is scored after it."""
    parts = (item.examples, item.question)
    if not item.ending:
        return [(item.examples, item.question.rstrip(" ")), *((*parts, choice) for choice in item.choices)]
    prompts = [(item.examples, (item.question + choice).rstrip(" ")) for choice in item.choices]
    return [*prompts, *((item.examples, item.question + choice, item.ending) for choice in item.choices)]


@dataclass
class LineEncoder:
    """Token ids of texts that have lines in common.

    Splitting a text between two lines and tokenizing each part separately gives the same tokens as the whole text if
    (1) the model is byte-pair encoding and no token of the vocabulary contains a line break followed by a letter or
    digit, so that no merge crosses the cut; and (2) normalizer and pre-tokenizer look only at nearby characters, as
    those of GPT-2, Llama and similar models do. For other tokenizers, and if the tokens of the sample differ, every
    text is tokenized whole.

    Args:
        tokenizer: a fast transformers tokenizer.
        sample: texts on which both methods are compared.
        split_special_tokens: special tokens spelled out in a text are ordinary text.
    """

    tokenizer: Any
    sample: Iterable[Text]
    split_special_tokens: bool = False
    by_line: bool = field(init=False, default=False)
    _cut: dict[Text, list[_Piece]] = field(init=False, default_factory=dict, repr=False)
    _known: dict[_Piece, list[int]] = field(init=False, default_factory=dict, repr=False)
    _guard: list[int] = field(init=False, default_factory=list, repr=False)

    def __post_init__(self) -> None:
        texts = list(self.sample)
        self._guard = self._encode(["\n"])[0]
        if cuts_between_lines(self.tokenizer):
            whole = self._encode(["".join(text) for text in texts])
            self.by_line = True
            self.learn(texts)
            self.by_line = [self.ids(text) for text in texts] == whole

    def learn(self, texts: Iterable[Text]) -> None:
        """Tokenize the pieces of these texts in one batch; pieces from the previous call are dropped."""
        self._known.clear()
        self._cut.clear()
        pieces = list(dict.fromkeys(piece for text in texts for piece in self._pieces(text)))
        written = [piece.text if piece.is_first else "\n" + piece.text for piece in pieces]
        guard = len(self._guard)
        for piece, ids in zip(pieces, self._encode(written), strict=True):
            self._known[piece] = ids if piece.is_first else ids[guard:]

    def ids(self, text: Text) -> list[int]:
        """Token ids of a text passed to learn(), without special tokens around it."""
        joined: list[int] = []
        for piece in self._pieces(text):
            joined += self._known[piece]
        return joined

    def _pieces(self, text: Text) -> list[_Piece]:
        """The pieces of a text. The last piece of the shared parts is joined with the text's last part."""
        if not self.by_line:
            return [_Piece(True, "".join(text))]
        if text in self._cut:
            return self._cut[text]
        before = self._pieces(text[:-1]) if len(text) > 1 else [_Piece(True, "")]
        last = before[-1]
        first, *others = _CUT.split(last.text + text[-1])
        found = [*before[:-1], _Piece(last.is_first, first), *(_Piece(False, other) for other in others)]
        self._cut[text] = found
        return found

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded: list[list[int]] = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            split_special_tokens=self.split_special_tokens,
            verbose=False,  # the caller checks for texts longer than the context
        )["input_ids"]
        return encoded


def cuts_between_lines(tokenizer: Any) -> bool:
    """Whether this tokenizer meets LineEncoder's conditions for cutting texts between lines."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model = spec["model"]
    if model["type"] != "BPE" or model.get("dropout") or model.get("end_of_word_suffix"):
        return False
    if model.get("continuing_subword_prefix") or any(_SPANS_CUT.search(token) for token in model["vocab"]):
        return False
    if not _kinds(spec["normalizer"], "normalizers") <= _NORMALIZERS:
        return False
    if not _kinds(spec["pre_tokenizer"], "pretokenizers") <= _PRE_TOKENIZERS:
        return False
    added = [token["content"] for token in spec["added_tokens"] if token["lstrip"] and token["content"][0].isalnum()]
    return not added and not any("\n" in token["content"] for token in spec["added_tokens"])


def _kinds(part: dict[str, Any] | None, members: str) -> set[str]:
    if part is None:
        return set()
    if part["type"] == "Sequence":
        return {kind for member in part[members] for kind in _kinds(member, members)}
    return {part["type"]}


def _one_of_each(items: Sequence[Item]) -> list[Item]:
    """The first item of each few-shot part, at most COMPARED."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(item.examples, item)
    return list(first.values())[:COMPARED]


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), ITEMS_AT_ONCE):
        yield items[start : start + ITEMS_AT_ONCE]


def _origin(benchmark: str, item: Item) -> str:
    return f"{benchmark} item {item.id!r}"
