"""Plot labels: printable characters, text widths, placement without overlaps."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

#: Radius of a point, in points.
MARK = 5.0

#: A label farther than this from its point, in points, gets a line to it.
LEADER = 12.0

# Candidate distances of a label from its point; the nearest free one is used.
_RINGS = (8.0, 16.0, 24.0, 34.0, 46.0, 60.0, 76.0)
_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, -1), (0, 1))

# Characters invalid in XML or UTF-8; models do generate them.
_IMPOSSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

#: Left, bottom, right, top in points, upward.
Box = tuple[float, float, float, float]


def possible(text: str) -> str:
    """The text with U+FFFD for each invalid character."""
    return _IMPOSSIBLE.sub("\ufffd", text)


def text_width(text: str, size: float) -> float:
    """Approximate width of a line of sans-serif text, measured in DejaVu Sans, a wide font."""
    return size * sum(map(_character_width, text))


@cache
def _character_width(character: str) -> float:
    """Width at font size 1."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    # DejaVu Sans has no CJK characters: they are about as wide as a W.
    known = "W" if unicodedata.east_asian_width(character) in "WF" else character
    width: float = text_to_path.get_text_width_height_descent(known, FontProperties(size=100), ismath=False)[0]
    return width / 100


def shortened(text: str, width: float, size: float) -> str:
    """The text in one line, cut with an ellipsis if it is wider than `width`."""
    kept = whole = " ".join(possible(text).split())
    while kept and text_width(kept if kept == whole else kept + "…", size) > width:
        kept = kept[:-1]
    return kept if kept == whole else kept.rstrip() + "…"


def place_labels(
    points: Sequence[tuple[float, float]], texts: Sequence[str], area: Box, size: float
) -> list[Box | None]:
    """A box for each point's label inside the area that covers no point and no other label, and is either nearest to
    its own point or farther than LEADER from it.

    Args:
        points: coordinates of the marks, which have radius MARK.
        texts: their one-line labels.
        area: bounds for labels.
        size: font size.

    Returns:
        Boxes in the order of the points; None if no position is free.
    """
    taken = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    placed: list[Box | None] = []
    for place, ((x, y), text) in enumerate(zip(points, texts, strict=True)):
        boxes = np.array(list(_boxes_around(x, y, text_width(text, size), size * 1.2)))
        low, high = boxes[:, None, :2], boxes[:, None, 2:]
        inside = np.all((low >= area[:2]) & (high <= area[2:]), axis=(1, 2))
        overlaps = np.any(np.all((low < np.array(taken)[:, 2:]) & (np.array(taken)[:, :2] < high), axis=2), axis=1)
        gaps = np.linalg.norm(np.maximum(np.maximum(low - points, points - high), 0), axis=2)
        clear = (gaps[:, place] <= gaps.min(axis=1)) | (gaps[:, place] > LEADER)
        free = boxes[inside & ~overlaps & clear].tolist()
        placed.append(tuple(free[0]) if free else None)
        taken += [tuple(box) for box in free[:1]]
    return placed


def _boxes_around(x: float, y: float, width: float, height: float) -> Iterator[Box]:
    """Candidate boxes around a point, at increasing distance.

    Near the point, diagonal to the right comes first: neither the point's interval nor the front runs there. Farther
    away, where a label has a line to its point, straight above comes first.
    """
    for ring in _RINGS:
        for across, up in _SIDES if ring == _RINGS[0] else _SIDES[::-1]:
            middle = x + across * (ring + width / 2)
            centre = y + up * (ring + (0 if across else height / 2))
            yield middle - width / 2, centre - height / 2, middle + width / 2, centre + height / 2
