"""Generation speed of tunelab's engine and transformers' generate, on the same prompts and batch size, alternated.

64 Alpaca prompts, greedy; row i's answer ends after a length drawn from 8 to 128, as if the model had ended it there.
Counted are the tokens that are wanted: what a static batch makes after a row's end is waste.

Usage: python benchmarks/generate_speed.py [--shapes 15M 82M 135M] [--batch 16] [--repeats 3] [--device cpu|cuda]
Writes benchmarks/results/DATE-generate-speed[-cuda].{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

from generate_contenders import CONTENDERS
from measuring import heading, machine, matmul_rates, median, run_contender, spread, with_earlier_shapes, write_results
from shapes import SHAPES, Shape, alpaca_rows, load_tokenizer, save_model

BASELINE = {"fp32": "generate fp32", "bf16": "generate bf16"}


def prepare(shape: Shape, data: Path, count: int, batch: int, device: str, folder: Path) -> Path:
    """Model and prompts as files, and the job that names them."""
    model = folder / "model"
    save_model(shape, model)
    load_tokenizer(shape, data, folder / "scratch").save_pretrained(model)
    lengths = random.Random(0)
    with open(folder / "prompts.jsonl", "w", encoding="utf-8") as file:
        for row in alpaca_rows(model, data, count):
            prompt = row["input_ids"][: row["answer_mask"].index(1)]
            file.write(json.dumps({"input_ids": prompt, "length": lengths.randint(8, 128)}) + "\n")
    job = {"model": str(model), "prompts": str(folder / "prompts.jsonl"), "batch": batch, "device": device}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder / "job.json"


def measure(shape: Shape, job: Path, names: list[str], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Every contender once, then again, as often as told."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names:
            result = run_contender("generate_contenders.py", name, job, job.with_name("out.json"))
            found[name].append(result)
            shown = result.get("error") or f"{result['tokens_per_second']:,.0f} tokens/s"
            print(f"{shape.name} {turn + 1}/{repeats} {name}: {shown}", file=sys.stderr, flush=True)
    return found


def summary(shape: Shape, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """One row a contender: medians over the repeats, and how many answers equal those of generate."""
    rows = []
    for name, results in found.items():
        done = [result for result in results if "error" not in result]
        if not done:
            rows.append({"contender": name, "error": results[0]["error"]})
            continue
        baseline = found.get(BASELINE["bf16" if "bf16" in name else "fp32"], [{}])[0].get("answers")
        equal = None
        if baseline is not None:
            equal = sum(a == b for a, b in zip(done[0]["answers"], baseline, strict=True))
        speeds = [result["tokens_per_second"] for result in done]
        peak = max(result["peak_bytes"] for result in done)
        rows.append(
            {"contender": name, "tokens_per_second": median(speeds), "all": speeds, "peak_bytes": peak, "equal": equal}
        )
    return {"shape": shape.name, "contenders": rows}


def page(summaries: list[dict[str, Any]], information: dict[str, Any], rates: dict[str, float], command: str) -> str:
    """The results as Markdown."""
    lines = heading("Generation speed", command, information, rates)
    lines += [
        "64 Alpaca prompts, greedy, answers of 8 to 128 tokens (mean 68); wanted tokens/s, median of the repeats "
        "(lowest to highest in brackets), one process each, alternated. Equal: answers that are, token for token, "
        "those of `generate` at the same precision. The oracle knows every answer's length beforehand.",
        "",
    ]
    for one in summaries:
        speeds = {row["contender"]: row.get("tokens_per_second") for row in one["contenders"]}
        lines += [
            f"## {one['shape']} (`--repeats {one['repeats']}`)",
            "",
            "| contender | wanted tokens/s | against generate at the same precision | peak memory | equal answers |",
            "|---|---|---|---|---|",
        ]
        for row in one["contenders"]:
            if "error" in row:
                lines.append(f"| {row['contender']} | failed: {row['error'][:120]} | | | |")
                continue
            baseline = speeds.get(BASELINE["bf16" if "bf16" in row["contender"] else "fp32"])
            ratio = f"{row['tokens_per_second'] / baseline:.2f}x" if baseline else ""
            speed = spread(row["all"])
            lines.append(
                f"| {row['contender']} | {speed} "
                f"| {ratio} | {row['peak_bytes'] / 2**30:.2f} GiB | {'' if row['equal'] is None else row['equal']} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = arguments.device
    shapes = arguments.shapes or (["15M", "82M", "135M"] if device == "cpu" else ["135M", "1B", "8B"])
    names = arguments.contenders or list(CONTENDERS)
    rates, information = matmul_rates(device), machine(device)
    text = ""
    for name in shapes:
        with tempfile.TemporaryDirectory() as folder:
            job = prepare(SHAPES[name], arguments.data, 64, arguments.batch, device, Path(folder))
            one = summary(SHAPES[name], measure(SHAPES[name], job, names, arguments.repeats))
        one |= {"shape": f"{name}, batch {arguments.batch}", "repeats": arguments.repeats}
        result_name = f"generate-speed{'' if device == 'cpu' else '-cuda'}"
        summaries = with_earlier_shapes(result_name, information, [one])
        command = "python benchmarks/generate_speed.py" + ("" if device == "cpu" else " --device cuda")
        text = page(summaries, information, rates, command)
        write_results(result_name, {"machine": information, "matmul_rates": rates, "shapes": summaries}, text)
    print(text)


if __name__ == "__main__":
    main()
