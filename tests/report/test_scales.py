"""Axes are round, labels never overlap."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunelab.report.scales import (
    MARK,
    Box,
    Scale,
    padded_range,
    place_labels,
    round_step,
    shortened,
    text_width,
)

AREA = Box(48, 22, 372, 236)


def test_scales_map_and_keep_within_their_ends() -> None:
    scale = Scale(10, 20, 100, 0)
    assert [scale(value) for value in (10, 15, 20, 5, 99)] == [100, 50, 0, 100, 0]


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.39, 0.43, ["0.39", "0.40", "0.41", "0.42", "0.43"]),
        (0, 812, ["0", "200", "400", "600", "800"]),
        (-0.03, 0.031, ["-0.02", "0.00", "0.02"]),
        (0, 40_000, ["0", "10,000", "20,000", "30,000", "40,000"]),
    ],
)
def test_ticks_are_round(low: float, high: float, texts: list[str]) -> None:
    assert [words for _, words in Scale(low, high, 0, 1).ticks(5)] == texts


@given(st.floats(1e-9, 1e9), st.integers(2, 8))
def test_ticks_are_few_and_inside(width: float, most: int) -> None:
    scale = Scale(width / 3, width * 4 / 3, 0, 1)
    ticks = scale.ticks(most)
    assert 1 <= len(ticks) <= most + 1
    assert all(scale.low - 1e-6 * width <= value <= scale.high + 1e-6 * width for value, _ in ticks)
    assert len({words for _, words in ticks}) == len(ticks)


def test_steps() -> None:
    assert [round_step(value) for value in (1, 1.1, 2, 3, 5, 6, 0.3, 0.002)] == [1, 2, 2, 5, 5, 10, 0.5, 0.002]


def test_ranges_have_a_margin_and_are_never_empty() -> None:
    assert padded_range([0, 100]) == (-6, 106)
    assert padded_range([0, 100], 0, 100) == (0, 100)
    assert padded_range([2.0]) == (1.9, 2.1)
    assert padded_range([0.0]) == (-1.0, 1.0)


def test_long_texts_are_shortened_to_their_room() -> None:
    assert shortened("lora", 100, 12) == "lora"
    cut = shortened("a very long name of an arm", 80, 12)
    assert cut.endswith("…") and text_width(cut, 12) <= 80 and len(cut) > 5
    assert text_width("漢字", 10) > text_width("ab", 10)


places = st.tuples(st.floats(AREA.left, AREA.right), st.floats(AREA.top, AREA.bottom))


@given(st.lists(st.tuples(places, st.text("abmw ", min_size=1, max_size=14)), min_size=1, max_size=9))
def test_labels_overlap_nothing(marked: list[tuple[tuple[float, float], str]]) -> None:
    points, texts = [point for point, _ in marked], [text for _, text in marked]
    boxes = [box for box in place_labels(points, texts, AREA, 11) if box is not None]
    assert all(AREA.holds(box) for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    marks = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    assert not any(box.overlaps(mark) for box in boxes for mark in marks)


def test_labels_of_equal_points_find_places() -> None:
    boxes = place_labels([(200, 130)] * 8, ["lora r128 bf16"] * 8, AREA, 11)
    assert None not in boxes


def test_a_label_without_a_place_is_told() -> None:
    assert place_labels([(5, 5)], ["far too long for this"], Box(0, 0, 20, 10), 11) == [None]


def test_labels_avoid_lines_nearby() -> None:
    (plain,) = place_labels([(200, 130)], ["lora"], AREA, 11)
    (moved,) = place_labels([(200, 130)], ["lora"], AREA, 11, [Box(200, 129, 372, 131)])
    assert plain is not None and plain.left > 200
    assert moved is not None and moved.right < 200
    (crossed,) = place_labels([(200, 130)], ["lora"], AREA, 11, [AREA])
    assert crossed == plain
