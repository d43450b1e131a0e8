"""Alpaca: 52,002 instructions answered by text-davinci-003; also any file with columns instruction, input, output.

Source: Taori et al., Stanford Alpaca (2023), tatsu-lab/alpaca on the hub. `input` is optional: no such column, null,
"", "<noinput>" and its misspellings in the data all mean that there is none. LLaMA-Factory's columns `system` and
`history` (earlier turns) are read. The column `text` of the hub (the same row, already in Alpaca's template) is not.
"""

from __future__ import annotations

from tunelab.data.sources._instruction import ALPACA_COLUMNS, ALPACA_EXAMPLE, alpaca_examples
from tunelab.data.sources._source import HubDataset, SourceOptions

LICENCE = "CC BY-NC 4.0"
HUB = HubDataset("tatsu-lab/alpaca", "dce01c9b08f87459cf36a430d809084718273017", LICENCE)
COLUMNS = ALPACA_COLUMNS
EXAMPLE = ALPACA_EXAMPLE


class Options(SourceOptions):
    """None."""


examples = alpaca_examples
