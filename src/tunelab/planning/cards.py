"""GPUs by name, and sizes such as 24GB: memory, speed of matrix products, bandwidth.

Memory is what PyTorch reports as total capacity, less than the name says, rounded down. Speed is dense, in 16 bits with
float32 accumulation, from the vendors' data sheets.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from tunelab.errors import UsageError
from tunelab.units import GIB

#: Bytes of the units that a size may have.
_UNITS = {"gb": 1e9, "g": 1e9, "gib": GIB, "gi": GIB}

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(gb|gib|gi|g)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU.

    Args:
        memory: bytes that a process can use at most, the CUDA context included.
        flops: floating-point operations per second; None = unknown (a size without a name).
        bandwidth: bytes per second.
        has_bfloat16: T4 has float16 alone, and no FlashAttention, which packed rows need.
    """

    name: str
    memory: float
    flops: float | None = None
    bandwidth: float | None = None
    has_bfloat16: bool = True


def _card(name: str, gib: float, tflops: float, gigabytes_per_second: float, has_bfloat16: bool = True) -> Card:
    return Card(name, gib * GIB, tflops * 1e12, gigabytes_per_second * 1e9, has_bfloat16)


CARDS = (
    _card("T4", 14.6, 65, 320, False),
    _card("RTX 3060", 11.6, 25.5, 360),
    _card("RTX 3090", 23.6, 71, 936),
    _card("RTX 4090", 23.5, 165.2, 1008),
    _card("RTX 5090", 31.3, 209.6, 1792),
    _card("A10", 21.9, 125, 600),
    _card("A6000", 47.4, 154.8, 768),
    _card("L4", 22.0, 121, 300),
    _card("L40S", 44.4, 362, 864),
    _card("A100 40GB", 39.4, 312, 1555),
    _card("A100 80GB", 79.1, 312, 2000),
    _card("H100", 79.1, 989, 3350),
    _card("H200", 139.7, 989, 4800),
    _card("B200", 178.3, 2250, 8000),
    _card("MI300X", 191.5, 1300, 5300),
)

#: Other names of the same.
_OTHER_NAMES = {"a100": "a10080gb", "rtxa6000": "a6000", "h100sxm": "h100"}


def card_of(text: str) -> Card:
    """The card of this name, or of this size ("24GB": 24 x 10^9 bytes; "24GiB").

    Raises:
        UsageError: it is neither.
    """
    if size := _SIZE.fullmatch(text.strip()):
        return Card(text.strip(), float(size[1]) * _UNITS[size[2].lower()])
    by_name = {_plain(card.name): card for card in CARDS}
    by_name |= {name.removeprefix("rtx"): card for name, card in by_name.items() if name.startswith("rtx")}
    name = _plain(text)
    if found := by_name.get(_OTHER_NAMES.get(name, name)):
        return found
    near = difflib.get_close_matches(name, by_name, n=1)
    hint = f"did you mean {by_name[near[0]].name}? " if near else ""
    raise UsageError(
        f"--gpu {text}: unknown GPU",
        f"{hint}give its memory (24GB), or one of {', '.join(card.name for card in CARDS)}",
    )


def _plain(name: str) -> str:
    """A name as it is compared: "NVIDIA A100-80GB" is "a10080gb"."""
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("nvidia"))
