"""LoRA training speed of tunelab, transformers' Trainer with PEFT, and TRL, on the same rows, alternated.

Each contender trains the same adapter on the same model and rows, in a process of its own, one after the other, as
often as --repeats says; the first step of each warms up. "As shipped" leaves away every setting that a user need not
give; "best" is what each can do on this machine: bf16, rows grouped by length, no activation checkpointing, and the C
library's memory kept (set in the environment; tunelab does that by itself).

Usage: python benchmarks/train_speed.py [--shapes 15M 82M 135M] [--rows 160] [--repeats 3] [--device cpu|cuda]
Writes benchmarks/results/DATE-train-speed[-cuda].{json,md}. Needs the extra "peers" for TRL (it is left out without).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

from measuring import heading, machine, matmul_rates, median, run_contender, spread, with_earlier_shapes, write_results
from shapes import SHAPES, Shape, alpaca_rows, load_tokenizer, read_rows, save_model, training_work, write_rows
from train_contenders import ALPHA, CONTENDERS, RANK, ROWS_PER_STEP

BEST = tuple(name for name in CONTENDERS if name.endswith("best"))


def prepare(shape: Shape, data: Path, rows: int, device: str, tokens_per_batch: int, folder: Path) -> Path:
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
        "tokens_per_batch": tokens_per_batch,
        "dtype": shape.dtype,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder / "job.json"


def measure(shape: Shape, job: Path, names: list[str], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Every contender once, then again, as often as told."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names:
            result = run_contender("train_contenders.py", name, job, job.with_name("out.json"), malloc=name in BEST)
            found[name].append(result)
            shown = result.get("error") or f"{result['tokens_per_second']:,.0f} tokens/s"
            print(f"{shape.name} {turn + 1}/{repeats} {name}: {shown}", file=sys.stderr, flush=True)
    return found


def summary(
    shape: Shape, found: dict[str, list[dict[str, Any]]], work_per_token: float, rates: dict[str, float]
) -> Any:
    """One row a contender: medians over the repeats."""
    rows = []
    for name, results in found.items():
        done = [result for result in results if "error" not in result]
        if not done:
            rows.append({"contender": name, "error": results[0]["error"]})
            continue
        speed = median([result["tokens_per_second"] for result in done])
        precision = "float32" if "fp32" in name or name == "Trainer + PEFT" else "bfloat16"
        reference = found.get("tunelab fp32" if precision == "float32" else "tunelab bf16", [{}])[0].get("losses")
        losses = done[0]["losses"]
        # Packing gives other rows to a step; rows grouped by length come in another order.
        same_rows = reference is not None and done[0]["step_tokens"] == found["tunelab bf16"][0].get("step_tokens")
        difference = max(abs(a - b) for a, b in zip(losses, reference, strict=True)) if same_rows else None
        rows.append(
            {
                "contender": name,
                "tokens_per_second": speed,
                "all": [result["tokens_per_second"] for result in done],
                "peak_bytes": max(result["peak_bytes"] for result in done),
                "gpu_peak_bytes": max((result.get("gpu_peak_bytes", 0) for result in done), default=0),
                "share_of_bf16_rate": speed * work_per_token / rates["bfloat16"],
                "loss_difference": difference,
                "losses": losses,
            }
        )
    return {"shape": shape.name, "work_per_token": work_per_token, "contenders": rows}


def page(summaries: list[dict[str, Any]], information: dict[str, Any], rates: dict[str, float], command: str) -> str:
    """The results as Markdown."""
    lines = heading("LoRA training speed", command, information, rates)
    lines += [
        f"Rank {RANK} on all linear layers, {ROWS_PER_STEP} Alpaca rows a step (packed by TRL: {ROWS_PER_STEP} "
        "sequences of 1,024 tokens), answers learned; one process each, alternated, median of the repeats (lowest to "
        "highest in brackets). Tokens are real ones, padding not counted. Useful work: what LoRA needs on these rows, "
        "nothing wasted, as a share of the bf16 matrix-product rate. Loss: largest difference from tunelab at the same "
        "precision in any step, where the steps hold the same rows.",
        "",
    ]
    for one in summaries:
        ours = {row["contender"]: row for row in one["contenders"]}
        fastest = ours["tunelab bf16"]
        lines += [
            f"## {one['shape']}: {one['work_per_token'] / 1e6:.0f} MFLOP of useful work a token",
            "",
            f"`--shapes {one['shape']} --rows {one['rows']} --repeats {one['repeats']}`",
            "",
            "| contender | tokens/s | tunelab bf16 is faster by | peak memory | tunelab bf16 needs | useful work "
            "| loss differs by |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in one["contenders"]:
            if "error" in row:
                lines.append(f"| {row['contender']} | failed: {row['error'][:120]} | | | | | |")
                continue
            memory = "gpu_peak_bytes" if row["gpu_peak_bytes"] else "peak_bytes"
            loss = "other rows a step" if row["loss_difference"] is None else f"{row['loss_difference']:.1e}"
            speed = spread(row["all"])
            lines.append(
                f"| {row['contender']} | {speed} "
                f"| {fastest['tokens_per_second'] / row['tokens_per_second']:.1f}x | {row[memory] / 2**30:.2f} GiB "
                f"| {fastest[memory] / row[memory]:.0%} | {row['share_of_bf16_rate']:.0%} | {loss} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS))
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens-per-batch", type=int, default=4096)
    arguments = parser.parse_args()
    device = arguments.device
    shapes = arguments.shapes or (["15M", "82M", "135M"] if device == "cpu" else ["135M", "1B", "8B"])
    names = arguments.contenders or list(CONTENDERS)
    rates, information = matmul_rates(device), machine(device)
    names = [name for name in names if "TRL" not in name or "trl" in information["libraries"]]
    names = [name for name in names if "Unsloth" not in name or "unsloth" in information["libraries"]]
    text = ""
    for name in shapes:
        with tempfile.TemporaryDirectory() as folder:
            shape = SHAPES[name]
            job = prepare(shape, arguments.data, arguments.rows, device, arguments.tokens_per_batch, Path(folder))
            rows = read_rows(Path(folder) / "rows.jsonl")
            found = measure(shape, job, names, arguments.repeats)
        work = training_work(shape, rows, RANK) / sum(len(row["input_ids"]) for row in rows)
        one = summary(shape, found, work, rates) | {"rows": arguments.rows, "repeats": arguments.repeats}
        command = "python benchmarks/train_speed.py" + ("" if device == "cpu" else " --device cuda")
        suffix = "" if device == "cpu" else "-cuda"
        # After every shape, so that nothing is lost where a later one fails.
        summaries = with_earlier_shapes(f"train-speed{suffix}", information, [one])
        text = page(summaries, information, rates, command)
        results = {"machine": information, "matmul_rates": rates, "shapes": summaries}
        write_results(f"train-speed{suffix}", results, text)
    print(text)


if __name__ == "__main__":
    main()
