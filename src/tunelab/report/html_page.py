"""A study report as one self-contained HTML file: no network, no libraries, under 3 MB.

The markup is in the templates in assets/report, which escape all texts.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any

import jinja2
from markupsafe import Markup

from tunelab.cpu import collecting_rarely
from tunelab.errors import DataError
from tunelab.report.budgets import NAME as BUDGETS
from tunelab.report.budgets import budgets_table, equal_cost_table
from tunelab.report.content import Flip, StudyReport
from tunelab.report.drawing import COLOURS
from tunelab.report.excerpt import excerpt
from tunelab.report.forgetting import LEARNING, forgetting_table
from tunelab.report.labels import possible
from tunelab.report.plots import plots_in_turn
from tunelab.report.rates import NAME as RATES
from tunelab.report.study_tables import (
    Column,
    all_scores_table,
    arms_tables,
    comparisons_table,
    differences_table,
    published_table,
    rates_table,
    unfinished_arms,
)
from tunelab.report.svg import ASSETS, drawn
from tunelab.units import format_moment, format_sentence

#: Maximum size of the page in bytes.
PAGE_BYTES = 3_000_000

#: How many arms and trainings the page shows at most: the first of these with which it fits.
SHARES = ((100, 500), (100, 200), (50, 100), (24, 48), (12, 24), (6, 12))

# Longer provenance values are cut on the page; the stored report has them in full.
_PROVENANCE_CHARACTERS = 20_000

# A space where a line break would separate a number from its unit.
_KEPT_SPACE = re.compile(r"(?<=\d) (?=%|[KMG]iB\b|points?\b)|(?<=\bp) (?=[<=] \d)|(?<=\bp [<=]) (?=\d)")

# A hyphen used as a minus: before a digit and not inside a word or range.
_MINUS = re.compile(r"(?<![\w.-])-(?=[\d.])")

_SUMMARY = 140  # characters of the question shown while a flip is collapsed


@collecting_rarely()
def html_page(report: StudyReport, most_bytes: int = PAGE_BYTES) -> str:
    """The whole page. Of many arms or trainings it shows as many as fit; flips fill the remaining size. It says what is
    left out.

    Raises:
        DataError: the page of a few arms without flips is already larger than `most_bytes`.
    """
    excerpts: list[tuple[StudyReport, str]] = []
    for arms, trainings in SHARES:
        part, left_out = excerpt(report, arms, trainings)
        if not excerpts or left_out or len(part.arms) < len(report.arms):  # else it is the same as before
            excerpts.append((part, left_out))
    for number, (part, left_out) in enumerate(excerpts, 1):
        parts = _parts(part, most_bytes if number < len(excerpts) else math.inf)
        if not parts:
            continue
        used = len(_document(part, left_out, parts).encode())
        if used < most_bytes:
            break
    else:
        sizes = ", ".join(f"{name} {len(one.encode()):,}" for name, one in parts.items() if one)
        raise DataError(
            f"the page needs {used:,} bytes without flips, more than {most_bytes:,}: {sizes}",
            "use fewer arms or a shorter provenance",
        )
    write: Any = templates().get_template("sections.html").module
    flips = [write.flip(flip) for flip in part.flips]
    # The list's own markup grows by a few bytes with flips.
    kept = _that_fit(part.flips, [len(one.encode()) for one in flips], max(0, most_bytes - used - 200))
    parts["flips"] = write.flips(part, [flips[place] for place in kept])
    return _document(part, left_out, parts)


def _parts(report: StudyReport, most_bytes: float) -> dict[str, Markup]:
    """The sections of the page, without flips in their list, in the order of their titles; {} where those that are
    made are larger than `most_bytes` before the last plot is drawn: drawing takes nearly all of the time."""
    write: Any = templates().get_template("sections.html").module
    parts: dict[str, Markup] = {
        "arms": write.arms(report),
        "comparisons": write.comparisons(report),
        "flips": write.flips(report, []),
        "data-checks": write.data_checks(report),
        "caveats": write.caveats(report),
        "provenance": write.provenance(report),
    }
    size, plots = sum(len(part.encode()) for part in parts.values()), []
    for plot in plots_in_turn(report):
        if size >= most_bytes:
            return {}
        plots.append(drawn(plot))
        size += len(plots[-1].svg.encode())
    lead = next((plot for plot in plots if plot.name.startswith("differences")), None)
    learning = next((plot for plot in plots if plot.name == LEARNING), None)
    rates = next((plot for plot in plots if plot.name == RATES), None)
    budgets = [plot for plot in plots if plot.name.startswith(f"{BUDGETS}-")]
    parts |= {
        "answers": write.answers(report, lead),
        "budgets": write.budgets(report, budgets),
        "forgetting": write.forgetting(report, learning),
        "rates": write.rates(report, rates),
        "plots": write.plots([plot for plot in plots if plot not in (lead, learning, rates, *budgets)]),
    }
    return {name: parts[name] for name in write.titles}


def _document(report: StudyReport, left_out: str, parts: dict[str, Markup]) -> str:
    style = (ASSETS / "page.css").read_text(encoding="utf-8") + (ASSETS / "plots.css").read_text(encoding="utf-8")
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    return (
        templates()
        .get_template("page.html")
        .render(
            report=report,
            left_out=left_out,
            sections={name: part for name, part in parts.items() if part},
            colours=COLOURS,
            style=Markup(style),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


@cache
def templates() -> jinja2.Environment:
    """The templates in assets/report, which escape all texts."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        finalize=lambda value: possible(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = (all_scores_table, comparisons_table, differences_table, published_table, forgetting_table, rates_table)
    of_budgets = (budgets_table, equal_cost_table)
    functions = (arms_tables, *tables, *of_budgets, unfinished_arms)
    environment.globals |= {function.__name__: function for function in functions}
    environment.filters |= {
        "beginning": _beginning,
        "column_class": _column_class,
        "cut": _cut,
        "group_spans": _group_spans,
        "moment": format_moment,
        "sentence": format_sentence,
        "minus": lambda text, column: _MINUS.sub("−", text) if column.is_number else text,
        "pair": lambda flip: f"{flip.a} → {flip.b}",
        "as_sentence": lambda text: _MINUS.sub("−", _KEPT_SPACE.sub("\u00a0", text)),
    }
    return environment


