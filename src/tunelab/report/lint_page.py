"""What the data checks found as one self-contained HTML page: histograms of lengths, findings with examples."""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup

from tunelab.linting.lint import Histogram, Lint
from tunelab.linting.summary import counted
from tunelab.report.drawing import COLOURS, Plot, new_axes, plot_style, title_above, title_below, use_log_axis
from tunelab.report.html_page import templates
from tunelab.report.svg import ASSETS, drawn
from tunelab.units import format_counted

_BARS = COLOURS["series-1"][0]


def lint_page(found: Lint, title: str) -> str:
    """The whole page.

    Args:
        title: what was checked, say the recipe's file.
    """
    style = (ASSETS / "page.css").read_text(encoding="utf-8") + (ASSETS / "plots.css").read_text(encoding="utf-8")
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    with plot_style():
        plots = [drawn(length_plot(one)) for one in found.lengths]
    return (
        templates()
        .get_template("lint.html")
        .render(
            title=title,
            lint=found,
            counted=counted(found),
            plots=plots,
            colours=COLOURS,
            style=Markup(style),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def length_plot(histogram: Histogram) -> Plot:
    """The rows of each length, on a logarithmic axis."""
    figure, axes = new_axes(190, left=52, right=14, top=24, bottom=40)
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=_BARS, zorder=3)
    axes.grid(axis="y")
    use_log_axis(axes, "x")
    axes.set_xlim(histogram.edges[0], histogram.edges[-1])
    axes.yaxis.set_major_formatter("{x:,.0f}")
    title_above(axes, "rows")
    title_below(axes, f"{histogram.unit} (logarithmic)")
    rows = sum(histogram.counts)
    shortest, longest = round(histogram.edges[0]), round(histogram.edges[-1]) - 1
    caption = f"{format_counted(rows, 'row')}, {shortest:,} to {longest:,} {histogram.unit}."
    title = f"Length of {histogram.name}"
    return Plot(f"lengths-{histogram.name}", title, caption, f"{title}: {caption}", figure)
