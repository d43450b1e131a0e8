"""The story that `tunelab demo` tells: a small base model, tuned fully and with LoRA, also over 4 bits, all measured.

Model and rows ship with the package (docs/demo-assets.md says how they were made), so nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab.evaluation.benchmark import Score
from tunelab.progress import Progress, named, silent
from tunelab.runs import Run
from tunelab.statistics import Estimate
from tunelab.workflows.evaluate import evaluate, response_gain
from tunelab.workflows.finetune import finetune

ASSETS = Path(__file__).resolve().parents[1] / "assets"
BASE, ROWS = ASSETS / "demo_base", ASSETS / "demo_instructions.jsonl"

LORA = {"kind": "lora", "rank": 16, "alpha": 32}

#: What differs between the ways of tuning: learning rates from a few tries by hand, not from a search.
METHODS: dict[str, dict[str, Any]] = {
    "full": {"adapter": "none", "train": {"lr": 1e-3}},
    "lora": {"adapter": LORA, "train": {"lr": 5e-3}},
    "nf4": {"adapter": LORA, "train": {"lr": 5e-3}, "precision": "nf4"},
    "mxfp4": {"adapter": LORA, "train": {"lr": 5e-3}, "precision": "mxfp4"},
}


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Args:
        arms: "base", "full", "lora", "nf4", "mxfp4" (LoRA over a base stored in these) -> scores.
        gains: each way of tuning -> response loss of base less this arm, nats per token, paired over rows.
        runs: each way of tuning -> the run.
        rows: held-out rows that all arms were measured on.
    """

    arms: Mapping[str, list[Score]]
    gains: Mapping[str, Estimate]
    runs: Mapping[str, Run]
    rows: int


def demo_recipe(method: str, out: Path) -> dict[str, Any]:
    """The recipe of one way of tuning."""
    own = METHODS[method]
    return {
        "model": str(BASE),
        "adapter": own["adapter"],
        "precision": own.get("precision", "none"),
        "data": {"sources": [{"name": "alpaca", "path": str(ROWS)}], "held_out": 150, "max_length": 256},
        "train": {"epochs": 1, "rows_per_step": 12, "device": "cpu", "dtype": "fp32", **own["train"]},
        "evaluate": {"max_new_tokens": 32, "batch_tokens": 8192},
        "out": str(out),
    }


def demo(out: Path, *, progress: Progress = silent) -> Demo:
    """Tune the demo's base in every way into directories under `out`, and measure base and results."""
    runs: dict[str, Run] = {}
    arms: dict[str, list[Score]] = {}
    likelihoods = {}
    for method in METHODS:
        runs[method] = finetune(demo_recipe(method, out / method), progress=named(progress, method))
        wanted = ("base", "tuned") if not arms else ("tuned",)
        scores = evaluate(runs[method], arms=wanted, progress=named(progress, method))
        for arm in wanted:
            arms[method if arm == "tuned" else arm] = scores.arms[arm]
            likelihoods[method if arm == "tuned" else arm] = scores.likelihoods[arm]
    gains = {method: response_gain(likelihoods["base"], likelihoods[method]) for method in METHODS}
    return Demo(arms, gains, runs, len(likelihoods["base"]))
