"""Alpaca with 51,760 rows after wrong, empty and merged instructions were repaired or removed.

Source: gururise/AlpacaDataCleaned, yahma/alpaca-cleaned on the hub. Rows are read as those of `alpaca` are. The data
descends from CC BY-NC 4.0 data, and its card has carried both licenses.
"""

from __future__ import annotations

from tunelab.data.sources._instruction import ALPACA_COLUMNS, ALPACA_EXAMPLE, alpaca_examples
from tunelab.data.sources._source import HubDataset, SourceOptions

LICENCE = "CC BY 4.0 (as its card says since 2023; before that CC BY-NC 4.0)"
HUB = HubDataset("yahma/alpaca-cleaned", "12567cabf869d7c92e573c7c783905fc160e9639", LICENCE)
COLUMNS = ALPACA_COLUMNS
EXAMPLE = ALPACA_EXAMPLE


class Options(SourceOptions):
    """None."""


examples = alpaca_examples
