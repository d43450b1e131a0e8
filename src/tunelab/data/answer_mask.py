"""Which tokens of a text are in its answers, from the characters that each token covers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from tunelab.errors import BadRow

#: [tokens]
Mask = npt.NDArray[np.bool_]
_Places = npt.NDArray[np.int64]


class SpecialIds:
    """A set of token ids that is looked up for many ids at once."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._known = np.zeros(max(ids, default=0) + 2, dtype=np.bool_)  # the last is for all larger ids
        self._known[list(ids)] = True

    def places(self, ids: Sequence[int]) -> list[int]:
        """Where such an id is among these."""
        clipped = np.minimum(np.asarray(ids, dtype=np.int64), len(self._known) - 1)
        found: list[int] = np.flatnonzero(self._known[clipped]).tolist()
        return found


def answer_tokens(
    text: str,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    special: SpecialIds,
) -> Mask | None:
    """For each token whether it is in an answer; None if one spans a boundary.

    Args:
        offsets: [tokens] characters [start, end) that each token covers.
        spans: characters [first, last) of each answer.
        special: ids of special tokens.

    Raises:
        BadRow: a character of an answer is in no token.
    """
    flat = np.fromiter(chain.from_iterable(offsets), dtype=np.int64, count=2 * len(offsets))
    starts, ends = flat[::2].copy(), flat[1::2].copy()
    for place in special.places(ids):  # its offsets may include white space that it strips: use the core
        start, end = offsets[place]
        core = text[start:end].strip()
        starts[place] = text.index(core, start, end)
        ends[place] = starts[place] + len(core)
    mask = np.zeros(len(ids), dtype=np.bool_)
    is_gapless = True
    for first, last in spans:
        if (((starts < first) & (first < ends)) | ((starts < last) & (last < ends))).any():
            return None
        inside = (first <= starts) & (ends <= last) & (starts < last)
        mask |= inside
        is_gapless = is_gapless and _covers(starts[inside], ends[inside], first, last)
    if not is_gapless:
        _check_covered(text, starts[mask], ends[mask], spans)
    return mask


def _covers(starts: _Places, ends: _Places, first: int, last: int) -> bool:
    """Whether tokens follow each other without a gap from `first` to `last`; those of other tokenizers overlap."""
    if not len(starts):
        return False
    return bool(starts[0] == first and ends[-1] == last and np.array_equal(starts[1:], ends[:-1]))


def _check_covered(text: str, starts: _Places, ends: _Places, spans: Sequence[tuple[int, int]]) -> None:
    """Raise BadRow if a character of an answer, white space apart, is in none of its tokens [start, end)."""
    size = len(text) + 1
    covered = np.cumsum(np.bincount(starts, minlength=size) - np.bincount(ends, minlength=size))
    for first, last in spans:
        bare = np.flatnonzero(covered[first:last] == 0)
        lost = [text[first + place] for place in bare if not text[first + place].isspace()]
        if lost:
            raise BadRow(f"the tokenizer drops {''.join(lost)[:20]!r} from an answer", "use another tokenizer")
