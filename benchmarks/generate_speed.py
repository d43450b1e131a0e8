"""Generation speed of tunelab's engine and transformers' generate, on the same prompts and batch size, alternated.

64 Alpaca prompts, greedy; row i's answer ends after a length drawn from 8 to 128, as if the model had ended it there.
Counted are the tokens that are wanted: what a static batch makes after a row's end is waste.

With --model, the model in that folder on --prompts prompts, all answers --length tokens long.

Usage: python benchmarks/generate_speed.py [--shapes 15M 82M 135M] [--batch 16] [--repeats 3] [--device cpu|cuda]
           [--model DIR [--prompts 16 --length 64]]
Writes benchmarks/results/DATE-generate-speed[-cuda].{json,md}.
"""

from __future__ import annotations

import json
import os
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

from generate_contenders import CONTENDERS
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
from shapes import SHAPES, USUAL_SHAPES, Shape, alpaca_rows, load_tokenizer, save_model

COLUMNS = ("contender", "wanted tokens/s", "against generate at the same precision", "peak memory", "equal answers")


def baseline(name: str) -> str:
    """transformers' generate at the precision of this contender."""
    return "generate fp32" if "fp32" in name else "generate bf16"


def prepare(shape: Shape, data: Path, count: int, batch: int, device: str, folder: Path) -> Path:
    """Model and prompts as files, and the job that names them."""
    model = folder / "model"
    save_model(shape, model)
    load_tokenizer(shape, data, folder / "scratch").save_pretrained(model)
    lengths = random.Random(0)
    return write_job(model, data, [lengths.randint(8, 128) for _ in range(count)], batch, device, folder)


def write_job(model: Path, data: Path, lengths: list[int], batch: int, device: str, folder: Path) -> Path:
    """A prompt per length, and the job that names them and the model."""
    with open(folder / "prompts.jsonl", "w", encoding="utf-8") as file:
        for row, length in zip(alpaca_rows(model, data, len(lengths)), lengths, strict=True):
            prompt = row["input_ids"][: row["answer_mask"].index(1)]
            file.write(json.dumps({"input_ids": prompt, "length": length}) + "\n")
    job = {"model": str(model), "prompts": str(folder / "prompts.jsonl"), "batch": batch, "device": device}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder / "job.json"


def measure(shape: str, job: Path, names: list[str], repeats: int) -> Found:
    speed = "{tokens_per_second:,.0f} tokens/s"
    return alternate("generate_contenders.py", shape, job, names, repeats, speed=speed)


def summary(shape: str, found: Found) -> dict[str, Any]:
    """One row a contender: medians over the repeats, and how many answers equal those of generate."""

    def row(name: str, done: list[dict[str, Any]]) -> dict[str, Any]:
        reference = found.get(baseline(name), [{}])[0].get("answers")
        equal = None
        if reference is not None:
            equal = sum(a == b for a, b in zip(done[0]["answers"], reference, strict=True))
        speeds = [result["tokens_per_second"] for result in done]
        peak = max(result["peak_bytes"] for result in done)
        return {"tokens_per_second": median(speeds), "all": speeds, "peak_bytes": peak, "equal": equal}

    return {"shape": shape, "contenders": contender_rows(found, row)}


def cells(row: dict[str, Any], speeds: dict[str, float | None]) -> list[str]:
    reference = speeds.get(baseline(row["contender"]))
    return [
        spread(row["all"]),
        f"{row['tokens_per_second'] / reference:.2f}x" if reference else "",
        f"{row['peak_bytes'] / 2**30:.2f} GiB",
        "" if row["equal"] is None else str(row["equal"]),
    ]


def page(
    summaries: list[dict[str, Any]], what: str, information: dict[str, Any], rates: dict[str, float], command: str
) -> str:
    """The results as Markdown."""
    lines = heading("Generation speed", command, information, rates)
    lines += [
        f"{what}; wanted tokens/s, median of the repeats "
        "(lowest to highest in brackets), one process each, alternated. Equal: answers that are, token for token, "
        "those of `generate` at the same precision. The oracle knows every answer's length beforehand.",
        "",
    ]
    for one in summaries:
        speeds = {row["contender"]: row.get("tokens_per_second") for row in one["contenders"]}
        lines += [f"## {one['shape']} (`--repeats {one['repeats']}`)", ""]
        lines += table(COLUMNS, one["contenders"], partial(cells, speeds=speeds))
    return "\n".join(lines)


def main() -> None:
    parser = speed_parser(__doc__, SHAPES, CONTENDERS, repeats=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--model", type=Path, help="a model's folder, instead of --shapes")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    arguments = parser.parse_args()
    device, model = arguments.device, arguments.model
    rates, information = matmul_rates(device), machine(device)
    given = f"python benchmarks/generate_speed.py --model {model.name}" if model else ""
    what = "64 Alpaca prompts, greedy, answers of 8 to 128 tokens (mean 68)"
    if model:
        what = f"{arguments.prompts} Alpaca prompts, greedy, answers of {arguments.length} tokens each"

    def measured(name: str, folder: Path) -> dict[str, Any]:
        if model:
            lengths = [arguments.length] * arguments.prompts
            job = write_job(model.resolve(), arguments.data, lengths, arguments.batch, device, folder)
        else:
            job = prepare(SHAPES[name], arguments.data, 64, arguments.batch, device, folder)
        one = summary(name, measure(name, job, arguments.contenders, arguments.repeats))
        return one | {"shape": f"{name}, batch {arguments.batch}", "repeats": arguments.repeats}

    measure_shapes(
        f"generate-speed-{model.name}" if model else "generate-speed",
        device,
        [model.name] if model else arguments.shapes or USUAL_SHAPES[device],
        measured,
        lambda summaries, command: page(summaries, what, information, rates, given or command),
        {"machine": information, "matmul_rates": rates},
    )


if __name__ == "__main__":
    main()
