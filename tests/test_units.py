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


def test_a_moment_is_a_date_and_a_time_of_day() -> None:
    assert units.format_moment("2026-11-30T10:46:20+00:00") == "2026-11-30 10:46 UTC"
    assert units.format_moment("14 March 2026, 09:41 UTC") == "14 March 2026, 09:41 UTC"


def test_a_count_agrees_with_its_noun() -> None:
    said = [units.format_counted(count, "row") for count in (0, 1, 2, 1234)]
    assert said == ["0 rows", "1 row", "2 rows", "1,234 rows"]


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
        (1234.5, 12.3, "1,234 ± 12"),
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


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [
        (-0.04, 1, False, "0.0"),
        (-0.04, 1, True, "0.0"),
        (0.04, 1, True, "0.0"),
        (0.06, 1, True, "+0.1"),
        (-0.06, 1, True, "-0.1"),
        (12345.678, 2, False, "12,345.68"),
        (-0.0, 0, True, "0"),
        (math.nan, 2, False, "nan"),
        (-math.inf, 2, True, "-inf"),
    ],
)
def test_zero_has_no_sign(value: float, decimals: int, signed: bool, text: str) -> None:
    assert units.format_number(value, decimals, signed=signed) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.3456, "12.35"),
        (0.5, "0.5"),
        (1.0, "1"),
        (0, "0"),
        (-1.23456, "-1.235"),
        (50257.4, "50,257"),
        (0.00123456, "0.001235"),
        (1.23e-7, "1.23e-07"),
        (5e-5, "5e-05"),
    ],
)
def test_values_of_unknown_error(value: float, text: str) -> None:
    assert units.format_significant(value) == text


@pytest.mark.parametrize(
    ("errors", "decimals"),
    [
        ([0.0016, 2.8834, 2.9257, 2.8218, 2.6932], 1),  # BLEU of a base that answers next to nothing, and of four arms
        ([5.518, 0.084, 0.094, 0.094, 0.095], 3),  # perplexity: the base is far off, the arms are what is compared
        ([0.0016, 2.8834], 1),
        ([2.8834, 0.0016], 1),
        ([0.0042, None, 0.0123], 3),
        ([0.0042, 0.0, math.nan, math.inf], 4),
        ([None, 0.0], None),
        ([], None),
    ],
)
def test_a_column_takes_its_decimals_from_the_error_that_is_typical(
    errors: list[float | None], decimals: int | None
) -> None:
    assert units.column_decimals(errors) == decimals


@pytest.mark.parametrize(
    ("error", "decimals", "text"),
    [(0.0016, 1, "0.0 ± <0.1"), (0.3, 0, "0 ± <1"), (0.06, 1, "0.0 ± 0.1"), (0.0, 1, "0.0 ± 0")],
)
def test_an_error_that_the_column_cannot_show_is_a_bound(error: float, decimals: int, text: str) -> None:
    assert units.format_with_error(0.0427, error, decimals) == text


@pytest.mark.parametrize(
    ("values", "decimals"),
    [([7.11, 7.0892], 3), ([829.44, 813.1], 1), ([1.0, 0.5], 1), ([0.0, 1.0], 0), ([1e-7], 0), ([], 0)],
)
def test_a_column_of_unknown_errors_has_one_number_of_decimals(values: list[float], decimals: int) -> None:
    assert units.value_decimals(values) == decimals


def test_values_of_one_column_have_one_number_of_decimals() -> None:
    assert units.format_values([105.7, 79.2, 0.0]) == ["105.70", "79.20", "0.00"] and units.format_values([]) == []


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-0.7702, 0.0123, "-0.770 ± 0.012"),
        (0.7702, 0.0123, "+0.770 ± 0.012"),
        (0.001, 0.12, "0.00 ± 0.12"),
        (-0.001, 0.12, "0.00 ± 0.12"),
        (1234.5, None, "+1,234 ± ?"),
    ],
)
def test_changes_have_a_sign(value: float, error: float | None, text: str) -> None:
    assert units.format_change(value, error) == text


def test_an_interval_has_the_digits_of_its_standard_error() -> None:
    low, high = -0.770 - 1.96 * 0.012, -0.770 + 1.96 * 0.012
    assert units.interval_decimals(low, high) == units.decimals_of(0.012) == 3
    assert units.format_interval(low, high, 3) == "-0.794 to -0.746"
    assert units.format_interval(-0.04, 0.26, 1) == "0.0 to +0.3"
    assert units.format_interval(0.04, 0.26, 1, signed=False) == "0.0 to 0.3"
    assert units.interval_decimals(0.3, 0.3) == 2 and units.interval_decimals(0.0, 0.0) == 0


@pytest.mark.parametrize(("size", "decimals"), [(0.0123, 3), (0.0996, 2), (0.95, 2), (9.96, 0), (250, 0), (1e-20, 10)])
def test_decimals_of_two_digits(size: float, decimals: int) -> None:
    assert units.decimals_of(size) == decimals


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (None, "–"),
        (0.0004, "< 0.001"),
        (0.0123, "0.012"),
        (0.34, "0.340"),
        (1.0, "1.000"),
        (0.0496, "0.04960"),
        (0.0504, "0.050"),
        (0.04996, "0.04996"),
    ],
)
def test_probabilities(p: float | None, text: str) -> None:
    assert units.format_probability(p) == text


def test_losses_shares_and_numerical_errors() -> None:
    assert units.format_loss(2.31416) == "2.3142" and units.format_loss(-0.00001, signed=True) == "0.0000"
    assert units.format_share(0.1234) == "12.3 %" and units.format_share(1.0, 0) == "100 %"
    assert [units.format_error(one) for one in (0.0101, 14.2, 6e-10, 0)] == ["0.010", "14", "6.0e-10", "0"]


def test_scores_have_no_more_decimals_than_anybody_reads() -> None:
    """A model that answers next to nothing has a BLEU of 5.8e-10, which is 0."""
    assert units.column_decimals([2.8e-5, 5.8e-10], "0-100") == 3
    assert units.column_decimals([2.8e-5, 5.8e-10]) == 6
    assert units.interval_decimals(-1e-9, 1e-9, "0-100") == 3
    assert units.interval_decimals(-1e-9, 1e-9, "0-1") == 5
    shown = [units.format_error(one, "0-100") for one in (5.8e-10, 0.0, 0.0014, 0.23, 14.2)]
    assert shown == ["<0.001", "0", "0.001", "0.23", "14"]
    assert units.format_scientific(1.23e-7) == "1.2e-07" and units.format_scientific(0.0) == "0"


def test_names_in_a_sentence() -> None:
    shown = [units.format_names(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])]
    assert shown == ["", "a", "a and b", "a, b and c"]


def test_a_sentence_begins_with_a_capital_letter_but_a_key_stays_as_it_is() -> None:
    assert units.format_sentence("the prompt template is alpaca") == "The prompt template is alpaca."
    assert units.format_sentence("data.loss_on=all: half of it") == "data.loss_on=all: half of it."
    assert units.format_sentence("3 rows") == "3 rows."
