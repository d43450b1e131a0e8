"""Format numbers for people: GiB, tokens/s, durations, a value with its standard error.

Every number on a screen or a page comes from here, so that the same fact has the same digits everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import median_high

GIB = 2**30
MIB = 2**20

#: Shown for a value that is not known or does not exist; never zero.
UNKNOWN = "–"

#: Half-width of a 95 % interval in standard errors.
HALF_INTERVAL = 1.96

#: Decimals of a score that anybody reads, by its unit: a BLEU of 5.8e-10 is a BLEU of 0.
MOST_DECIMALS = {"0-100": 3, "0-1": 5}

#: Significance level that a rounded p-value must not cross.
LEVEL = 0.05


def format_bytes(count: int | float) -> str:
    """Bytes in binary units: "1.50 GiB", "12.0 MiB", "340 KiB"."""
    if count >= GIB:
        return f"{count / GIB:.2f} GiB"
    if count >= MIB:
        return f"{count / MIB:.1f} MiB"
    if count >= 1024:
        return f"{count / 1024:.0f} KiB"
    return f"{count:.0f} B"


def format_duration(seconds: float) -> str:
    """Seconds as "0.42 s", "12.3 s", "3 min 05 s" or "2 h 07 min"."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_moment(moment: str) -> str:
    """A moment in ISO 8601 and UTC as "2026-11-30 10:46 UTC"; any other text is unchanged."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d\+00:00", moment)
    return f"{found[1]} {found[2]} UTC" if found else moment


def format_rate(per_second: float, unit: str = "tokens") -> str:
    """A rate as "12,345 tokens/s", or "3.2 tokens/s" if it is small."""
    if per_second >= 100:
        return f"{per_second:,.0f} {unit}/s"
    return f"{per_second:.3g} {unit}/s"


def format_count(count: int | float) -> str:
    """A count of parameters or tokens: "656 k", "82.1 M", "8.03 B"; below 1,000 the number itself."""
    for size, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:.0f}"


def format_counted(count: int, noun: str) -> str:
    """A count with its noun: "1 row", "1,234 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_names(names: Sequence[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"; "" without any."""
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last


def format_sentence(text: str) -> str:
    """With a capital letter at its beginning, unless its first word is a key ("data.loss_on=all"), and a full stop."""
    first = text.partition(" ")[0].rstrip(":")
    begun = text if "." in first or "=" in first else text[:1].upper() + text[1:]
    return f"{begun}."


def decimals_of(size: float, digits: int = 2) -> int:
    """Decimals that show a size, such as a standard error, with this many significant digits; 0 to 10."""
    if size == 0 or not math.isfinite(size):
        return 0
    exponent = int(f"{size:.{digits - 1}e}".partition("e")[2])  # of the rounded size: 0.0996 is 0.10
    return min(10, max(0, digits - 1 - exponent))


def format_number(value: float, decimals: int, *, signed: bool = False) -> str:
    """A number in fixed-point notation: "1,234.5", signed "+0.3"; what rounds to zero has no sign, never "-0.0"."""
    rounded = round(value, decimals) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:{'+' if signed and rounded else ''},.{decimals}f}"


def format_significant(value: float, digits: int = 4) -> str:
    """A number whose error is unknown, with at most this many significant digits: "12.35", "0.5", "1.2e-07"."""
    if 0 < abs(value) < 1e-4:
        return f"{value:.{digits}g}"
    text = format_number(value, decimals_of(value, digits))
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_measured(value: float, noun: str, digits: int = 2) -> str:
    """A number with its noun, which is in the singular where the number is shown as 1: "0.66 epochs", "1 epoch"."""
    text = format_significant(value, digits)
    return f"{text} {noun}{'' if text == '1' else 's'}"


def format_error(error: float, unit: str = "") -> str:
    """A standard error, or another size that has no error, with two significant digits: "0.010", "14", "6.0e-10".

    Args:
        unit: of a score; below the decimals that it is shown with, the error is a bound: "<0.001".
    """
    most = MOST_DECIMALS.get(unit)
    if most is not None and error:
        return _error_text(error, min(most, decimals_of(error)))
    return format_scientific(error) if 0 < abs(error) < 1e-5 else format_number(error, decimals_of(error))


def format_scientific(value: float, digits: int = 2) -> str:
    """A number whose size is what matters, such as a numerical error: "1.2e-07"; "0" for zero."""
    return f"{value:.{digits - 1}e}" if value else "0"


def format_loss(nats: float, *, signed: bool = False) -> str:
    """A loss or a difference of losses without a known error, in nats per token: "2.3142"."""
    return format_number(nats, 4, signed=signed)


def format_share(share: float, decimals: int = 1) -> str:
    """A share between 0 and 1 as a percentage: "12.3 %"."""
    return f"{format_number(100 * share, decimals)} %"


def format_with_error(value: float, error: float | None, decimals: int | None = None) -> str:
    """A value and its standard error, both rounded to two significant digits of the error: "12.34 ± 0.56".

    An unknown error is shown as "12.34 ± ?", never as zero. One that these decimals cannot show is a bound:
    "0.0 ± <0.1".

    Args:
        decimals: of both; None = from the error. Values in one column have the same (column_decimals).
    """
    is_known = error is not None and math.isfinite(error)
    if decimals is None and error and is_known:
        decimals = decimals_of(error)
    shown = format_significant(value) if decimals is None else format_number(value, decimals)
    if error is None or not is_known:
        return f"{shown} ± ?"
    return f"{shown} ± {_error_text(error, decimals or 0)}"


def _error_text(error: float, decimals: int) -> str:
    text = format_number(error, decimals) if error else "0"
    return f"<{format_number(10.0**-decimals, decimals)}" if error and not float(text.replace(",", "")) else text


def column_decimals(errors: Sequence[float | None], unit: str = "") -> int | None:
    """One number of decimals for a column: what the median of these standard errors needs for two significant digits.

    Not what the smallest needs: the BLEU of a base that answers next to nothing, 0.0427 ± 0.0016, would give every
    other arm of its column four decimals. Of an even number of errors, the larger of the two in the middle counts.

    Args:
        errors: None = unknown.
        unit: of the scores; bounds the decimals (MOST_DECIMALS).

    Returns:
        None if no error is known and above zero.
    """
    known = [error for error in errors if error and math.isfinite(error)]
    return _of_unit(decimals_of(median_high(known)), unit) if known else None


def value_decimals(values: Sequence[float], digits: int = 4) -> int:
    """One number of decimals for a column of values whose errors are unknown: what the longest of them needs."""
    shown = [format_significant(value, digits) for value in values]
    return max((len(text.partition(".")[2]) for text in shown if "e" not in text), default=0)


def format_values(values: Sequence[float], digits: int = 4) -> list[str]:
    """Values of one quantity without errors, all with the decimals that the smallest needs for so many digits."""
    decimals = max((decimals_of(value, digits) for value in values if value), default=0)
    return [format_number(value, decimals) for value in values]


def interval_decimals(low: float, high: float, unit: str = "") -> int:
    """Decimals of a difference with this 95 % interval: two significant digits of its standard error.

    Args:
        unit: of the score; bounds the decimals (MOST_DECIMALS).
    """
    return _of_unit(decimals_of((high - low) / (2 * HALF_INTERVAL) or abs(low)), unit)


def _of_unit(decimals: int, unit: str) -> int:
    return min(decimals, MOST_DECIMALS.get(unit, decimals))


def format_interval(low: float, high: float, decimals: int, *, signed: bool = True) -> str:
    """An interval: "-0.12 to +0.34"."""
    return " to ".join(format_number(end, decimals, signed=signed) for end in (low, high))


def format_change(value: float, error: float | None) -> str:
    """A difference and its standard error: "-0.77 ± 0.12"; always second minus first, tuned minus base."""
    shown = format_with_error(value, error)
    return shown if value <= 0 or float(shown.split()[0].replace(",", "")) == 0 else f"+{shown}"


def format_probability(p: float | None, *, is_bound: bool = False) -> str:
    """A p-value: "0.023", "< 0.001", "–" if there is none; never rounded past the level 0.05. One that is only an upper
    bound is rounded up: "< 0.021".
    """
    if p is None:
        return UNKNOWN
    if p < 0.001:
        return "< 0.001"
    if is_bound and p < 1:
        return f"< {math.ceil(1000 * p) / 1000:.3f}"
    shown = f"{p:.3f}"
    return shown if (float(shown) < LEVEL) == (p < LEVEL) else f"{p:.5f}"


def format_p(p: float, *, is_bound: bool = False) -> str:
    """A p-value with its name: "p = 0.023", "p < 0.001"."""
    shown = format_probability(p, is_bound=is_bound)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"
