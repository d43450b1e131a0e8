"""Labels of plots: characters that can be shown, widths of texts, places where labels do not overlap."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

#: Radius of a point, in points.
MARK = 5.0

# Distances of a label from its point; the nearest free one is taken.
_RINGS = (9.0, 16.0, 24.0, 34.0, 46.0, 60.0, 76.0)
_NEAR = 24.0
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))

# Characters that neither XML nor UTF-8 can hold; models do write them.
_IMPOSSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

#: Left, bottom, right, top in points, upward.
Box = tuple[float, float, float, float]
Numbers = npt.NDArray[np.float64]


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
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    area: Box,
    size: float,
    lines: Sequence[Box] = (),
) -> list[Box | None]:
    """A box for each point's text within the area: near its point, over no point and over no other label.

    Args:
        points: coordinates of the marks, whose radius is MARK.
        texts: their labels, of one line each.
        area: where labels may lie.
        size: of the font.
        lines: boxes that labels avoid where they can, and cross where they must.

    Returns:
        Boxes in the points' order; None where no place is free.
    """
    taken = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    placed: list[Box | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        rings, boxes = _boxes_around(x, y, text_width(text, size), size * 1.2, area)
        inside = (boxes[:, :2] >= area[:2]).all(axis=1) & (boxes[:, 2:] <= area[2:]).all(axis=1)
        free = inside & (_overlaps(boxes, taken) == 0)
        if not free.any():
            placed.append(None)
            continue
        # A line is avoided only nearby: a name far from its point is worse than one on a line.
        crossed = np.where(rings <= _NEAR, _overlaps(boxes, lines), len(lines) + rings)
        left, bottom, right, top = boxes[np.where(free, crossed, np.inf).argmin()].tolist()
        placed.append((left, bottom, right, top))
        taken.append((left, bottom, right, top))
    return placed


def _boxes_around(x: float, y: float, width: float, height: float, area: Box) -> tuple[Numbers, Numbers]:
    """Distances (n) and boxes (n, 4): beside, above and below a point, then ever farther ones.

    Those straight above and below are moved sideways where they would leave the area.
    """
    rings, boxes = [], []
    for ring in _RINGS:
        for across, up in _SIDES:
            slant = 0.75 if across and up else 1.0
            middle = x + across * (slant * ring + width / 2)
            if not across:
                middle = max(min(middle, area[2] - width / 2 - 0.01), area[0] + width / 2 + 0.01)
            centre = y + up * (slant * ring + (0 if across else height / 2))
            rings.append(ring)
            boxes.append((middle - width / 2, centre - height / 2, middle + width / 2, centre + height / 2))
    return np.array(rings), np.array(boxes)


def _overlaps(boxes: Numbers, others: Sequence[Box]) -> npt.NDArray[np.intp]:
    """How many of the others each box (n, 4) overlaps."""
    one, other = boxes[:, None], np.array(others).reshape(1, -1, 4)
    overlap = ((one[..., :2] < other[..., 2:]) & (other[..., :2] < one[..., 2:])).all(axis=2)
    counts: npt.NDArray[np.intp] = overlap.sum(axis=1)
    return counts
