"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from tunelab import units


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (340 * 1024, "340 KiB"),
        (12 * units.MIB, "12.0 MiB"),
        (1.5 * units.GIB, "1.50 GiB"),
    ],
)
def test_bytes(count: float, text: str) -> None:
    assert units.format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (0.42, "0.42 s"),
        (12.34, "12.3 s"),
        (60, "1 min 00 s"),
        (185.4, "3 min 05 s"),
        (3600, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (12345.4, "12,345 tokens/s"),
        (100, "100 tokens/s"),
        (99.96, "100 tokens/s"),
        (3.21, "3.21 tokens/s"),
        (0, "0 tokens/s"),
    ],
)
def test_rates(rate: float, text: str) -> None:
    assert units.format_rate(rate) == text


def test_rates_of_other_things() -> None:
    assert units.format_rate(5, "rows") == "5 rows/s"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (656_000, "656 k"), (82_100_000, "82.1 M"), (8.03e9, "8.03 B"), (-1500, "-1.5 k")],
)
def test_counts(count: float, text: str) -> None:
    assert units.format_count(count) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (12.3412, 0.5612, "12.34 ± 0.56"),
        (1234.5, 12.3, "1234 ± 12"),
        (0.5, 0.0123, "0.500 ± 0.012"),
        (12.3456, None, "12.35 ± ?"),
        (12.3456, math.nan, "12.35 ± ?"),
        (12.3456, math.inf, "12.35 ± ?"),
        (12.3456, 0, "12.35 ± 0"),
        (1.0, 250.0, "1 ± 250"),
    ],
)
def test_values_with_errors(value: float, error: float | None, text: str) -> None:
    assert units.format_with_error(value, error) == text
