"""Paired comparisons on the screen: one row of numbers and one sentence for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunelab.cli._console import print_table, say
from tunelab.units import format_interval, format_number, format_probability, interval_decimals

if TYPE_CHECKING:
    from tunelab.comparison.paired_comparison import Comparison


def show_comparisons(found: Sequence[Comparison], *, flips: bool) -> None:
    """The table and, with `flips`, the items that only one side gets right on stdout; the verdicts on stderr."""
    from tunelab.comparison.verdict import verdict

    names = [found[0].a_name, found[0].b_name]
    is_corrected = len(found) > 1
    p_columns = ["p", *([f"p (Holm over {len(found)})"] if is_corrected else [])]
    columns = ["benchmark", "metric", *names, "difference", "95 % interval", *p_columns, "items"]
    print_table(columns, [_row(one, is_corrected=is_corrected) for one in found], keys=2)
    said: set[tuple[str, str]] = set()
    for one in found:
        say(f"{one.benchmark}, {one.metric.replace('_', ' ')}: {verdict(one)}")
        for key, (a, b) in one.differing.items():
            of_the_model = key.split(".")[0] in ("model_name", "revision", "model", "weights", "adapter", "arm")
            if not of_the_model and (one.benchmark, key) not in said:
                say(f"  {key} differs: {a} and {b}")
                said.add((one.benchmark, key))
        if flips and one.gained is not None and one.lost is not None:
            flipped = [*([item, one.b_name] for item in one.gained), *([item, one.a_name] for item in one.lost)]
            if flipped:
                print_table(["item", "only right in"], flipped)
            else:
                say("  no item is right in only one of them")


def _row(one: Comparison, *, is_corrected: bool) -> list[str]:
    decimals = interval_decimals(one.low, one.high)
    return [
        one.benchmark,
        one.metric.replace("_", " "),
        *(format_number(value, decimals) for value in (one.a_value, one.b_value)),
        format_number(one.difference, decimals, signed=True),
        format_interval(one.low, one.high, decimals),
        format_probability(one.p, is_bound=one.p_is_bound),
        *([format_probability(one.p_holm, is_bound=one.p_is_bound)] if is_corrected else []),
        f"{one.n:,}",
    ]
