"""Figures as SVG: one that takes the page's colours and font, and one that is a file of its own."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tunelab.report.drawing import COLOURS, Plot, plot_style
from tunelab.report.labels import possible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASSETS = Path(__file__).parents[1] / "assets" / "report"

_NAMES = {light: name for name, (light, _) in COLOURS.items()}
_XML_NAME = re.compile(r"\{.*\}")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"font: ([\d.]+px)[^;]*|font-size: ([\d.]+px); font-family:[^;]*")  # matplotlib 3.10, 3.11
_GEOMETRY = ("d", "x", "y", "width", "height", "transform")


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
        node.tag = _XML_NAME.sub("", node.tag)
        for key, value in [(key, node.attrib.pop(key)) for key in list(node.attrib)]:
            _keep(node, _XML_NAME.sub("", key), value, used)
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


def _keep(node: ElementTree.Element, key: str, value: str, used: set[str]) -> None:
    """An attribute of matplotlib's, as the page needs it."""
    if key == "id" and value not in used:
        if value.startswith("title: "):
            title = ElementTree.Element("title")
            title.text = value.removeprefix("title: ")
            node.insert(0, title)
    elif key == "style":
        node.set(key, _COLOUR.sub(_variable, _FONT.sub(r"font-size: \1\2", value)))
    elif key in _GEOMETRY:
        shorter = _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
        if not shorter.startswith("rotate(-0"):
            node.set(key, shorter.replace("\n", ""))
    else:
        node.set(key, value)


def _variable(found: re.Match[str]) -> str:
    name = _NAMES.get(found[0])
    return f"var(--{name}, {found[0]})" if name else found[0]
