"""Write the table of docs/guides/models.md: every architecture of tests/architectures.py, and how it is computed.

Usage: python scripts/make_models_page.py
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import transformers

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guides" / "models.md"
TABLE = re.compile(r"(<!-- architectures: .*? -->\n).*(<!-- end architectures -->)", re.DOTALL)

sys.path.insert(0, str(ROOT / "tests"))

from architectures import ARCHITECTURES, tiny_architecture  # noqa: E402

from tunelab.models.linear_layers import stacked_weights  # noqa: E402
from tunelab.models.quantized_load import stacks_to_quantize  # noqa: E402
from tunelab.models.structure import row_layout, structure_of  # noqa: E402

#: Rows in words.
ROWS = {"packed": "packed", "padded": "padded", "alone": "one at a time"}


def row(name: str) -> str:
    """One line of the table."""
    model = tiny_architecture(name)
    found = structure_of(model)
    rows = ROWS[row_layout(model)]
    shared = "whole prompts" if found.prefix else "shared prefixes"
    answers = "tunelab's engine"
    if found.cached:
        answers = "`generate`, prompts of equal length" if found.left_padded else "`generate`, padded"
    quantized, stacked = stacks_to_quantize(model), stacked_weights(model)
    experts = "LoRA, quantized" if quantized else "LoRA" if stacked else ""
    kind, _, variant = name.partition("@")
    shown = f"`{kind}`" + (f" ({variant})" if variant else "")
    return f"| {shown} | {type(model).__name__} | {rows} | {shared} | {answers} | {experts} |"


def page() -> str:
    """The guide with its table as the code says it now."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    head = "| model type | class | rows | multiple choice | answers | experts |\n|---|---|---|---|---|---|"
    lines = "\n".join([head, *(row(name) for name in ARCHITECTURES)])
    return TABLE.sub(lambda found: f"{found[1]}\n{lines}\n\n{found[2]}", PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
