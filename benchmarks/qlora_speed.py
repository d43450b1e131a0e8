"""Speed and memory of LoRA steps over a base in few bits: tunelab's formats, beside them bf16, every weight trained,
and Trainer + PEFT over bitsandbytes as users run it; the same shape, adapter, rows and order, alternated.

Usage: python benchmarks/qlora_speed.py [--shapes 82M 135M | 7B] [--rows 96] [--repeats 2] [--device cpu|cuda]
Writes benchmarks/results/DATE-qlora-speed[-cuda].{json,md}. On a GPU the shape is a random Llama of 7B.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

from measuring import (
    Found,
    contender_rows,
    heading,
    machine,
    matmul_rates,
    measure_shapes,
    median,
    speed_parser,
    spread,
    table,
)
from shapes import SHAPES
from train_contenders import BATCH_SIZE, OVER_FEW_BITS, RANK
from train_speed import measure, prepare

NAMES = ["tunelab bf16", *OVER_FEW_BITS]
COLUMNS = ("contender", "tokens/s", "against tunelab bf16", "peak memory", "first loss", "last loss")


def summary(shape: str, found: Found) -> dict[str, Any]:
    """One row a contender: medians over the repeats."""

    def row(name: str, done: list[dict[str, Any]]) -> dict[str, Any]:
        speeds = [result["tokens_per_second"] for result in done]
        memory = "gpu_peak_bytes" if done[0].get("gpu_peak_bytes") else "peak_bytes"
        peak = max(result[memory] for result in done)
        return {"tokens_per_second": median(speeds), "all": speeds, "peak_bytes": peak, "losses": done[0]["losses"]}

    return {"shape": shape, "contenders": contender_rows(found, row)}


def cells(row: dict[str, Any], fastest: float) -> list[str]:
    ratio = f"{row['tokens_per_second'] / fastest:.2f}x"
    losses = [f"{row['losses'][place]:.4f}" for place in (0, -1)]
    return [spread(row["all"]), ratio, f"{row['peak_bytes'] / 2**30:.2f} GiB", *losses]


def page(summaries: list[dict[str, Any]], information: dict[str, Any], rates: dict[str, float], command: str) -> str:
    """The results as Markdown."""
    lines = heading("LoRA over a base in few bits", command, information, rates)
    lines += [
        f"LoRA of rank {RANK} on all linear layers, {BATCH_SIZE} Alpaca rows a step, answers learned, bf16 compute. "
        "Real tokens/s, median of the repeats (lowest to highest in brackets); peak memory of the process, on a GPU "
        "of what torch allocated. bitsandbytes' own modules train on a CPU only while nothing evaluates in between.",
        "",
    ]
    for one in summaries:
        lines += [f"## {one['shape']} (`--rows {one['rows']} --repeats {one['repeats']}`)", ""]
        fastest = next((row["tokens_per_second"] for row in one["contenders"] if "error" not in row), 0.0)
        lines += table(COLUMNS, one["contenders"], partial(cells, fastest=fastest))
    return "\n".join(lines)


def main() -> None:
    parser = speed_parser(__doc__, SHAPES, NAMES, repeats=2)
    parser.add_argument("--rows", type=int, default=96)
    arguments = parser.parse_args()
    device = arguments.device
    rates, information = matmul_rates(device), machine(device)

    def measured(name: str, folder: Path) -> dict[str, Any]:
        job = prepare(SHAPES[name], arguments.data, arguments.rows, device, 4096, folder)
        found = measure(SHAPES[name], job, arguments.contenders, arguments.repeats)
        return summary(name, found) | {"rows": arguments.rows, "repeats": arguments.repeats}

    measure_shapes(
        "qlora-speed",
        device,
        arguments.shapes or (["82M", "135M"] if device == "cpu" else ["7B"]),
        measured,
        lambda summaries, command: page(summaries, information, rates, command),
        {"machine": information},
    )


if __name__ == "__main__":
    main()
