"""State in one sentence whether an arm is as good as another: one of four answers, with what it rests on.

What was asked (the share to keep, or the margin) is part of the sentence. A bound is one-sided: with 95 % confidence
the truth is not beyond it.
"""

from __future__ import annotations

import math

from tunelab.comparison.as_good import Judged
from tunelab.comparison.verdict import POINTS, model_names, trained_once
from tunelab.units import decimals_of, format_number, format_p, format_share, format_significant

_LEADS = {
    "as good": "yes, within the margin",
    "alike": "yes, alike within the margin",
    "worse within margin": "worse, but by less than the margin",
    "better within margin": "better, but by less than the margin",
    "worse beyond margin": "no, worse by more than the margin",
    "better beyond margin": "no, better by more than the margin",
    "not known": "not known",
}


def judged_verdict(one: Judged) -> str:
    """The answer: "yes, within the margin: nf4 keeps 99.4 % of what lora gained over base (at least 99.1 %; ...)"."""
    measured = _share_kept(one) if one.base_name else _difference(one)
    found = f"{_LEADS[one.answer]}: {measured}"
    return f"{found}. {_needed(one)}" if one.answer == "not known" else found


def _share_kept(one: Judged) -> str:
    a, b = model_names(one.comparison)
    decimals = _share_decimals(one)
    low, high, value = (_share(end, decimals) for end in (one.low, one.high, one.value))
    bounds = {"worse beyond margin": f"at most {high}", "not known": f"{low} to {high}"}
    if one.both_ways:
        bounds = {one.answer: f"{low} to {high}"}
    bound = bounds.get(one.answer, f"at least {low}")
    return f"{b} keeps {value} of what {a} gained over {one.base_name} ({bound}; {_asked(one)}; {_certainty(one)})"


def _difference(one: Judged) -> str:
    a, b = model_names(one.comparison)
    scale, unit = _scale(one)
    decimals = max(decimals_of(scale * (one.high - one.low) / 4 or scale * abs(one.limit)), int(unit == "points"))
    low, high, value = (scale * end for end in (one.low, one.high, one.value))
    size = format_number(abs(value), decimals)
    word = "better" if value > 0 else "worse"
    measured = f"is {size} {unit} {word} than" if round(value, decimals) else "scored the same as"
    if one.both_ways or one.answer == "not known":
        bound = f"{_signed(low, decimals)} to {_signed(high, decimals)}"
    elif one.answer == "worse beyond margin":
        bound = f"at least {format_number(-high, decimals)} worse"
    elif low >= 0:
        bound = f"at least {format_number(low, decimals)} better"
    else:
        bound = f"at most {format_number(-low, decimals)} worse"
    return f"{b} {measured} {a} ({bound}; {_asked(one)}; {_certainty(one)})"


def _asked(one: Judged) -> str:
    """What was asked: the share to keep, or the margin."""
    if one.base_name:
        decimals = decimals_of(1 - one.limit, 1) - 2  # 99.5 % needs one
        least, most = (_share(end, max(0, decimals)) for end in (one.limit, 2 - one.limit))
        return f"asked: {least} to {most}" if one.both_ways else f"asked: at least {least}"
    return f"margin {_amount(-one.limit, one)}"


def _certainty(one: Judged) -> str:
    """p, p after the correction, degrees of freedom, and whether arms were trained once."""
    over = f"over items and {one.comparison.seeds} trainings, " if one.comparison.parts else ""
    words = f"{over}{format_p(one.decisive_p)}"
    if one.p_holm is not None and one.family > 1:
        words += f"; {format_p(one.p_holm)} after Holm over {one.family} questions"
    return words + trained_once(one.comparison)


def _needed(one: Judged) -> str:
    """How many items would show it."""
    items = one.comparison.n
    can = "no margin" if one.can_show is None else _limit(one.can_show, one)
    if one.items_needed is not None and one.items_needed > items:
        more = f"{_limit(one.limit, one)} needs about {rounded_items(one.items_needed)}"
    elif one.items_needed is None:
        more = f"more items alone cannot show {_limit(one.limit, one)}: the trainings vary too much, so add seeds"
    elif one.items_as_measured is not None and one.items_as_measured <= items:
        more = f"it is shown before the correction over {one.family} questions, so ask fewer, or add items"
    elif one.items_as_measured is not None:
        more = f"what was measured is so close to the margin that it takes about {rounded_items(one.items_as_measured)}"
    else:
        more = "what was measured is too close to the margin for any number of items, so add seeds"
    return f"If nothing differs, {items:,} items can show {can}; {more}"


def _limit(limit: float, one: Judged) -> str:
    if one.base_name:
        return f"{_share(limit, max(0, decimals_of(abs(1 - limit) or 1.0, 1) - 2))} kept"
    return f"a margin of {_amount(abs(limit), one)}"


def _amount(value: float, one: Judged) -> str:
    scale, unit = _scale(one)
    size = format_significant(scale * value, 2)
    return f"{size} {unit.removesuffix('s') if size == '1' else unit}"


def _scale(one: Judged) -> tuple[float, str]:
    unit = one.comparison.unit
    return (POINTS[unit], "points") if unit in POINTS else (1.0, unit)


def _share_decimals(one: Judged) -> int:
    ends = [end for end in (one.low, one.high) if math.isfinite(end)]
    spread = 100 * (max(ends) - min(ends)) if len(ends) == 2 else 100.0
    return min(2, decimals_of(spread / 4 or 1.0, 1))


def _share(value: float, decimals: int) -> str:
    return format_share(value, decimals) if math.isfinite(value) else "any share"


def _signed(value: float, decimals: int) -> str:
    return format_number(value, decimals, signed=True)


def rounded_items(items: int) -> str:
    """A count of items with three significant digits: it is an estimate."""
    digits = max(0, len(str(items)) - 3)
    return f"{math.ceil(items / 10**digits) * 10**digits:,} items"
