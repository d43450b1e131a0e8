"""Figures as SVG: one that takes the page's colours and font, and one that is a file of its own."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

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


def svg_element(plot: Plot) -> str:
    """The plot as an svg element of a page."""
    return ElementTree.tostring(_tree(plot), encoding="unicode")


def svg_file(plot: Plot) -> str:
    """The plot as a file of its own, with its colours, light or dark as the reader's system is."""
    root = _tree(plot)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    dark = " ".join(f"--{name}: {colour};" for name, (_, colour) in COLOURS.items())
    style = ElementTree.Element("style")
    style.text = (ASSETS / "plots.css").read_text(encoding="utf-8")
    style.text += f"@media (prefers-color-scheme: dark) {{ svg.plot:root {{ {dark} }} }}\n"
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _tree(plot: Plot) -> ElementTree.Element:
    """What matplotlib wrote, with the page's variables as colours, the page's font, and tooltips.

    Ids are left out except where something refers to them; these are the plot's own.
    """
    text = _written(plot.figure, plot.name)
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
    root = ElementTree.fromstring(text)
    root.remove(root[0])  # a style for every element, of the whole page as well; plots.css has its own
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
    """The same bytes for the same figure: no date, ids that depend on the salt alone."""
    import matplotlib

    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with plot_style(), matplotlib.rc_context({"svg.hashsalt": salt}), io.StringIO() as file:
        figure.savefig(file, format="svg", metadata=nothing)
        return file.getvalue()


def _variable(found: re.Match[str]) -> str:
    name = _NAMES.get(found[0])
    return f"var(--{name}, {found[0]})" if name else found[0]
