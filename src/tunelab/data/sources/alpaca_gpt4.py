"""Alpaca's instructions answered by GPT-4: 52,002 rows.

Source: Peng et al., Instruction Tuning with GPT-4 (2023, arXiv 2304.03277), vicgalle/alpaca-gpt4 on the hub. Rows are
read as those of `alpaca` are. No commit is pinned, because none could be verified: the newest is read, and the
fingerprint of what was read is that of its rows.
"""

from __future__ import annotations

from tunelab.data.sources._instruction import ALPACA_COLUMNS, ALPACA_EXAMPLE, alpaca_examples
from tunelab.data.sources._source import HubDataset, SourceOptions

LICENCE = "CC BY-NC 4.0"
HUB = HubDataset("vicgalle/alpaca-gpt4", None, LICENCE)
COLUMNS = ALPACA_COLUMNS
EXAMPLE = ALPACA_EXAMPLE


class Options(SourceOptions):
    """None."""


examples = alpaca_examples