def _group_spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Group names and the number of columns each spans; [] if there are fewer than two groups."""
    if len({column.group for column in columns} - {""}) < 2:
        return []
    return [(name, len(list(members))) for name, members in groupby(columns, key=lambda column: column.group)]


def _column_class(columns: Sequence[Column], place: int) -> str | None:
    starts = place > 0 and columns[place].group != columns[place - 1].group
    kinds = (("number", columns[place].is_number), ("first", starts))
    return " ".join(name for name, holds in kinds if holds) or None


def _beginning(question: str) -> str:
    words = " ".join(question.split())
    return words if len(words) <= _SUMMARY else words[: _SUMMARY - 1] + "…"


def _cut(value: str) -> str:
    if len(value) <= _PROVENANCE_CHARACTERS:
        return value
    left_out = len(value) - _PROVENANCE_CHARACTERS
    return f"{value[:_PROVENANCE_CHARACTERS]}\n… {left_out:,} more characters are in the stored report"


def _that_fit(flips: Sequence[Flip], sizes: Sequence[int], room: int) -> list[int]:
    """Indices of the flips to keep, in order: round-robin over arms, benchmark and kind."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, flip in enumerate(flips):
        groups.setdefault((flip.a, flip.b, flip.benchmark, flip.kind), []).append(place)
    turns = sorted((turn, place) for places in groups.values() for turn, place in enumerate(places))
    kept = []
    for _, place in turns:
        if sizes[place] <= room:
            room -= sizes[place]
            kept.append(place)
    return sorted(kept)
