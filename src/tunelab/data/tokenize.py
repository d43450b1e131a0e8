"""Text to token ids, with an exact mask of the tokens that belong to answers.

A section is tokenized whole, and the tokenizer's character offsets say which tokens are in an answer. Checked both
ways: every answer token covers only answer text, and every character of an answer is covered by answer tokens. If a
token spans the boundary, or if the vocabulary does not cover every text (offsets then mean little), each segment is
tokenized as a continuation of the one before; the tokens must still decode to what they decode to together, or the row
is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tunelab.data.answer_mask import Mask, SpecialIds, answer_tokens
from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.messages import PLACEHOLDER, Conversation, Example, Message, PretokenizedRow
from tunelab.data.sections import Section, Segment
from tunelab.data.templates import Template
from tunelab.data.vocabulary import Vocabulary
from tunelab.errors import BadRow, ModelError

#: Characters after which a continuation is tokenized; the first that stays a separate token is used.
GUARDS = ("\n", ".", "a", "0", ")")

#: Characters that are tokenized in one call; more of them text by text, so that memory stays bounded.
LONGEST_TOGETHER = 4_000_000
#: Texts of one call that starts all of the tokenizer's threads and gives each the time to reserve its memory.
THREADS_START_WITH = 512
#: Characters that are tokenized while the template renders.
LONGEST_MEANWHILE = 400_000

Ids = npt.NDArray[np.int32]

#: Ids of a text's tokens, and the characters [start, end) that each covers.
_Encoded = tuple[list[int], Sequence[tuple[int, int]]]

#: The sections of each conversation, or why it has none.
_Rendered = list[tuple[Section, ...] | BadRow]


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row as the model sees it.

    Args:
        input_ids: [tokens].
        answer_mask: [tokens], True where a token belongs to an answer (its end-of-sequence token included).
        reference: text of the last answer in the loss that the row holds, uncut.
        truncated: the row was cut at `max_length`; an answer that is cut has no end-of-sequence token.
        lost: the messages' characters that are not in the vocabulary and dropped; "" with most tokenizers.
        earlier_answers: text of the answers before the last; one of these is the reference where a cut takes the last.
    """

    input_ids: Ids
    answer_mask: Mask
    reference: str
    origin: str
    truncated: bool = False
    lost: str = ""
    earlier_answers: tuple[str, ...] = ()

    @property
    def prompt_length(self) -> int:
        """Tokens before the last answer in the loss: exactly what a model is prompted with."""
        return answer_runs(self.answer_mask)[-1][0]


