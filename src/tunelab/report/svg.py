"""Figures as SVG: for the page, with its colors and font, or as a standalone file."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from tunelab.report.drawing import COLOURS, TOOLTIP, Plot, plot_style
from tunelab.report.labels import possible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASSETS = Path(__file__).parents[1] / "assets" / "report"

_NAMES = {light: name for name, (light, _) in COLOURS.items()}
_NAMESPACE = re.compile(r"\{.*\}")
_XLINK = "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FONT = re.compile(r"font: ([\d.]+px)[^;]*|font-size: ([\d.]+px); font-family:[^;]*")  # matplotlib 3.10, 3.11


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plot as a page shows it: its texts, and its svg element."""

    name: str
    title: str
    caption: str
    svg: Markup


def drawn(plot: Plot) -> Drawn:
    """The plot for a page."""
    return Drawn(plot.name, plot.title, plot.caption, Markup(svg_element(plot)))


def svg_element(plot: Plot) -> str:
    """The plot as an svg element for a page."""
    return ElementTree.tostring(_tree(plot), encoding="unicode")


def svg_file(plot: Plot) -> str:
    """The plot as a standalone file, in light or dark colors following the reader's system."""
    root = _tree(plot)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    dark = " ".join(f"--{name}: {colour};" for name, (_, colour) in COLOURS.items())
    style = ElementTree.Element("style")
    style.text = (ASSETS / "plots.css").read_text(encoding="utf-8")
    style.text += f"@media (prefers-color-scheme: dark) {{ svg.plot:root {{ {dark} }} }}\n"
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _tree(plot: Plot) -> ElementTree.Element:
    """matplotlib's SVG with the page's color variables and font, and with tooltips.

    Ids are removed unless something refers to them; these are unique to the plot.
    """
    text = _written(plot.figure, plot.name)
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
    root = ElementTree.fromstring(text)
    root.remove(root[0])  # a global style that would apply to the whole page; plots.css has its own
    for node in root.iter():
        node.tag = _NAMESPACE.sub("", node.tag)
        identity = node.get("id", "")
        if identity not in used:
            node.attrib.pop("id", None)
        if identity.startswith(TOOLTIP):
            title = ElementTree.Element("title")
            title.text = identity.removeprefix(TOOLTIP)
            node.insert(0, title)
        if style := node.get("style"):
            node.set("style", _COLOUR.sub(_variable, _FONT.sub(r"font-size: \1\2", style)))
        if reference := node.attrib.pop(_XLINK, None):
            node.set("href", reference)
    root.attrib = {"class": "plot", "viewBox": root.get("viewBox", ""), "role": "img"}
    root.set("aria-label", possible(plot.words))
    return root


def _written(figure: Figure, salt: str) -> str:
    """Deterministic SVG: no date, ids that depend only on the salt."""
    import matplotlib

    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with plot_style(), matplotlib.rc_context({"svg.hashsalt": salt}), io.StringIO() as file:
        figure.savefig(file, format="svg", metadata=nothing)
        return file.getvalue()


def _variable(found: re.Match[str]) -> str:
    name = _NAMES.get(found[0])
    return f"var(--{name}, {found[0]})" if name else found[0]
