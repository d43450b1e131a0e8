"""Tune a small model that ships with tunelab, fully, with LoRA and over 4 bits: no network, no GPU, 2 minutes.

Examples:
  tunelab demo
  tunelab demo --out runs/my-demo
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import print_table, progress_bar, say
from tunelab.report.table import score_rows
from tunelab.units import format_bytes, format_count, format_duration, format_rate

if TYPE_CHECKING:
    from tunelab.workflows.demo import Demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--out."""
    parser.add_argument("--out", metavar="DIR", help="directory of the runs (default: runs/demo-N, the first free)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, show its table, and say what to try next."""
    start = time.monotonic()
    out = Path(arguments.out) if arguments.out else _free_directory()
    say(
        "Fine-tuning a small base model (2.2 M parameters) on about 1,900 instructions, fully, with LoRA, and with\n"
        "LoRA over a base stored in 4 bits (nf4, mxfp4) ..."
    )
    from tunelab.workflows.demo import demo

    with progress_bar() as progress:
        result = demo(out, progress=progress)
    show(result)
    say(f"\nThe whole demo took {format_duration(time.monotonic() - start)}. Next:")
    lora = result.runs["lora"].path
    say(f"  tunelab inspect {lora}/recipe.yaml --rows 2      what the model saw in training")
    say(f"  head -n 3 {lora}/evaluations/tuned-*/responses.jsonl      what it answers now")
    say(f"  tunelab merge {lora} --out {out}/merged      one plain transformers checkpoint")
    say("  tunelab train --model distilgpt2 --data alpaca --size 800 --method lora      the same on a real model")
    return 0


def show(result: Demo) -> None:
    """The table on stdout, and what it says in a sentence an arm on stderr."""
    columns, rows = score_rows(result.arms)
    trained = {name: run.manifest for name, run in result.runs.items()}

    def row(what: str, cells: dict[str, str], unit: str = "") -> list[str]:
        return [what, *(cells.get(arm, "-") for arm in result.arms), unit, ""]

    rows += [
        row("trained parameters", {n: format_count(m["model"]["digest"]["trainable"]) for n, m in trained.items()}),
        row("training time", {n: format_duration(m["trained"]["training_seconds"]) for n, m in trained.items()}),
        row("training speed", {n: format_rate(m["trained"]["tokens_per_second"]) for n, m in trained.items()}),
        row("peak memory", {n: format_bytes(m["peak_resident_bytes"]) for n, m in trained.items()}, "resident"),
    ]
    print_table(columns, rows)
    say(f"± is one standard error over {result.rows} held-out rows that no arm was trained on.")
    for name, gain in result.gains.items():
        if gain.error:
            say(
                f"{name}: the response loss falls by {gain.value:.3f} ± {gain.error:.3f} nats per token against the "
                f"base, {gain.value / gain.error:.0f} times its error (paired over rows)"
            )


def _free_directory() -> Path:
    number = 1
    while (path := Path("runs") / f"demo-{number}").exists():
        number += 1
    return path
