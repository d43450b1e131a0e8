"""A study report as one HTML file that needs nothing else: no network, no library, under 3 MB."""

from __future__ import annotations

import base64
import hashlib
import re

from tunelab.errors import DataError
from tunelab.report.content import Question, StudyReport
from tunelab.report.html_flips import flips_section
from tunelab.report.html_parts import definition_list, figure, html_table, paragraph, section
from tunelab.report.markup import Markup, element, join
from tunelab.report.plots import ASSETS, all_plots
from tunelab.report.study_tables import (
    all_scores_table,
    arms_tables,
    comparisons_table,
    differences_table,
    published_table,
    unfinished_arms,
)

#: The page is smaller than this, in bytes.
PAGE_BYTES = 3_000_000

# A value of the provenance beyond this many characters is cut on the page; the stored report holds it whole.
_PROVENANCE_CHARACTERS = 20_000

# A blank that would part a number from its unit at the end of a line.
_UNIT_SPACE = re.compile(r"(?<=\d) (?=%|[KMG]iB\b|points?\b)")

_TITLES = {
    "answers": "Answers",
    "arms": "Arms",
    "comparisons": "Comparisons",
    "plots": "Plots",
    "flips": "Flips",
    "not-proved": "What was not proved",
    "provenance": "Provenance",
}


def html_page(report: StudyReport, most_bytes: int = PAGE_BYTES) -> str:
    """The whole page. Flips take the room that the rest leaves; it says how many were left out.

    Raises:
        DataError: the page without any flip is already larger than `most_bytes`.
    """
    parts = {
        "answers": _answers(report),
        "arms": _arms(report),
        "comparisons": _comparisons(report),
        "plots": _plots(report),
        "flips": flips_section(report, 0) if report.flips else None,
        "not-proved": _not_proved(report),
        "provenance": _provenance(report),
    }
    shown = {name: part for name, part in parts.items() if part is not None}
    used = len(_document(report, shown).encode())
    if used >= most_bytes:
        sizes = ", ".join(f"{name} {len(part.encode()):,}" for name, part in shown.items())
        raise DataError(
            f"the page needs {used:,} bytes without flips, more than {most_bytes:,}: {sizes}",
            "give the report fewer arms or a shorter provenance",
        )
    if report.flips:
        # The list's own words grow by a few bytes where flips are kept.
        shown["flips"] = flips_section(report, max(0, most_bytes - used - 200))
    return _document(report, shown)


def _document(report: StudyReport, parts: dict[str, Markup]) -> str:
    style = (ASSETS / "page.css").read_text(encoding="utf-8") + (ASSETS / "plots.css").read_text(encoding="utf-8")
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The page itself forbids the browser to load anything or to run any other script.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", report.title),
        element("style", Markup(style)),
    )
    skip = element("a", "Skip to the answers", href="#answers", class_="skip")
    main = element("main", *parts.values())
    footer = element("footer", paragraph("Made by tunelab from stored results; nothing on this page is loaded."))
    body = element("body", skip, _header(report, list(parts)), main, footer, element("script", Markup(script)))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(report: StudyReport, names: list[str]) -> Markup:
    links = [element("a", _TITLES[name], href=f"#{name}") for name in names]
    switch = element("button", "Dark", type="button", id="theme", hidden="", aria_label="Switch to dark colours")
    top = element("div", paragraph(f"Report · {report.created}", "created"), switch, class_="top")
    return element("header", top, element("h1", report.title), element("nav", *links, aria_label="Sections"))


def _answers(report: StudyReport) -> Markup:
    if not report.questions:
        return section("answers", _TITLES["answers"], paragraph("This study asks no question: see its arms."))
    return section("answers", _TITLES["answers"], element("div", *map(_answer, report.questions), class_="answers"))


def _answer(one: Question) -> Markup:
    kind = one.verdict.replace(" ", "-")
    head = element("p", one.question, element("span", one.verdict, class_=f"tag {kind}"), class_="question")
    return element("article", head, paragraph(_UNIT_SPACE.sub("\u00a0", one.answer), "answer"), class_=kind)


def _arms(report: StudyReport) -> Markup | None:
    if not report.arms:
        return None
    status = tuple(arm.status for arm in report.arms)
    tables = arms_tables(report)
    titles = [element("h3", table.title) for table in tables] if len(tables) > 1 else [Markup()]
    parts = [join(title, html_table(table, status)) for title, table in zip(titles, tables, strict=True)]
    if report.published:
        parts += [element("h3", "Published and measured"), html_table(published_table(report))]
    if len(report.scores) > sum(score.is_main for score in report.scores):
        summary = element("summary", f"All {len(report.scores)} scores")
        parts.append(element("details", summary, html_table(all_scores_table(report), stacks=False), class_="more"))
    return section("arms", _TITLES["arms"], *parts)


def _comparisons(report: StudyReport) -> Markup | None:
    if not report.comparisons:
        return None
    return section("comparisons", _TITLES["comparisons"], html_table(comparisons_table(report)))


def _plots(report: StudyReport) -> Markup | None:
    figures = [figure(plot) for plot in all_plots(report)]
    return section("plots", _TITLES["plots"], element("div", *figures, class_="figures")) if figures else None


def _not_proved(report: StudyReport) -> Markup | None:
    sentences = (*unfinished_arms(report), *report.not_proved)
    if not sentences and not report.differences:
        return None
    parts = [element("ul", *(element("li", one) for one in sentences))] if sentences else []
    if report.differences:
        parts += [element("h3", "Differences between arms"), html_table(differences_table(report))]
    return section("not-proved", _TITLES["not-proved"], *parts)


def _provenance(report: StudyReport) -> Markup | None:
    if not report.provenance:
        return None
    parts = []
    for name, values in report.provenance.items():
        pairs = [(key, _cut(value)) for key, value in values.items()]
        summary = element("summary", name, element("span", f"{len(pairs)}", class_="quiet"))
        parts.append(element("details", summary, definition_list(pairs), class_="more"))
    return section("provenance", _TITLES["provenance"], join(*parts))


def _cut(value: str) -> str:
    if len(value) <= _PROVENANCE_CHARACTERS:
        return value
    left_out = len(value) - _PROVENANCE_CHARACTERS
    return f"{value[:_PROVENANCE_CHARACTERS]}\n… {left_out:,} more characters are in the stored report"
