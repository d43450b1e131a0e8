"""Text that a template gives, in segments that say what of it is an answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text; `is_answer` = its tokens are in the loss."""

    text: str
    is_answer: bool


@dataclass(frozen=True, slots=True)
class Section:
    """Text that is tokenized as one; `ends_with_eos` adds the tokenizer's end-of-sequence token, an answer's last."""

    segments: tuple[Segment, ...]
    ends_with_eos: bool

    @property
    def text(self) -> str:
        """The segments together."""
        return "".join(segment.text for segment in self.segments)
