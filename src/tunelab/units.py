"""Format numbers for people: GiB, tokens/s, durations, a value with its standard error."""

from __future__ import annotations

import math

GIB = 2**30
MIB = 2**20


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


def format_with_error(value: float, error: float | None) -> str:
    """A value and its standard error, both rounded to two significant digits of the error: "12.34 ± 0.56".

    An unknown error is shown as "12.34 ± ?", never as zero.
    """
    if error is None or not math.isfinite(error):
        return f"{value:.4g} ± ?"
    if error == 0:
        return f"{value:.4g} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
