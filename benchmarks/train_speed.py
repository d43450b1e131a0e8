"""LoRA training speed of tunelab, transformers' Trainer with PEFT, and TRL, on the same rows, alternated.

Each contender trains the same adapter on the same model and rows, in a process of its own, one after the other, as
often as --repeats says; the first step of each warms up. "As shipped" leaves away every setting that a user need not
give; "best" is what each can do on this machine: bf16, rows grouped by length, no activation checkpointing, and the C
library's memory kept (set in the environment; tunelab does that by itself).

Usage: python benchmarks/train_speed.py [--shapes 15M 82M 135M] [--rows 160] [--repeats 3] [--device cpu|cuda]
Writes benchmarks/results/DATE-train-speed[-cuda].{json,md}. Needs the extra "peers" for TRL (it is left out without).
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

from measuring import (
    Found,
    alternate,
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
from shapes import (
    SHAPES,
    USUAL_SHAPES,
    Shape,
    alpaca_rows,
    load_tokenizer,
    read_rows,
    save_model,
    training_work,
    write_rows,
)
from train_contenders import ALPHA, BATCH_SIZE, CONTENDERS, RANK

BEST = tuple(name for name in CONTENDERS if name.endswith("best"))
COLUMNS = (
    "contender",
    "tokens/s",
    "tunelab bf16 is faster by",
    "peak memory",
    "tunelab bf16 needs",
    "useful work",
    "loss differs by",
)


def prepare(shape: Shape, data: Path, rows: int, device: str, micro_batch_tokens: int, folder: Path) -> Path:
    """Model, adapter and rows as files, and the job that names them."""
    import torch

    from tunelab.models.adapters import add_lora
    from tunelab.models.load import load_model

    model = folder / "model"
    save_model(shape, model)
    load_tokenizer(shape, data, folder / "scratch").save_pretrained(model)
    write_rows(alpaca_rows(model, data, rows), folder / "rows.jsonl")
    adapted = add_lora(load_model(str(model), dtype=torch.float32), rank=RANK, alpha=ALPHA, seed=0)
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    job = {
        "model": str(model),
        "tokenizer": str(model),
        "adapter": str(folder / "adapter"),
        "rows": str(folder / "rows.jsonl"),
        "scratch": str(folder / "scratch"),
        "device": device,
        "micro_batch_tokens": micro_batch_tokens,
        "dtype": shape.dtype,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder / "job.json"


def measure(shape: Shape, job: Path, names: list[str], repeats: int) -> Found:
    speed = "{tokens_per_second:,.0f} tokens/s"
    return alternate("train_contenders.py", shape.name, job, names, repeats, speed=speed, malloc=BEST)


def summary(shape: Shape, found: Found, work_per_token: float, rates: dict[str, float]) -> dict[str, Any]:
    """One row a contender: medians over the repeats."""

    def row(name: str, done: list[dict[str, Any]]) -> dict[str, Any]:
        speed = median([result["tokens_per_second"] for result in done])
        precision = "float32" if "fp32" in name or name == "Trainer + PEFT" else "bfloat16"
        reference = found.get("tunelab fp32" if precision == "float32" else "tunelab bf16", [{}])[0].get("losses")
        losses = done[0]["losses"]
        difference = None
        # Packing gives other rows to a step; rows grouped by length come in another order.
        if reference is not None and done[0]["step_tokens"] == found["tunelab bf16"][0].get("step_tokens"):
            difference = max(abs(a - b) for a, b in zip(losses, reference, strict=True))
        return {
            "tokens_per_second": speed,
            "all": [result["tokens_per_second"] for result in done],
            "peak_bytes": max(result["peak_bytes"] for result in done),
            "gpu_peak_bytes": max((result.get("gpu_peak_bytes", 0) for result in done), default=0),
            "share_of_bf16_rate": speed * work_per_token / rates["bfloat16"],
            "loss_difference": difference,
            "losses": losses,
        }

    return {"shape": shape.name, "work_per_token": work_per_token, "contenders": contender_rows(found, row)}


def cells(row: dict[str, Any], fastest: dict[str, Any]) -> list[str]:
    memory = "gpu_peak_bytes" if row["gpu_peak_bytes"] else "peak_bytes"
    return [
        spread(row["all"]),
        f"{fastest['tokens_per_second'] / row['tokens_per_second']:.1f}x",
        f"{row[memory] / 2**30:.2f} GiB",
        f"{fastest[memory] / row[memory]:.0%}",
        f"{row['share_of_bf16_rate']:.0%}",
        "other rows a step" if row["loss_difference"] is None else f"{row['loss_difference']:.1e}",
    ]


def page(summaries: list[dict[str, Any]], information: dict[str, Any], rates: dict[str, float], command: str) -> str:
    """The results as Markdown."""
    lines = heading("LoRA training speed", command, information, rates)
    lines += [
        f"Rank {RANK} on all linear layers, {BATCH_SIZE} Alpaca rows a step (packed by TRL: {BATCH_SIZE} "
        "sequences of 1,024 tokens), answers learned; one process each, alternated, median of the repeats (lowest to "
        "highest in brackets). Tokens are real ones, padding not counted. Useful work: what LoRA needs on these rows, "
        "nothing wasted, as a share of the bf16 matrix-product rate. Loss: largest difference from tunelab at the same "
        "precision in any step, where the steps hold the same rows.",
        "",
    ]
    for one in summaries:
        ours = {row["contender"]: row for row in one["contenders"]}
        lines += [
            f"## {one['shape']}: {one['work_per_token'] / 1e6:.0f} MFLOP of useful work a token",
            "",
            f"`--shapes {one['shape']} --rows {one['rows']} --repeats {one['repeats']}`",
            "",
        ]
        lines += table(COLUMNS, one["contenders"], partial(cells, fastest=ours["tunelab bf16"]))
    return "\n".join(lines)


def main() -> None:
    parser = speed_parser(__doc__, SHAPES, CONTENDERS, repeats=3)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    arguments = parser.parse_args()
    device = arguments.device
    rates, information = matmul_rates(device), machine(device)
    missing = [peer for peer in ("TRL", "Unsloth") if peer.lower() not in information["libraries"]]
    names = [name for name in arguments.contenders if not any(peer in name for peer in missing)]

    def measured(name: str, folder: Path) -> dict[str, Any]:
        shape = SHAPES[name]
        job = prepare(shape, arguments.data, arguments.rows, device, arguments.micro_batch_tokens, folder)
        rows = read_rows(folder / "rows.jsonl")
        work = training_work(shape, rows, RANK) / sum(len(row["input_ids"]) for row in rows)
        found = measure(shape, job, names, arguments.repeats)
        return summary(shape, found, work, rates) | {"rows": arguments.rows, "repeats": arguments.repeats}

    measure_shapes(
        "train-speed",
        device,
        arguments.shapes or USUAL_SHAPES[device],
        measured,
        lambda summaries, command: page(summaries, information, rates, command),
        {"machine": information, "matmul_rates": rates},
    )


if __name__ == "__main__":
    main()
