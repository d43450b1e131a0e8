"""The text of an answer while it grows: pieces as they become certain, and stop strings across token boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Decoders emit this for bytes that do not form a character (yet).
REPLACEMENT = "�"


def decoded(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Text of tokens, without special ones."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


class GrowingText:
    """Decodes an answer token by token.

    A token's text depends on its neighbors (spaces, characters of several tokens), so a few earlier tokens are decoded
    again each time, and their text is removed from the front.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_strings: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop_strings = stop_strings
        self.token_ids: list[int] = []
        self.text = ""  # all that is certain so far
        self._shown = 0  # characters of it that new_piece() has returned
        self._context, self._read = 0, 0  # token_ids[_context:_read] are decoded again, for the sake of their neighbors
        self.stopped = False

    def add(self, token: int) -> bool:
        """Add a token; True if the text now has a stop string, and is then cut before it."""
        self.token_ids.append(token)
        before = decoded(self.tokenizer, self.token_ids[self._context : self._read])
        now = decoded(self.tokenizer, self.token_ids[self._context :])
        if now.endswith(REPLACEMENT):
            return False  # perhaps the beginning of a character
        self._context, self._read = self._read, len(self.token_ids)
        self._append(now[len(before) :])
        return self.stopped

    def finish(self) -> None:
        """No token follows: text that was held back is added."""
        if not self.stopped and len(whole := decoded(self.tokenizer, self.token_ids)) > len(self.text):
            self._append(whole[len(self.text) :])

    def _append(self, piece: str) -> None:
        first = len(self.text)
        self.text += piece
        found = [self.text.find(stop, max(0, first - len(stop) + 1)) for stop in self.stop_strings]
        places = [place for place in found if place >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True

    def new_piece(self, *, last: bool = False) -> str:
        """Text not yet returned, minus an end that may be the beginning of a stop string."""
        certain = len(self.text)
        if not (last or self.stopped):
            certain -= max((_overlap(self.text, stop) for stop in self.stop_strings), default=0)
        piece = self.text[self._shown : certain]
        self._shown = max(self._shown, certain)
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
