"""Labels of plots: characters that can be shown, widths of texts, places where labels do not overlap."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

#: Radius of a point, in points.
MARK = 5.0

#: A label that is farther from its point, in points, has a line to it.
LEADER = 12.0

# Distances of a label from its point; the nearest free one is taken.
_RINGS = (8.0, 16.0, 24.0, 34.0, 46.0, 60.0, 76.0)
_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, -1), (0, 1))

# Characters that neither XML nor UTF-8 can hold; models do write them.
_IMPOSSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

#: Left, bottom, right, top in points, upward.
Box = tuple[float, float, float, float]


def possible(text: str) -> str:
    """The text with U+FFFD for each character that cannot be shown."""
    return _IMPOSSIBLE.sub("\ufffd", text)


def text_width(text: str, size: float) -> float:
    """About how wide a line of text is in a sans-serif font of this size: in DejaVu Sans, which is a wide one."""
    return size * sum(map(_character_width, text))


@cache
def _character_width(character: str) -> float:
    """In a font of size 1."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    # DejaVu Sans has no Chinese, Japanese or Korean letters: they are about as wide as a W.
    known = "W" if unicodedata.east_asian_width(character) in "WF" else character
    width: float = text_to_path.get_text_width_height_descent(known, FontProperties(size=100), ismath=False)[0]
    return width / 100


def shortened(text: str, width: float, size: float) -> str:
    """The text in one line, cut with an ellipsis where it is wider than `width`."""
    kept = whole = " ".join(possible(text).split())
    while kept and text_width(kept if kept == whole else kept + "…", size) > width:
        kept = kept[:-1]
    return kept if kept == whole else kept.rstrip() + "…"


def place_labels(
    points: Sequence[tuple[float, float]], texts: Sequence[str], area: Box, size: float
) -> list[Box | None]:
    """A box for each point's text within the area: over no point and over no other label, and so near its point that
    no other is nearer, or beyond LEADER.

    Args:
        points: coordinates of the marks, whose radius is MARK.
        texts: their labels, of one line each.
        area: where labels may lie.
        size: of the font.

    Returns:
        Boxes in the points' order; None where no place is free.
    """
    taken = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    placed: list[Box | None] = []
    for place, ((x, y), text) in enumerate(zip(points, texts, strict=True)):
        boxes = np.array(list(_boxes_around(x, y, text_width(text, size), size * 1.2)))
        low, high = boxes[:, None, :2], boxes[:, None, 2:]
        inside = np.all((low >= area[:2]) & (high <= area[2:]), axis=(1, 2))
        overlaps = np.any(np.all((low < np.array(taken)[:, 2:]) & (np.array(taken)[:, :2] < high), axis=2), axis=1)
        gaps = np.linalg.norm(np.maximum(np.maximum(low - points, points - high), 0), axis=2)
        told = (gaps[:, place] <= gaps.min(axis=1)) | (gaps[:, place] > LEADER)
        free = boxes[inside & ~overlaps & told].tolist()
        placed.append(tuple(free[0]) if free else None)
        taken += [tuple(box) for box in free[:1]]
    return placed


def _boxes_around(x: float, y: float, width: float, height: float) -> Iterator[Box]:
    """Around a point, then ever farther.

    Nearby, slanted to the right comes first: there runs neither the point's interval nor, through the point, the front.
    Farther away, where a label has a line to its point, straight above comes first.
    """
    for ring in _RINGS:
        for across, up in _SIDES if ring == _RINGS[0] else _SIDES[::-1]:
            middle = x + across * (ring + width / 2)
            centre = y + up * (ring + (0 if across else height / 2))
            yield middle - width / 2, centre - height / 2, middle + width / 2, centre + height / 2