class RowEncoder:
    """Turns examples into rows for one tokenizer and template.

    Args:
        tokenizer: a fast transformers tokenizer.
        template: from tunelab.data.templates.get_template.
        end_token_ids: ids that end an answer of this model besides those of tokenizer and template.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token, with which a text template closes answers.
    """

    def __init__(self, tokenizer: Any, template: Template, end_token_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.end_token_ids = frozenset(end_token_ids)
        self.special_ids = frozenset(id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
        if tokenizer.eos_token_id is None and not template.parses_special_tokens:
            raise ModelError(
                "the tokenizer has no end-of-sequence token: nothing would teach the model to stop",
                "use a tokenizer that has one, or its chat template (data.template=chat)",
            )
        self._special = SpecialIds(sorted(self.special_ids))
        self.largest_id = max(tokenizer.get_vocab().values())
        self.vocabulary = Vocabulary(tokenizer)
        self.leading_ids = [] if template.parses_special_tokens else leading_special_ids(tokenizer)

    def encode(self, example: Example) -> EncodedRow:
        """One example as a row.

        Raises:
            BadRow: no token would be a target, it is unclear whether a token is in an answer, or ids do not fit.
        """
        if isinstance(example, PretokenizedRow):
            return self._pretokenized(example)
        return self._row(example, self.template.render(example), None)

    def encode_all(self, examples: Sequence[Example]) -> list[EncodedRow | BadRow]:
        """encode() of each, with one call of the template and one of the tokenizer for all; what an example raises is
        in its place."""
        rendered, texts = self._sections(examples)
        return self._rows(examples, rendered, self._tokenized(texts))

    def encode_in_turn(self, batches: Iterable[Sequence[Example]]) -> Iterator[list[EncodedRow | BadRow]]:
        """encode_all() of each batch. While one is tokenized, by the tokenizer's threads and not Python's, the next is
        rendered and the masks of the one before are computed."""
        if self.vocabulary.spells_everything:
            # Each of its threads reserves address space, which a template's limit of memory would refuse: that aborts.
            self._call([PLACEHOLDER] * THREADS_START_WITH)
        waiting: deque[tuple[Sequence[Example], _Rendered, Future[list[_Encoded | None]]]] = deque()
        with ThreadPoolExecutor(1) as threads:
            for batch in batches:
                rendered, texts = self._sections(batch)
                tokenized = threads.submit(self._tokenized, texts)
                if sum(map(len, texts)) > LONGEST_MEANWHILE:
                    tokenized.exception()  # waits: the next batch is rendered within a limit of memory
                waiting.append((batch, rendered, tokenized))
                if len(waiting) > 1:
                    examples, of_examples, encoded = waiting.popleft()
                    yield self._rows(examples, of_examples, encoded.result())
            for examples, of_examples, encoded in waiting:
                yield self._rows(examples, of_examples, encoded.result())

    def _sections(self, examples: Sequence[Example]) -> tuple[_Rendered, list[str]]:
        """The sections of each conversation, and the texts of all that is to be tokenized."""
        rendered = self.template.render_all([one for one in examples if isinstance(one, Conversation)])
        return rendered, [part.text for one in rendered if isinstance(one, tuple) for part in one]

    def _rows(
        self, examples: Sequence[Example], rendered: _Rendered, tokenized: Sequence[_Encoded | None]
    ) -> list[EncodedRow | BadRow]:
        """The row of each example, or why there is none."""
        encoded, sections = iter(tokenized), iter(rendered)
        found: list[EncodedRow | BadRow] = []
        for example in examples:
            try:
                if isinstance(example, PretokenizedRow):
                    found.append(self._pretokenized(example))
                    continue
                of_row = next(sections)
                if isinstance(of_row, BadRow):
                    raise of_row
                found.append(self._row(example, of_row, [next(encoded) for _ in of_row]))
            except BadRow as reason:
                found.append(reason)
        return found

    def _row(
        self, example: Conversation, sections: Sequence[Section], encoded: Sequence[_Encoded | None] | None
    ) -> EncodedRow:
        """The row of an example's sections. `encoded`: their tokens, where they are known already."""
        ids: list[int] = list(self.leading_ids)
        masks = [np.zeros(len(ids), dtype=np.bool_)]
        for number, section in enumerate(sections):
            section_ids, section_mask = self._encode_section(section, encoded[number] if encoded else None)
            ids += section_ids
            masks.append(section_mask)
            if section.ends_with_eos:
                ids.append(self.tokenizer.eos_token_id)
                masks.append(np.array([section.segments[-1].is_answer]))
        input_ids, answer_mask = np.asarray(ids, dtype=np.int32), np.concatenate(masks)
        answers = [turn.text for turn in example.messages if turn.role == "assistant" and turn.in_loss]
        if example.has_tools:  # a call's text is the template's
            answers = self._answers(input_ids, answer_mask)
        row = EncodedRow(
            input_ids=input_ids,
            answer_mask=answer_mask,
            reference=answers[-1],
            origin=example.origin,
            lost=self._lost(example, sections),
            earlier_answers=tuple(answers[:-1]),
        )
        return _with_targets(row)

    def prompt_ids(self, asked: Conversation) -> list[int]:
        """Token ids that an answer to these turns follows: what comes before it in a row.

        Args:
            asked: turns that end with the user's, or a tool's.

        Raises:
            BadRow: as encode() does.
        """
        if asked.has_tools and isinstance(self.template, ChatTemplate):
            ids, _ = self._encode_section(Section((Segment(self.template.tool_prompt(asked), False),), False))
            return ids
        row = self.encode(replace(asked, messages=(*asked.messages, Message("assistant", PLACEHOLDER))))
        return list(row.input_ids[: row.prompt_length].tolist())

    def fit(self, row: EncodedRow, max_length: int, on_overflow: Literal["drop", "truncate"]) -> EncodedRow | None:
        """The row itself if it has at most `max_length` tokens; else None (drop), or its first tokens (truncate).

        A row that would keep no target is dropped as well. A cut answer has no end-of-sequence target, since it does
        not end there. If the cut removes the last answer, the one before becomes the row's last, and its reference.
        """
        if len(row.input_ids) <= max_length:
            return row
        ids, mask = row.input_ids[:max_length], row.answer_mask[:max_length]
        if on_overflow == "drop" or not mask[1:].any():
            return None
        answers = (*row.earlier_answers, row.reference)[: len(answer_runs(mask))]
        return replace(
            row, input_ids=ids, answer_mask=mask, truncated=True, reference=answers[-1], earlier_answers=answers[:-1]
        )

    def lost_of_template(self) -> str:
        """The template's own characters that are not in the vocabulary and dropped from every prompt."""
        sample = Conversation((Message("user", "a", "a"), Message("assistant", "a")))
        return self._lost_of_rendered(self.template.render(sample))

    def stop_token_ids(self) -> list[int]:
        """Ids that end an answer: end of sequence, the chat template's closing token, and those that the model names.

        The model's own end tokens count under every template: a model that was tuned to end with one of them still
        does when it is prompted in another template.
        """
        stops = ({self.tokenizer.eos_token_id} - {None}) | {id for id in self.end_token_ids if id <= self.largest_id}
        if self.template.parses_special_tokens:
            sample = Conversation((Message("user", "a"), Message("assistant", "b")))
            ids, mask = self._encode_section(self.template.render(sample)[0])
            stops |= {id for id, answer in zip(ids, mask, strict=True) if answer and id in self.special_ids}
        return sorted(stops)

    def _encode_section(self, section: Section, encoded: _Encoded | None = None) -> tuple[list[int], Mask]:
        """Ids and answer mask of a section. `encoded`: its tokens, where they are known already."""
        if self.vocabulary.spells_everything:
            ids, offsets = encoded or self._tokenize(section.text)
            mask = answer_tokens(section.text, ids, offsets, _answer_spans(section.segments), self._special)
            if mask is not None:
                return ids, mask
        return self._encode_continued(section.segments, section.text)

    def _tokenized(self, texts: Sequence[str]) -> list[_Encoded | None]:
        """The tokens of each text, from one call; None each where they are not used, or the texts are too long for it.

        The tokenizer takes several texts at once on several cores.
        """
        if not texts or not self.vocabulary.spells_everything or sum(map(len, texts)) > LONGEST_TOGETHER:
            return [None] * len(texts)
        found = self._call(list(texts))
        return list(zip(found["input_ids"], found["offset_mapping"], strict=True))

    def _tokenize(self, text: str) -> _Encoded:
        found = self._call(text)
        return found["input_ids"], found["offset_mapping"]

    def _call(self, texts: str | list[str]) -> Any:
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            split_special_tokens=not self.template.parses_special_tokens,
            verbose=False,  # the caller counts and reports texts longer than the context window
        )

    def _encode_continued(self, segments: Sequence[Segment], text: str) -> tuple[list[int], Mask]:
        """Tokens of each segment as a continuation of the one before, so that no token spans a boundary.

        Raises:
            BadRow: together they do not decode to what the text as a whole decodes to.
        """
        ids: list[int] = []
        mask: list[bool] = []
        before = ""
        for segment in segments:
            part = self._continuation(before, segment.text)
            ids += part
            mask += [segment.is_answer] * len(part)
            before = segment.text
        if self._decode(ids) != self._decode(self._tokenize(text)[0]):
            raise _border_error()
        return ids, np.asarray(mask, dtype=np.bool_)

    def _continuation(self, before: str, text: str) -> list[int]:
        """Tokens of `text` after other text, without the space that some tokenizers put at the beginning.

        It is tokenized after a guard that stays a separate token, and the guard's tokens are removed again: the
        special token before it, if there is one, else one of a few characters.
        """
        if not before:
            return list(self._tokenize(text)[0])
        special = [token for token in self._special_strings() if before.endswith(token)]
        for guard in special or GUARDS:
            alone, _ = self._tokenize(guard)
            both, _ = self._tokenize(guard + text)
            if alone and both[: len(alone)] == alone:
                return list(both[len(alone) :])
        raise _border_error()

    def _lost(self, example: Conversation, sections: Sequence[Section]) -> str:
        """Characters of a row that are dropped; tools, calls and thoughts count as the template writes them."""
        if example.has_tools or any(message.reasoning for message in example.messages):
            return self._lost_of_rendered(sections)
        return "".join(self.vocabulary.lost(message.text) for message in example.messages)

    def _lost_of_rendered(self, sections: Sequence[Section]) -> str:
        text = "".join(part.text for section in sections for part in section.segments)
        for token in self._special_strings():
            text = text.replace(token, "")
        return self.vocabulary.lost(text)

    def _special_strings(self) -> tuple[str, ...]:
        return self.template.special_tokens if isinstance(self.template, ChatTemplate) else ()

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def _answers(self, ids: Ids, mask: Mask) -> list[str]:
        """The text of each answer, without special tokens."""
        runs = answer_runs(mask)
        return [str(self.tokenizer.decode(ids[start:end], skip_special_tokens=True)) for start, end in runs]

    def _pretokenized(self, row: PretokenizedRow) -> EncodedRow:
        largest = max(row.input_ids, default=0)
        if largest > self.largest_id:
            raise BadRow(
                f"input_ids holds {largest}, but the tokenizer's largest id is {self.largest_id}",
                "tokenize with the model's own tokenizer",
            )
        ids = np.asarray(row.input_ids, dtype=np.int32)
        mask = np.asarray([True] * len(ids) if row.completion_mask is None else row.completion_mask, dtype=np.bool_)
        encoded = _with_targets(EncodedRow(ids, mask, reference="", origin=row.origin))
        answers = self._answers(ids, mask)
        return replace(encoded, reference=answers[-1], earlier_answers=tuple(answers[:-1]))


def answer_runs(mask: Mask) -> list[tuple[int, int]]:
    """Runs [start, end) of an answer mask, one per answer: between two answers there is always a turn."""
    borders = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in borders.reshape(-1, 2)]


def leading_special_ids(tokenizer: Any) -> list[int]:
    """Special ids that the tokenizer itself puts before a text (Llama's begin-of-text; none for GPT-2)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return list(full[:start])
    return []


def _answer_spans(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    """Character spans [first, last) of the answers in the section's text."""
    spans = []
    place = 0
    for segment in segments:
        if segment.is_answer and segment.text:
            spans.append((place, place + len(segment.text)))
        place += len(segment.text)
    return spans


def _with_targets(row: EncodedRow) -> EncodedRow:
    """The row, if at least one token can be a target (nothing predicts the first token of a row)."""
    if not row.answer_mask[1:].any():
        raise BadRow("zero target tokens: no token of the row belongs to an answer")
    return row


def _border_error() -> BadRow:
    return BadRow(
        "a token spans the boundary between prompt and answer, and cannot be split",
        "remove white space at the start of the answer, or use another template",
    )
