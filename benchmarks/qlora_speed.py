"""Speed and memory of LoRA steps over a base in few bits: tunelab's formats, beside them bf16, every weight trained,
and Trainer + PEFT over bitsandbytes as users run it; the same shape, adapter, rows and order, alternated.

Usage: python benchmarks/qlora_speed.py [--shapes 82M 135M | 7B] [--rows 96] [--repeats 2] [--device cpu|cuda]
Writes benchmarks/results/DATE-qlora-speed[-cuda].{json,md}. On a GPU the shape is a random Llama of 7B.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

from measuring import heading, machine, matmul_rates, median, spread, with_earlier_shapes, write_results
from shapes import SHAPES
from train_contenders import OVER_FEW_BITS, RANK, ROWS_PER_STEP
from train_speed import measure, prepare

NAMES = ["tunelab bf16", *OVER_FEW_BITS]


def summary(name: str, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """One row a contender: medians over the repeats."""
    rows = []
    for contender, results in found.items():
        done = [result for result in results if "error" not in result]
        if not done:
            rows.append({"contender": contender, "error": results[0]["error"]})
            continue
        speeds = [result["tokens_per_second"] for result in done]
        memory = "gpu_peak_bytes" if done[0].get("gpu_peak_bytes") else "peak_bytes"
        rows.append(
            {
                "contender": contender,
                "tokens_per_second": median(speeds),
                "all": speeds,
                "peak_bytes": max(result[memory] for result in done),
                "losses": done[0]["losses"],
            }
        )
    return {"shape": name, "contenders": rows}


def page(summaries: list[dict[str, Any]], information: dict[str, Any], rates: dict[str, float], command: str) -> str:
    """The results as Markdown."""
    lines = heading("LoRA over a base in few bits", command, information, rates)
    lines += [
        f"LoRA of rank {RANK} on all linear layers, {ROWS_PER_STEP} Alpaca rows a step, answers learned, bf16 compute. "
        "Real tokens/s, median of the repeats (lowest to highest in brackets); peak memory of the process, on a GPU "
        "of what torch allocated. bitsandbytes' own modules train on a CPU only while nothing evaluates in between.",
        "",
    ]
    for one in summaries:
        lines += [
            f"## {one['shape']} (`--rows {one['rows']} --repeats {one['repeats']}`)",
            "",
            "| contender | tokens/s | against tunelab bf16 | peak memory | first loss | last loss |",
            "|---|---|---|---|---|---|",
        ]
        fastest = next((row["tokens_per_second"] for row in one["contenders"] if "error" not in row), 0.0)
        for row in one["contenders"]:
            if "error" in row:
                lines.append(f"| {row['contender']} | failed: {row['error'][:120]} | | | | |")
                continue
            speed = spread(row["all"])
            ratio = f"{row['tokens_per_second'] / fastest:.2f}x"
            losses = f"{row['losses'][0]:.4f} | {row['losses'][-1]:.4f}"
            lines.append(f"| {row['contender']} | {speed} | {ratio} | {row['peak_bytes'] / 2**30:.2f} GiB | {losses} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    device = arguments.device
    suffix = "" if device == "cpu" else "-cuda"
    rates, information = matmul_rates(device), machine(device)
    text = ""
    for name in arguments.shapes or (["82M", "135M"] if device == "cpu" else ["7B"]):
        with tempfile.TemporaryDirectory() as folder:
            job = prepare(SHAPES[name], arguments.data, arguments.rows, device, 4096, Path(folder))
            found = measure(SHAPES[name], job, arguments.contenders, arguments.repeats)
        one = summary(name, found) | {"rows": arguments.rows, "repeats": arguments.repeats}
        summaries = with_earlier_shapes(f"qlora-speed{suffix}", information, [one])
        command = "python benchmarks/qlora_speed.py" + ("" if device == "cpu" else " --device cuda")
        text = page(summaries, information, rates, command)
        write_results(f"qlora-speed{suffix}", {"machine": information, "shapes": summaries}, text)
    print(text)


if __name__ == "__main__":
    main()
