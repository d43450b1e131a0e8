"""Ways of fine-tuning by the names that people know them by, each as an arm of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Method:
    """A way of fine-tuning, as an arm of a study.

    Args:
        recipe: the keys in which it differs from LoRA.
        what: it in words.
    """

    recipe: dict[str, Any]
    what: str


METHODS = {
    "full": Method({"method": "full"}, "full fine-tuning: all weights are trained; the most memory"),
    "lora": Method({}, "LoRA: low-rank adapters on all linear layers of the frozen base"),
    "rslora": Method({"adapter": {"use_rslora": True}}, "LoRA scaled by alpha / sqrt(rank)"),
    "dora": Method({"adapter": {"use_dora": True}}, "LoRA that trains directions and magnitudes; slower"),
    "pissa": Method({"adapter": {"init": "pissa"}}, "LoRA that begins with the principal parts of the weights"),
    "loraplus": Method({"train": {"loraplus_lr_ratio": 16}}, "LoRA whose B matrices learn 16 times as fast as A"),
    "qlora": Method({"precision": "nf4"}, "LoRA over a base in 4 bits (NF4): the least memory"),
    "nf4": Method({"precision": "nf4"}, "LoRA over a base in 4 bits (NF4)"),
    "loftq": Method({"precision": "nf4", "adapter": {"init": "loftq"}}, "QLoRA that begins at the rounding error"),
    "fp4": Method({"precision": "fp4"}, "LoRA over a base in 4 bits (FP4)"),
    "mxfp4": Method({"precision": "mxfp4"}, "LoRA over a base in 4 bits (MXFP4)"),
    "int8": Method({"precision": "int8"}, "LoRA over a base in 8 bits"),
}

#: Compared if nothing is named.
DEFAULT_METHODS = ("full", "lora", "qlora")
