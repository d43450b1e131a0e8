"""Labels: every text can be shown, labels never overlap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.report.labels import LEADER, MARK, Box, place_labels, possible, shortened, text_width

AREA = (48.0, 44.0, 372.0, 258.0)


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def gap(box: Box, point: tuple[float, float]) -> float:
    left, bottom, right, top = box
    x, y = point
    return math.hypot(max(left - x, x - right, 0), max(bottom - y, y - top, 0))


def inside(one: Box, area: Box) -> bool:
    return area[0] <= one[0] and area[1] <= one[1] and one[2] <= area[2] and one[3] <= area[3]


def test_what_cannot_be_shown_is_replaced() -> None:
    assert possible("a\x00b\x1b\ud800\uffff\n\tc") == "a\ufffdb\ufffd\ufffd\ufffd\n\tc"


def test_long_texts_are_shortened_to_their_room() -> None:
    assert shortened("lora", 100, 12) == "lora"
    assert shortened("a name\nof two\tlines", 500, 12) == "a name of two lines"
    cut = shortened("a very long name of an arm", 80, 12)
    assert cut.endswith("…") and text_width(cut, 12) <= 80 and len(cut) > 5
    assert text_width("漢字", 10) > text_width("mm", 10) * 0.95 > text_width("ab", 10)
    assert text_width("lora", 12) == pytest.approx(1.2 * text_width("lora", 10))


places = st.tuples(st.floats(AREA[0], AREA[2]), st.floats(AREA[1], AREA[3]))


@settings(deadline=None)  # the first example imports matplotlib
@given(st.lists(st.tuples(places, st.text("abmw ", min_size=1, max_size=14)), min_size=1, max_size=9))
def test_labels_overlap_nothing(marked: list[tuple[tuple[float, float], str]]) -> None:
    points, texts = [point for point, _ in marked], [text for _, text in marked]
    boxes = [box for box in place_labels(points, texts, AREA, 11) if box is not None]
    assert all(inside(box, AREA) for box in boxes)
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    marks = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    assert not any(overlap(box, mark) for box in boxes for mark in marks)
    for place, box in enumerate(place_labels(points, texts, AREA, 11)):
        if box is not None:
            gaps = [gap(box, point) for point in points]
            assert gaps[place] <= min(gaps) + 1e-9 or gaps[place] > LEADER, "nearer to another point, without a line"


def test_labels_of_equal_points_find_places() -> None:
    boxes = place_labels([(200, 130)] * 8, ["lora r128 bf16"] * 8, AREA, 11)
    assert None not in boxes


def test_a_label_stands_beside_its_point_and_off_its_interval_and_level_line() -> None:
    (box,) = place_labels([(200, 130)], ["lora"], AREA, 11)
    assert box is not None and 205 < box[0] < 210 and 130 < box[1] < 135
    (box,) = place_labels([(360, 130)], ["lora"], AREA, 11)
    assert box is not None and 350 < box[2] < 355, "on the other side where the first has no room"


def test_a_label_without_a_place_is_told() -> None:
    assert place_labels([(5, 5)], ["far too long for this"], (0, 0, 20, 10), 11) == [None]
